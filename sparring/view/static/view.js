// Three small things: charts, pages that follow a run, and keys. Without this file every page still reads.
"use strict";

// Each at least 3 : 1 against the light paper and the dark.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#c46a9b", "#b87f00", "#7f7f7f"];
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
      points: { show: !bound && given.rows[0].length < 60, size: 6, fill: COLOURS[look % COLOURS.length] },
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
    const watch = new ResizeObserver(() => (plot.root.isConnected ? plot.setSize(size()) : watch.disconnect()));
    watch.observe(place);
  }
}

// A live page asks for itself again and takes over what changed. What the reader opened, focused, scrolled to or
// typed stays, since elements that are still there are kept. Every page notices when its server is gone.
const touched = new WeakSet();  // forms that the reader has changed and not sent

const keep = {
  beforeNodeMorphed(here, fresh) {
    if (!(here instanceof Element)) return true;
    if (here.matches("form")) return !touched.has(here) && !here.contains(document.activeElement);
    if (here.matches(".chart") && here.dataset.chart !== fresh.dataset?.chart) here.querySelector(".plot").replaceChildren();
    return !here.matches(".plot");
  },
  beforeAttributeUpdated: (name, node) => !(name === "open" && node.matches("details")),
};

function takeOver(fresh) {
  for (const part of ["main", "index"])
    Idiomorph.morph(document.getElementById(part), fresh.getElementById(part), { callbacks: keep, ignoreActiveValue: true });
  document.title = fresh.title;
  document.body.toggleAttribute("data-live", fresh.body.hasAttribute("data-live"));
  document.body.dataset.look = fresh.body.dataset.look;
  drawCharts();
}

let seen = "", asOf = new Date().toLocaleTimeString();
async function look() {
  const live = document.body.hasAttribute("data-live");
  const request = live ? [location.href] : ["/static/icon.svg", { method: "HEAD" }];
  const answer = await fetch(...request).catch(() => null);
  const said = !answer ? "The viewer is not running any more"
    : answer.status === 403 ? "The viewer was started again: open the address that it printed"
    : live && !answer.ok ? `The viewer cannot read this any more (${answer.status})` : "";
  const gone = document.getElementById("gone"), text = said && `${said}. This page is as of ${asOf}.`;
  if (gone.textContent !== text) gone.textContent = text;
  if (said) return;
  asOf = new Date().toLocaleTimeString();
  if (!live) return;
  const page = await answer.text();
  if (page !== seen) takeOver(new DOMParser().parseFromString(page, "text/html"));
  seen = page;
}

let waiting;
async function follow() {
  clearTimeout(waiting);
  if (!document.hidden) await look().catch(() => {});  // an answer that breaks off is asked for again
  clearTimeout(waiting);
  waiting = setTimeout(follow, Number(document.body.dataset.look));
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target.closest("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "/") {
    const search = document.querySelector('input[type="search"]');
    if (search) { event.preventDefault(); search.focus(); search.select(); }
  } else if (event.key === "j" || event.key === "k") {
    step(event.key === "j" ? 1 : -1);
  } else if (event.key === "n" || event.key === "p") {
    document.querySelector(`a[rel="${event.key === "n" ? "next" : "prev"}"]`)?.click();
  } else if (event.key === "o") {
    const all = [...document.querySelectorAll("main details")];
    const open = all.some((one) => !one.open);
    for (const one of all) one.open = open;
  }
}

// From the item that has the focus, else from the first that is in sight.
function step(by) {
  const items = [...document.querySelectorAll(".item")];
  const at = items.findIndex((one) => one.contains(document.activeElement));
  const sight = items.findIndex((one) => one.getBoundingClientRect().bottom > 0);
  const next = items[at >= 0 ? at + by : by > 0 ? sight : Math.max(0, sight - 1)];
  next?.focus();
}

function redraw() {
  for (const place of document.querySelectorAll(".plot")) place.replaceChildren();
  drawCharts();
}

document.addEventListener("keydown", keys);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
document.addEventListener("input", (event) => event.target.form && touched.add(event.target.form));
// An address to pass on names the filters that are set, and no others.
document.addEventListener("formdata", ({ formData }) => {
  for (const [name, value] of [...formData]) if (!value) formData.delete(name);
});
drawCharts();
if (document.body.dataset.look) {
  document.addEventListener("visibilitychange", () => document.hidden || follow());
  waiting = setTimeout(follow, Number(document.body.dataset.look));
}
