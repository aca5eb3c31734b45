// Small helpers to build and change elements, and to write numbers and times.

export const $ = (id) => document.getElementById(id);

/** Return a new element with these properties and children; texts become text nodes. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Change an element's text, only if it differs: a screen reader keeps its place. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const COUNTS = new Intl.NumberFormat("en", { useGrouping: true, maximumFractionDigits: 1 });

/** Return a number as a text; a dash if it is not known. */
export function count(number) {
  return number === null || number === undefined ? "–" : COUNTS.format(number);
}

/** Return a number of seconds as a text such as "2 min 5 s". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 60) return `${count(seconds < 10 ? seconds : Math.round(seconds))} s`;
  const whole = Math.round(seconds);
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => whole >= size);
  const parts = [];
  let rest = whole;
  for (const [unit, size] of units.slice(first, first + 2)) {
    const some = Math.floor(rest / size);
    rest -= some * size;
    if (some) parts.push(`${some} ${unit}`);
  }
  return parts.join(" ");
}

/** Return a <time> in the browser's time zone; its title has the time in UTC. */
export function time(text) {
  const at = new Date(text);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  const clock = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  return make("time", { dateTime: text, title: text }, `${day} ${clock}`);
}

const STATES = {
  waiting: ["…", "waiting"],
  calling: ["▶", "calling A"],
  retrying: ["↻", "retrying"],
  running: ["▶", "running"],
  completed: ["✓", "completed"],
  failed: ["✗", "failed"],
  not_found: ["?", "not found"],
  cancelled: ["⊘", "cancelled"],
};

/** Return a badge for a task's phase, or its state once it has ended. */
export function badge(task) {
  const state = task.phase ?? task.state;
  const [sign, words] = STATES[state] ?? ["", state];
  const element = make("span", { className: "badge" }, make("span", { ariaHidden: "true" }, sign), ` ${words}`);
  element.dataset.state = state;
  return element;
}

/** Return a table in a group that can be scrolled with the keyboard. */
export function table(caption, columns, rows) {
  const head = make("tr", {}, ...columns.map((each) => make("th", { scope: "col" }, each)));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((each) => make("td", {}, each))));
  const region = make(
    "div",
    { className: "scroll", tabIndex: 0, role: "group", ariaLabel: caption },
    make("table", {}, make("caption", { className: "hidden" }, caption), make("thead", {}, head), make("tbody", {}, ...body)),
  );
  return region;
}

/** Return a link to a task or a device on this page. */
export function link(kind, id) {
  return make("a", { href: `#/${kind}/${encodeURIComponent(id)}` }, id);
}
