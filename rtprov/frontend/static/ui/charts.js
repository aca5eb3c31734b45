// The charts of the last 60 minutes. Their memory is bounded: one sample every ten seconds.

import uPlot from "/ui/vendor/uplot/uPlot.esm.js";
import { count, make, setText } from "./dom.js";

const SAMPLE_S = 10;
const SAMPLES = 360;
const GAP_S = 35;
const STORED = "rtprov-charts";
const RATES = [
  { name: "Accepted", key: "accepted", dash: [8, 4], colour: "--accepted" },
  { name: "Completed", key: "completed", dash: [], colour: "--completed" },
  { name: "Failed", key: "failed", dash: [2, 3], colour: "--failed" },
];
const LEVELS = [{ name: "Calls under way", key: "calling", dash: [], colour: "--accepted" }];

// Each sample: at (seconds), tasks (all that have not ended), accepted, completed, failed, calling.
let samples = load();
let present = null; // as a sample, but of the latest summary
const plots = [];

function load() {
  try {
    const stored = JSON.parse(sessionStorage.getItem(STORED)) ?? [];
    const first = Date.now() / 1000 - SAMPLES * SAMPLE_S;
    return stored.filter((each) => each.at > first).slice(-SAMPLES);
  } catch {
    return [];
  }
}

/** Show a summary's numbers; take a sample and draw the charts if the last one is old enough. */
export function sample(summary) {
  const at = Date.now() / 1000;
  present = sampleOf(summary, at);
  const last = samples.at(-1);
  if (last !== undefined && at - last.at < SAMPLE_S) {
    showPresent();
    return;
  }
  if (last !== undefined && at - last.at > GAP_S) samples.push({ at: last.at + SAMPLE_S });
  samples = [...samples, present].slice(-SAMPLES);
  try {
    sessionStorage.setItem(STORED, JSON.stringify(samples));
  } catch {
    // Without storage the charts begin anew when the page is loaded again.
  }
  draw();
}

function sampleOf(summary, at) {
  const { waiting, calling, retrying } = summary.tasks;
  const ended = summary.ended.lastMinute;
  const tasks = waiting + calling + retrying;
  const allEnded = ended.completed + ended.failed + ended.not_found + ended.cancelled;
  const away = (each) => Math.abs(at - 60 - each.at);
  const near = samples.filter((each) => each.tasks !== undefined && away(each) <= SAMPLE_S);
  const before = near.reduce((best, each) => (best !== undefined && away(best) <= away(each) ? best : each), undefined);
  return {
    at,
    tasks,
    // What came within the last minute is what there is more than a minute ago, and what has ended.
    accepted: before === undefined ? null : Math.max(0, tasks - before.tasks + allEnded),
    completed: ended.completed,
    failed: ended.failed + ended.not_found,
    calling,
  };
}

function showPresent() {
  if (present === null) return;
  for (const { series, element, legend, title } of plots) {
    series.forEach(({ key }, index) => setText(legend[index], count(present[key])));
    const values = series.map(({ name, key }) => `${name.toLowerCase()} ${count(present[key])}`);
    element.ariaLabel = `${title} during the last 60 minutes; now: ${values.join(", ")}`;
  }
}

function draw() {
  showPresent();
  if (document.hidden) return;
  const at = Date.now() / 1000;
  for (const { plot, series } of plots) {
    const columns = series.map(({ key }) => samples.map((each) => each[key] ?? null));
    plot.setData([samples.map((each) => each.at), ...columns], false);
    plot.setScale("x", { min: at - SAMPLES * SAMPLE_S, max: at });
  }
}

/** Create the charts; again when the colours change. */
export function createCharts() {
  for (const { plot } of plots.splice(0)) plot.destroy();
  plots.push(create("rates", "Tasks a minute", RATES), create("levels", "Calls under way", LEVELS));
  draw();
}

function create(id, title, series) {
  const element = document.getElementById(id);
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const list = document.getElementById(`${id}-legend`);
  const legend = series.map(() => make("b"));
  list.replaceChildren(
    ...series.map(({ name, key }, index) => {
      const mark = make("span", { className: "mark", ariaHidden: "true" });
      mark.dataset.series = key;
      return make("li", {}, mark, `${name} `, legend[index]);
    }),
  );
  const axis = { stroke: colour("--text"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
  const plot = new uPlot(
    {
      width: element.clientWidth,
      height: 200,
      cursor: { show: false },
      legend: { show: false },
      scales: { x: { time: true, auto: false }, y: { range: (_, low, high) => [0, Math.max(5, (high ?? 0) * 1.1)] } },
      axes: [{ ...axis, values: (_, times) => times.map(clock) }, { ...axis, size: 50 }],
      series: [{}, ...series.map(({ name, dash, colour: name_ }) => ({ label: name, stroke: colour(name_), width: 2, dash, points: { show: false } }))],
    },
    [[], ...series.map(() => [])],
    element,
  );
  return { plot, series, element, legend, title };
}

const CLOCK = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

function clock(seconds) {
  return CLOCK.format(new Date(seconds * 1000));
}

/** Fit the charts to the width of the page. */
export function resizeCharts() {
  for (const { plot, element } of plots) plot.setSize({ width: element.clientWidth, height: 200 });
}
