// Search for a device or a task; a task's time line; cancelling a task.

import { ApiError, call } from "./api.js";
import { $, badge, link, make, setText, table, time } from "./dom.js";

const REFRESH_MS = 2000;
const WAITS_FOR = {
  device: ({ tasksAhead }) => `an earlier task of the device (${tasksAhead} before it)`,
  service: () => "service A, which is in trouble or did not answer the last call",
  concurrency: () => "a free call slot of the worker",
  key: () => "the key that sealed it, which the worker does not have: an operator must add it",
};

let me = { caller: "", role: "read" };
let shown = null; // the task on the page, or null
let shownAt = 0;
let refreshing = false;

/** Set who is logged in; buttons that the role may not use are left out. */
export function setUser(session) {
  me = session;
}

/** Show what the page's address names: `#/task/ID`, `#/device/SERIAL`, or nothing. */
export async function showAddressed() {
  const [, kind, id] = location.hash.split("/").map(decoded);
  shown = null;
  setText($("search-error"), "");
  if (!id || (kind !== "task" && kind !== "device")) {
    $("result").hidden = true;
    return;
  }
  $("wanted").value = id;
  try {
    if (kind === "task") await showTask(id);
    else await showDevice(id, `/api/v1/equipment/cpe/${encodeURIComponent(id)}/task`);
    $("result").hidden = false;
    $("result").querySelector("h3").focus();
  } catch (error) {
    $("result").hidden = true;
    if (!(error instanceof ApiError)) throw error;
    setText($("search-error"), error.message);
  }
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a percent sign that encodes nothing
  }
}

/** Search for a text: a task id has 32 hexadecimal digits; anything else is a serial number. */
export function search(text) {
  const wanted = text.trim();
  if (!wanted) return;
  const kind = /^[0-9a-f]{32}$/.test(wanted) ? "task" : "device";
  const hash = `#/${kind}/${encodeURIComponent(wanted)}`;
  if (location.hash === hash) showAddressed();
  else location.hash = hash;
}

/** The event stream reports the end of a task. */
export function taskChanged(task) {
  if (shown !== null && shown.taskId === task.taskId) refresh(true);
}

/** Something has changed; a task on the page that has not ended is loaded again. */
export function somethingChanged() {
  if (shown !== null && shown.phase !== null) refresh(false);
}

async function refresh(now) {
  if (refreshing || (!now && Date.now() - shownAt < REFRESH_MS)) return;
  refreshing = true;
  const { taskId } = shown;
  try {
    const { task } = await call("GET", `/api/v1/tasks/${taskId}`);
    if (shown !== null && shown.taskId === taskId) drawTask(task);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error; // the next event tries again
  } finally {
    refreshing = false;
  }
}

async function showDevice(id, path) {
  const { tasks, next } = await call("GET", path);
  const rows = tasks.map((task) => [time(task.acceptedAt), badge(task), link("task", task.taskId), task.reason ?? ""]);
  const list = rows.length ? table(`Tasks of device ${id}`, ["Accepted", "State", "Task", "Reason"], rows) : make("p", {}, "This device has no tasks that a worker remembers.");
  $("result").replaceChildren(heading(`Device ${id}`), list);
  if (next === null) return;
  const more = make("button", { type: "button" }, "Older tasks");
  more.addEventListener("click", () => showDevice(id, next).then(() => $("result").querySelector("h3").focus()));
  $("result").append(more);
}

async function showTask(id) {
  const { task } = await call("GET", `/api/v1/tasks/${id}`);
  $("result").replaceChildren(heading(`Task ${id}`), make("div", { id: "task" }));
  drawTask(task);
}

function heading(text) {
  return make("h3", { tabIndex: -1 }, text);
}

function drawTask(task) {
  const same = shown !== null && JSON.stringify(shown) === JSON.stringify(task);
  shown = task;
  shownAt = Date.now();
  const place = $("task");
  if (same && place.hasChildNodes()) return; // keeps the focus
  const facts = [
    ["State", badge(task)],
    ["Device", link("device", task.equipmentId)],
    ["Ordered by", task.caller ?? "not known"],
    ["Accepted by front end", task.acceptedBy ?? "not known"],
  ];
  if (task.waitsFor !== null) facts.push(["Waits for", WAITS_FOR[task.waitsFor.reason]?.(task.waitsFor) ?? task.waitsFor.reason]);
  if (task.reason !== null) facts.push(["Reason", task.reason]);
  if (task.campaign !== null) facts.push(["Campaign", task.campaign]);
  if (task.retryOf !== null) facts.push(["Retry of", link("task", task.retryOf)]);
  if (task.retriedAs !== null) facts.push(["Retried as", link("task", task.retriedAs)]);
  const list = make("dl", { className: "facts" }, ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  place.replaceChildren(list, make("h4", {}, "Time line"), timeLine(task));
  if (mayCancel(task)) {
    const button = make("button", { type: "button", id: "cancel-task" }, "Cancel this task…");
    button.addEventListener("click", () => askToCancel(task));
    place.append(button);
  }
}

function timeLine(task) {
  const steps = [];
  const step = (at, words, state = "") => {
    const item = make("li", {}, at === null ? make("span", {}, "later") : time(at), ` ${words}`);
    item.dataset.state = state;
    steps.push(item);
  };
  step(task.acceptedAt, "accepted");
  if (task.attemptCount > task.attempts.length) step(null, `${task.attemptCount - task.attempts.length} earlier calls are not listed`);
  for (const attempt of task.attempts) {
    if (attempt.startedAt) step(attempt.startedAt, `call ${attempt.number} of A began`, "calling");
    if (attempt.endedAt) step(attempt.endedAt, attempt.error === null ? `call ${attempt.number} was answered` : `call ${attempt.number} did not reach A: ${attempt.error}`, attempt.error === null ? "" : "failed");
    if (attempt.nextAttemptAt) step(attempt.nextAttemptAt, "the next call is due", "retrying");
  }
  if (task.finishedAt !== null) step(task.finishedAt, `${task.state.replace("_", " ")}${task.reason ? `: ${task.reason}` : ""}`, task.state);
  else if (task.expectedFinishAt !== null) step(task.expectedFinishAt, "expected end (an estimate)", "waiting");
  else step(null, "the end cannot be estimated", "waiting");
  return make("ol", { className: "timeline" }, ...steps);
}

function mayCancel(task) {
  const own = me.role === "operate" || (me.role === "order" && task.caller === me.caller);
  return own && task.phase === "waiting";
}

function askToCancel(task) {
  setText($("cancel-what"), `Task ${task.taskId} of device ${task.equipmentId}. It has not been sent to A.`);
  setText($("cancel-error"), "");
  $("cancel-reason").value = "";
  $("cancel-form").onsubmit = (event) => {
    event.preventDefault();
    cancel(task);
  };
  $("cancel-keep").onclick = () => $("cancel").close();
  $("cancel").showModal();
}

async function cancel(task) {
  const reason = $("cancel-reason").value.trim();
  const query = reason ? `?reason=${encodeURIComponent(reason)}` : "";
  try {
    await call("DELETE", `/api/v1/equipment/cpe/${task.equipmentId}/task/${task.taskId}${query}`);
    $("cancel").close();
    await showTask(task.taskId);
    $("result").querySelector("h3").focus();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    setText($("cancel-error"), error.message);
  }
}
