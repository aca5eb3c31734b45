// The live page: log-in, then the overview, which follows the event stream.

import { ApiError, call, follow, logIn, logOut, whenLoggedOut, whoAmI } from "./api.js";
import { endsSkipped, loadFailures, loadLists, showSummary, taskEnded } from "./board.js";
import { createCharts, resizeCharts, sample } from "./charts.js";
import { $, setText } from "./dom.js";
import { search, setUser, showAddressed, somethingChanged, taskChanged } from "./tasks.js";

const CONNECTION = { connecting: "Connecting", live: "Live", lost: "Connection lost; trying again", out: "Not logged in" };

let stopFollowing = null;
let connection = "connecting";

function setConnection(state) {
  const before = connection;
  connection = state;
  $("connection").dataset.state = state;
  setText($("connection"), CONNECTION[state]);
  $("notice").hidden = state !== "lost";
  setText($("notice"), state === "lost" ? "The connection to the front end is lost. The numbers below are old. The page connects again by itself." : "");
  $("board").classList.toggle("stale", state === "lost");
  if (state === "live" && before === "lost") load(); // what was missed meanwhile
}

function onEvent(kind, value) {
  if (kind === "summary") {
    showSummary(value);
    sample(value);
    somethingChanged();
  } else if (kind === "task") {
    taskEnded(value);
    taskChanged(value);
  } else if (kind === "skipped") {
    endsSkipped(value);
  }
  // "equipment" and "dispatch" come with a summary that says the same.
}

/** Load everything once; the event stream keeps it up to date. */
async function load() {
  try {
    const { summary } = await call("GET", "/api/v1/summary");
    showSummary(summary);
    sample(summary);
    await loadLists();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status !== 401) {
      setText($("notice"), `Not everything could be loaded: ${error.message}`);
      $("notice").hidden = false;
    }
  }
}

function showLogIn(message = "") {
  stopFollowing?.();
  stopFollowing = null;
  setConnection("out");
  $("board").hidden = true;
  $("log-in").hidden = false;
  $("log-out").hidden = true;
  setText($("who"), "");
  setText($("log-in-error"), message);
  if (document.querySelector("dialog[open]")) $("cancel").close();
  $("token").focus();
}

async function enter(session) {
  setUser(session);
  setText($("who"), `${session.caller}, role ${session.role}`);
  $("who").title = `rtprov ${session.version}`;
  $("log-out").hidden = session.csrfToken === null;
  $("log-in").hidden = true;
  $("board").hidden = false;
  createCharts();
  setConnection("connecting");
  await load();
  stopFollowing?.();
  stopFollowing = follow(onEvent, setConnection);
  await showAddressed();
}

async function begin() {
  try {
    await enter(await whoAmI());
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) return;
    setConnection("lost");
    setTimeout(begin, 3000);
  }
}

whenLoggedOut(() => {
  showLogIn(stopFollowing === null ? "" : "The session has ended. Log in again.");
});
$("log-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const token = $("token").value.trim();
  $("token").value = "";
  try {
    // A header field cannot carry other characters than these (RFC 6750).
    if (!/^[A-Za-z0-9._~+/=-]+$/.test(token)) throw new ApiError(401, "The credentials are not valid");
    await enter(await logIn(token));
    $("main").focus();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    setText($("log-in-error"), error.message);
    $("token").focus();
  }
});
$("log-out").addEventListener("click", async () => {
  await logOut().catch(() => {});
  showLogIn("You are logged out.");
});
$("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  search($("wanted").value);
});
$("failures-span").addEventListener("change", () => loadFailures().catch(() => {}));
addEventListener("hashchange", showAddressed);
addEventListener("resize", resizeCharts);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && connection === "live") load();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  if (!$("board").hidden) createCharts();
});

begin();
