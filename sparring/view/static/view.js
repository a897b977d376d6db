// Three small things: charts, pages that follow a run, and keys. Without this file every page still reads.
"use strict";

const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3]];

function drawCharts() {
  if (typeof uPlot === "undefined") return;
  const ink = getComputedStyle(document.body).getPropertyValue("--soft");
  const line = getComputedStyle(document.body).getPropertyValue("--line");
  for (const figure of document.querySelectorAll("[data-chart]")) {
    const place = figure.querySelector(".plot");
    if (place.childElementCount) continue;
    const given = JSON.parse(figure.dataset.chart);
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
    const series = given.series.map((label, number) => ({
      label,
      stroke: COLOURS[number % COLOURS.length],
      dash: DASHES[Math.floor(number / COLOURS.length) % DASHES.length],
      width: 2,
      spanGaps: true,
      points: { show: given.rows[0].length < 60 },
      value: (_, value) => (value == null ? "" : value.toPrecision(4)),
    }));
    const size = () => ({ width: Math.max(240, place.clientWidth), height: 240 });
    const plot = new uPlot(
      {
        ...size(),
        scales: { x: { time: false } },
        axes: [{ ...axis, label: given.x, labelSize: 18 }, { ...axis, size: 62 }],
        series: [{ label: given.x }, ...series],
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
