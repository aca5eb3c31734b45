"""How a task is shown to people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.text import Text

from rtprov.cli.failures import Status
from rtprov.cli.output import Column, age, duration, seconds_of, styled

NAMES = (
    "taskId",
    "equipmentId",
    "state",
    "acceptedAt",
    "startedAt",
    "finishedAt",
    "expectedFinishAt",
    "reason",
    "attemptCount",
    "phase",
    "caller",
    "acceptedBy",
    "campaign",
    "retryOf",
    "retriedAs",
)
"""The fields of a task that are neither lists nor objects."""

FAILED = ("failed", "cancelled")


def state_of(task: dict[str, Any]) -> str:
    """Return what a task does or how it ended: its phase while it runs, then its state."""
    return str(task.get("phase") or task.get("state"))


def columns(now: float) -> list[Column]:
    """Return the columns of a list of tasks. `now` is in seconds since the epoch."""
    return [
        Column("TASK", lambda task: str(task.get("taskId"))),
        Column("EQUIPMENT", lambda task: str(task.get("equipmentId"))),
        Column("STATE", lambda task: styled(state_of(task))),
        Column("AGE", lambda task: age(task.get("acceptedAt"), now), right=True),
        Column("NOTE", lambda task: note(task, now)),
    ]


def note(task: dict[str, Any], now: float) -> str:
    """Return why a task ended so, or what it waits for and until when."""
    if task.get("reason"):
        return str(task["reason"])
    waits, expected = task.get("waitsFor"), seconds_of(task.get("expectedFinishAt"))
    parts = []
    if waits:
        ahead = waits.get("tasksAhead")
        behind = f", {ahead} ahead" if ahead else ""
        parts.append(f"waits for {waits.get('reason')}{behind}")
    if expected is not None and task.get("finishedAt") is None:
        parts.append(f"about {duration(max(0.0, expected - now))} left")
    return ", ".join(parts)


_LINES: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("task", lambda task: task.get("taskId")),
    ("equipment", lambda task: task.get("equipmentId")),
    ("state", lambda task: styled(state_of(task))),
    ("reason", lambda task: task.get("reason")),
    ("accepted", lambda task: task.get("acceptedAt")),
    ("started", lambda task: task.get("startedAt")),
    ("finished", lambda task: task.get("finishedAt")),
    ("expected", lambda task: task.get("expectedFinishAt")),
    ("attempts", lambda task: task.get("attemptCount")),
    ("caller", lambda task: task.get("caller")),
    ("campaign", lambda task: task.get("campaign")),
    ("retry of", lambda task: task.get("retryOf")),
    ("retried as", lambda task: task.get("retriedAs")),
]


def lines(task: dict[str, Any], now: float) -> list[tuple[str, str | Text]]:
    """Return the lines that show all of one task; what is not known is left out."""
    shown: list[tuple[str, str | Text]] = []
    for title, value_of in _LINES:
        value = value_of(task)
        if value is not None:
            shown.append((title, value if isinstance(value, Text) else str(value)))
    if task.get("waitsFor"):
        shown.append(("waits", note(task, now)))
    for attempt in task.get("attempts") or ():
        error = attempt.get("error")
        text = f"{attempt.get('startedAt')} to {attempt.get('endedAt') or 'now'}"
        shown.append((f"call {attempt.get('number')}", f"{text}: {error}" if error else text))
    return shown


def exit_status(states: list[str]) -> Status:
    """Return the exit status for the states of tasks.

    1 if any has failed or was cancelled; otherwise 4 if service A did not know a device.
    """
    if any(state in FAILED for state in states):
        return Status.TASKS_FAILED
    return Status.NOT_FOUND if "not_found" in states else Status.DONE
