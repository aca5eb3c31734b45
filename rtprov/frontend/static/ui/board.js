// The overview: the summary's numbers and states, shards, failures, and the latest ends.

import { call } from "./api.js";
import { $, badge, count, duration, link, make, setText, table, time } from "./dom.js";

const LATEST = 20;
const ENDED = ["completed", "failed", "not_found", "cancelled"];
const FAILURES_EVERY_MS = 10000;
const DRAW_EVERY_MS = 500;
const EQUIPMENT = {
  closed: ["✓", "ok", "in order"],
  half_open: ["!", "warning", "being tried again"],
  open: ["✗", "bad", "in trouble: calls are held back"],
};
const ETA_REASONS = {
  paused: "not known: dispatch is paused",
  equipment: "not known: A is in trouble",
  "no worker": "not known: no worker is active",
};

let latest = []; // the newest first, at most LATEST
let failuresAt = 0;
let failuresTimer = 0;
let drawTimer = 0;

/** Show a summary. */
export function showSummary(summary) {
  const { tasks, equipment, broker } = summary;
  setText($("waiting"), count(tasks.waiting));
  setText($("calling"), count(tasks.calling));
  setText($("retrying"), count(tasks.retrying));
  setText($("oldest"), duration(summary.oldestWaitingSeconds));
  setText($("parked"), count(summary.parked));
  const eta = summary.etaSeconds;
  const range = eta === null ? ETA_REASONS[summary.etaReason] ?? "–" : `${duration(eta.low)} to ${duration(eta.high)}`;
  setText($("eta"), eta !== null && eta.low === eta.high ? duration(eta.low) : range);
  setText($("typical"), duration(equipment.typicalCallSeconds));
  showEquipment(equipment);
  if (!broker.connected) state($("broker"), "✗", "bad", "not connected");
  else if (broker.blocked) state($("broker"), "!", "warning", "connected, but it accepts no messages");
  else state($("broker"), "✓", "ok", "connected");
  if (summary.dispatch === "paused") state($("dispatch"), "⏸", "warning", "paused");
  else state($("dispatch"), "✓", "ok", "running");
  for (const row of document.querySelectorAll("#ended tr[data-span]")) {
    const numbers = summary.ended[row.dataset.span];
    ENDED.forEach((each, index) => setText(row.cells[index + 1], count(numbers[each])));
  }
  showShards(summary.shards);
  showIncomplete(summary.incomplete ?? []);
}

function showIncomplete(shards) {
  const text = shards.length ? `No worker answers for shard ${shards.join(", ")}. Its tasks are missing in these numbers.` : "";
  setText($("incomplete"), text);
  $("incomplete").hidden = text === "";
}

function showEquipment(equipment) {
  const [sign, level, words] = EQUIPMENT[equipment.state] ?? ["?", "warning", equipment.state];
  const error = equipment.state !== "closed" && equipment.lastError ? `; last error: ${equipment.lastError}` : "";
  state($("equipment"), sign, level, words + error, equipment.state === "closed" ? null : equipment.since);
}

function state(element, sign, level, words, since = null) {
  const key = `${sign} ${words} ${since}`;
  if (element.dataset.shown === key) return;
  element.dataset.shown = key;
  element.dataset.level = level;
  element.replaceChildren(make("span", { className: "sign", ariaHidden: "true" }, sign), ` ${words}`);
  if (since) element.append(", since ", time(since));
}

function showShards(shards) {
  const body = $("shards-body");
  while (body.rows.length > shards.length) body.lastElementChild.remove();
  shards.forEach((shard, index) => {
    const row = body.rows[index] ?? body.appendChild(make("tr", {}, make("th", { scope: "row" }), ...Array.from({ length: 4 }, () => make("td"))));
    const active = shard.active ?? "✗ none: its tasks wait";
    const standbys = shard.standbys.join(", ") || "none";
    [shard.shard, count(shard.backlog), active, standbys, count(shard.concurrency)].forEach((text, column) => setText(row.cells[column], text));
  });
}

/** Load what the event stream does not repeat: failures by reason, and the latest ends. */
export async function loadLists() {
  const states = ENDED.map((each) => `state=${each}`).join("&");
  const { tasks } = await call("GET", `/api/v1/tasks?${states}&limit=${LATEST}`);
  latest = tasks;
  drawLatest();
  await loadFailures();
}

/** Take the end of a task from the event stream. */
export function taskEnded(task) {
  latest = [task, ...latest.filter((each) => each.taskId !== task.taskId)].slice(0, LATEST);
  if (drawTimer === 0) drawTimer = setTimeout(drawLatest, DRAW_EVERY_MS);
  if (task.state === "failed" || task.state === "not_found") failuresChanged();
}

/** Say how many ends the event stream has left out. */
export function endsSkipped({ count: skipped }) {
  setText($("skipped"), `${count(skipped)} more have ended since; there are too many to list each.`);
  failuresChanged();
}

function drawLatest() {
  drawTimer = 0;
  if (document.hidden) return;
  if ($("latest-list").contains(document.activeElement)) {
    drawTimer = setTimeout(drawLatest, DRAW_EVERY_MS); // the list stands still while it has the focus
    return;
  }
  const rows = latest.map((task) => [time(task.finishedAt ?? task.acceptedAt), badge(task), link("device", task.equipmentId), link("task", task.taskId), task.reason ?? ""]);
  const columns = ["Ended", "State", "Device", "Task", "Reason"];
  $("latest-list").replaceChildren(rows.length ? table("Latest ends", columns, rows) : make("p", {}, "No task has ended yet."));
}

function failuresChanged() {
  if (failuresTimer !== 0) return;
  const delay = Math.max(0, failuresAt + FAILURES_EVERY_MS - Date.now());
  failuresTimer = setTimeout(() => loadFailures().catch(() => {}), delay);
}

/** Load and show the failures by reason. */
export async function loadFailures() {
  clearTimeout(failuresTimer);
  failuresTimer = 0;
  failuresAt = Date.now();
  const after = new Date(Date.now() - Number($("failures-span").value) * 3600000).toISOString();
  const { failures } = await call("GET", `/api/v1/tasks/failures?by=reason&endedAfter=${after}`);
  if ($("failures-list").contains(document.activeElement)) return;
  const rows = failures.map(({ reason, count: number }) => [reason, count(number)]);
  $("failures-list").replaceChildren(rows.length ? table("Failures by reason", ["Reason", "Tasks"], rows) : make("p", {}, "No task has failed."));
}
