// Requests to the front end, and its event stream.

const RECONNECT_MS = [1000, 2000, 4000, 8000, 15000];
const SILENCE_MS = 30000; // the stream has an event at least every 15 s
const KINDS = ["summary", "task", "skipped", "equipment", "dispatch"];

let csrfToken = null;
let onLoggedOut = () => {};

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Call `callback` when the session has ended. */
export function whenLoggedOut(callback) {
  onLoggedOut = callback;
}

/** Send a request; return the answer's JSON. Throws an ApiError for every other answer than a 2xx. */
export async function call(method, path, { token } = {}) {
  const headers = { Accept: "application/json" };
  if (token !== undefined) headers.Authorization = `Bearer ${token}`;
  else if (method !== "GET" && csrfToken !== null) headers["X-CSRF-Token"] = csrfToken;
  let response;
  try {
    response = await fetch(path, { method, headers, cache: "no-store", signal: AbortSignal.timeout(15000) });
  } catch {
    throw new ApiError(0, "The front end cannot be reached");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  if (response.status === 401 && token === undefined) onLoggedOut();
  throw new ApiError(response.status, answer.message ?? `The front end answered ${response.status}`);
}

/** Return who is logged in: caller, role, version. */
export async function whoAmI() {
  return remember(await call("GET", "/api/v1/session"));
}

/** Exchange a token for a session; return who is logged in. */
export async function logIn(token) {
  return remember(await call("POST", "/api/v1/session", { token }));
}

/** End the session. */
export async function logOut() {
  await call("DELETE", "/api/v1/session");
  csrfToken = null;
}

function remember({ session }) {
  csrfToken = session.csrfToken;
  return session;
}

/**
 * Follow the event stream until the returned function is called.
 *
 * `onEvent(kind, value)` gets each event. `onState(state)` gets "live" when the stream is open and
 * "lost" when it is not; the stream is then opened again and again.
 */
export function follow(onEvent, onState) {
  let source = null;
  let attempt = 0;
  let timer = 0;
  let stopped = false;

  function watch(delay, then) {
    clearTimeout(timer);
    timer = setTimeout(then, delay);
  }

  function open() {
    source = new EventSource("/api/v1/events");
    watch(SILENCE_MS, again);
    source.onopen = () => {
      attempt = 0;
      onState("live");
      watch(SILENCE_MS, again);
    };
    // A browser that opens the stream again by itself says which event was the last one.
    source.onerror = () => {
      onState("lost");
      if (source.readyState === EventSource.CLOSED) again();
    };
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => {
        watch(SILENCE_MS, again);
        onEvent(kind, JSON.parse(event.data));
      });
    }
  }

  function again() {
    source.close();
    onState("lost");
    const delay = RECONNECT_MS[Math.min(attempt, RECONNECT_MS.length - 1)];
    attempt += 1;
    watch(delay, async () => {
      // EventSource does not say why it failed. A session that has ended is a 401 here.
      await whoAmI().catch(() => {});
      if (!stopped) open();
    });
  }

  open();
  return () => {
    stopped = true;
    clearTimeout(timer);
    source.close();
  };
}
