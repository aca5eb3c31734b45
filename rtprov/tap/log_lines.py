"""Log events as lines of text or JSON.

A line of text begins with time, level and role::

    2026-11-29T12:35:44Z INFO frontend service B (front end) listens on 127.0.0.1:8443

A line of JSON is an object with ``ts``, ``level``, ``role``, ``event`` and ``message``, and with
``task``, ``equipment``, ``caller``, ``reason``, ``campaign`` and ``trace`` where they apply.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any, cast

import msgspec
from twisted.logger import LogEvent, LogLevel, eventAsText, formatEvent

LineFormat = Callable[[LogEvent], str]

# The priorities of sd-daemon(3), which are those of syslog(3).
_PRIORITIES = {
    LogLevel.debug: "<7>",
    LogLevel.info: "<6>",
    LogLevel.warn: "<4>",
    LogLevel.error: "<3>",
    LogLevel.critical: "<2>",
}
# The fields of log calls that a JSON line has, by their names there.
_FIELDS = {
    "task": ("task_id",),
    "equipment": ("equipment_id",),
    "caller": ("caller",),
    "reason": ("reason", "why"),
    "campaign": ("campaign",),
    "trace": ("trace",),
}
# In a process with all roles, the module of a line tells its role. The first matching row counts.
_ROLES = (
    ("rtprov.frontend", "frontend"),
    ("rtprov.audit", "frontend"),
    ("rtprov.http", "frontend"),
    ("rtprov.queries.directory.TaskQueryServer", "worker"),
    ("rtprov.queries.report_server", "worker"),
    ("rtprov.queries.status.StatusServer", "worker"),
    ("rtprov.queries", "frontend"),
    ("rtprov.worker", "worker"),
    ("rtprov.journal", "worker"),
    ("rtprov.history", "worker"),
    ("rtprov.equipment.client", "worker"),
    ("rtprov.equipment", "stub"),
    ("rtprov.broker", "broker"),
)
ALL_IN_ONE = "rtprov"
READY_LINE = "{line}"
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
# Control characters except for TAB and LF, and the line separators of Unicode.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_WORD = re.compile(r"[A-Za-z]+")
WORDS_OF_AN_ID = 8

_encode = msgspec.json.Encoder().encode


def text_lines(role: str) -> LineFormat:
    """Return a function that formats events as text. `role` is the command's role."""

    def line(event: LogEvent) -> str:
        when = _second(int(_time(event)))
        return f"{when} {_level(event)} {role_of(event, role)} {_text(event)}\n"

    return line


def json_lines(role: str) -> LineFormat:
    """Return a function that formats events as JSON. `role` is the command's role."""

    def line(event: LogEvent) -> str:
        at = datetime.fromtimestamp(_time(event), timezone.utc)
        document: dict[str, Any] = {
            "ts": f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z",
            "level": _level(event).lower(),
            "role": role_of(event, role),
            "event": event_id(event),
        }
        for name, keys in _FIELDS.items():
            for key in keys:
                if event.get(key) is not None:
                    document[name] = str(event[key])
                    break
        document["message"] = formatEvent(event)
        if "log_failure" in event or event.get("isError"):
            document["message"], _, document["traceback"] = _full_text(event).partition("\n")
        return _encode(document).decode() + "\n"

    return line


def with_priorities(lines: LineFormat) -> LineFormat:
    """Put the priority that journald reads before each line (sd-daemon(3))."""

    def line(event: LogEvent) -> str:
        priority = _PRIORITIES.get(cast("Any", event.get("log_level")), "<6>")
        # Only LF ends a line here; a JSON value may contain the line separators of Unicode.
        text = lines(event).removesuffix("\n").replace("\n", f"\n{priority}")
        return f"{priority}{text}\n"

    return line


def role_of(event: LogEvent, role: str) -> str:
    """Return the role that an event belongs to; `role` is the command's role."""
    if role != ALL_IN_ONE:
        return role
    namespace = event.get("log_namespace") or ""
    if namespace.startswith("rtprov.amqp.client.service"):
        return str(event.get("name", role))
    return next((found for prefix, found in _ROLES if namespace.startswith(prefix)), role)


def event_id(event: LogEvent) -> str:
    """Return the stable id of an event's kind.

    It is the field ``event`` of the log call. A call without one has an id that is made of its
    module and of the first words of its text, without the values.
    """
    given = event.get("event")
    if isinstance(given, str):
        return given
    return _derived_id(event.get("log_namespace") or "", event.get("log_format") or "")


@lru_cache(maxsize=1000)
def _derived_id(namespace: str, text: str) -> str:
    module = [part for part in namespace.split(".") if part != "rtprov" and part[:1].islower()]
    words = _WORD.findall(_PLACEHOLDER.sub(" ", text))[:WORDS_OF_AN_ID]
    return ".".join(filter(None, [*module[-2:], "-".join(words).lower()])) or "other"


def _time(event: LogEvent) -> float:
    return cast("float", event.get("log_time") or 0.0)


def _level(event: LogEvent) -> str:
    level = event.get("log_level") or LogLevel.info
    return cast("str", level.name).upper()


def _text(event: LogEvent) -> str:
    """Return the text of an event. Further lines begin with a tab, and other characters that may
    end a line are escaped, so that no value can begin a line of its own.
    """
    if event.get("log_format") == READY_LINE:  # an audit line; formatting takes ten times as long
        text = str(event["line"])
    else:
        text = _full_text(event) if "log_failure" in event else formatEvent(event)
    if text.isprintable():
        return text
    text = _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
    return text.replace("\n", "\n\t")


def _full_text(event: LogEvent) -> str:
    return eventAsText(
        event, includeTraceback=True, includeTimestamp=False, includeSystem=False
    ).rstrip("\n")


@lru_cache(maxsize=4)
def _second(when: int) -> str:
    return f"{datetime.fromtimestamp(when, timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
