// Three small things: charts, pages that follow a run, and keys. Without this file every page still reads.
"use strict";

const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3]];

// Ticks of an axis that counts.
const COUNTS = [1, 2, 5].flatMap((digit) => [0, 1, 2, 3, 4, 5, 6].map((power) => digit * 10 ** power)).sort((a, b) => a - b);

const short = (value) => String(Number(value.toPrecision(4)));

// How each line looks: its bounds are thin, dotted, and in its colour.
function lines(given) {
  const bounds = new Map();
  for (const [middle, low, high] of given.bands) bounds.set(low, middle).set(high, middle);
  let places = 0;
  const looks = given.series.map((_, number) => (bounds.has(number) ? null : places++));
  return given.series.map((label, number) => {
    const bound = bounds.has(number);
    const look = looks[bound ? bounds.get(number) : number];
    return {
      label,
      stroke: COLOURS[look % COLOURS.length],
      dash: bound ? [2, 3] : DASHES[Math.floor(look / COLOURS.length) % DASHES.length],
      width: bound ? 1 : 2,
      spanGaps: true,
      points: { show: !bound && given.rows[0].length < 60, size: 6 },
      value: (_, value) => (value == null ? "–" : short(value)),
    };
  });
}

// From the lowest to the highest figure; all of 0 to 1 for shares, some room around figures that are all the same.
function range(share) {
  return (_, low, high) => {
    if (share && low >= 0 && high <= 1) return [-0.02, 1.02];
    if (low == null) return [0, 1];
    const room = high > low ? (high - low) * 0.06 : Math.abs(low) * 0.1 || 1;
    return [low - room, high + room];
  };
}

function drawCharts() {
  if (typeof uPlot === "undefined") return;
  const styles = getComputedStyle(document.body);
  const [ink, line] = ["--soft", "--line"].map((name) => styles.getPropertyValue(name));
  for (const figure of document.querySelectorAll("[data-chart]")) {
    const place = figure.querySelector(".plot");
    if (place.childElementCount) continue;
    const given = JSON.parse(figure.dataset.chart);
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
    const series = lines(given);
    const size = () => ({ width: Math.max(240, place.clientWidth), height: 240 });
    const at = given.rows[0];
    const span = at.length > 1 ? [at[0], at[at.length - 1]] : [at[0] - 1, at[0] + 1];
    const plot = new uPlot(
      {
        ...size(),
        cursor: { drag: { x: false, y: false } },
        scales: { x: { time: false, range: span }, y: { range: range(given.share) } },
        axes: [{ ...axis, label: given.x, labelSize: 18, incrs: COUNTS }, { ...axis, size: 62, values: (_, ticks) => ticks.map(short) }],
        series: [{ label: given.x, value: (_, value) => (value == null ? "–" : value) }, ...series],
        bands: given.bands.map(([middle, low, high]) => ({ series: [high + 1, low + 1], fill: series[middle].stroke + "22" })),
      },
      given.rows,
      place,
    );
    new ResizeObserver(() => plot.setSize(size())).observe(place);
  }
}

// A live page asks for itself again and takes over the parts that changed; what the reader opened stays open.
async function follow() {
  if (document.hidden || document.activeElement?.closest("form")) return;
  const answer = await fetch(location.href, { credentials: "same-origin" }).catch(() => null);
  if (!answer?.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const focused = document.activeElement?.id;
  for (const part of fresh.querySelectorAll("main > [id], main > .two > [id], #transcript > [id], aside > [id], footer")) {
    const here = part.id && document.getElementById(part.id);
    if (!here) {
      const parent = part.parentElement.id && document.getElementById(part.parentElement.id);
      if (parent && parent !== document.getElementById("main")) parent.append(part);
      continue;
    }
    if (part.id === "transcript" || here.dataset.seen === part.outerHTML) continue;
    const seen = part.outerHTML;
    if (here.dataset.seen === undefined && here.outerHTML === seen) continue;
    const open = new Set([...here.querySelectorAll("details[open]")].map((one) => one.id));
    for (const one of part.querySelectorAll("details[id]")) if (open.has(one.id)) one.open = true;
    here.replaceWith(part);
    part.dataset.seen = seen;
  }
  const status = fresh.getElementById("status");
  if (status) document.getElementById("status")?.replaceWith(status);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  drawCharts();
  if (fresh.body.dataset.live) return;
  clearInterval(following);
}

let following;
function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "/") {
    const search = document.querySelector('input[type="search"]');
    if (search) { event.preventDefault(); search.focus(); }
  } else if (event.key === "j" || event.key === "k") {
    const items = [...document.querySelectorAll(".item")];
    const at = items.findIndex((one) => one === document.activeElement || one.contains(document.activeElement));
    const next = items[event.key === "j" ? at + 1 : Math.max(0, at - 1)];
    next?.focus();
    next?.scrollIntoView({ block: "nearest" });
  } else if (event.key === "o") {
    const all = [...document.querySelectorAll("main details")];
    const open = all.some((one) => !one.open);
    for (const one of all) one.open = open;
  }
}

document.addEventListener("keydown", keys);
drawCharts();
if (document.body.dataset.live) following = setInterval(follow, Number(document.body.dataset.live));
