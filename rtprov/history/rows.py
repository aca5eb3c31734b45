"""The form of a task in a day file. Nothing of its body, and no fingerprint of it, is in there."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec

from rtprov.model import Attempt, Details, State
from rtprov.reports import Cursor, FoundTask

VERSION = 1
SCHEMA = """
CREATE TABLE kind (
    number INTEGER PRIMARY KEY, shard INTEGER NOT NULL, shards INTEGER NOT NULL,
    state TEXT NOT NULL, reason TEXT, caller TEXT, tasks INTEGER NOT NULL
);
CREATE TABLE process (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE task (
    at REAL NOT NULL, id BLOB NOT NULL, kind INTEGER NOT NULL, equipment TEXT NOT NULL,
    requested_at REAL, started_at REAL, finished_at REAL NOT NULL, attempt_count INTEGER NOT NULL,
    attempts BLOB, accepted_by INTEGER,
    PRIMARY KEY (at, id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX task_id ON task (id, finished_at);
CREATE INDEX task_kind ON task (kind, at, id);
CREATE INDEX task_equipment ON task (equipment, at, id);
"""
INSERT = "INSERT OR IGNORE INTO task VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
COLUMNS = (
    "task.at, task.id, kind.state, kind.reason, kind.caller, task.equipment, task.requested_at,"
    " task.started_at, task.finished_at, task.attempt_count, task.attempts, process.name"
)
TABLES = (
    "task CROSS JOIN kind ON kind.number = task.kind"
    " LEFT JOIN process ON process.number = task.accepted_by"
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[Attempt, ...]).decode


def key_of(cursor: Cursor) -> tuple[float, bytes]:
    """Return a position as the first two columns of a row."""
    return cursor.at, bytes.fromhex(cursor.task_id)


def row_of(task: FoundTask, kind: int, accepted_by: int | None) -> tuple[Any, ...]:
    """Return the row of a task that has ended."""
    details = task.details
    # Nearly all tasks have no attempt, or one that ended with the task.
    usual = details.attempts == _usual_attempts(details)
    return (
        *key_of(task.cursor),
        kind,
        details.equipment_id,
        details.requested_at,
        details.started_at,
        details.finished_at,
        details.attempt_count,
        None if usual else _encode(details.attempts),
        accepted_by,
    )


def task_of(row: tuple[Any, ...]) -> FoundTask:
    """Return the task of a row with `COLUMNS`."""
    at, key, state, reason, caller, equipment, requested, started, finished, count, log, name = row
    details = Details(
        task_id=key.hex(),
        equipment_id=equipment,
        state=State(state),
        requested_at=requested,
        started_at=started,
        finished_at=finished,
        reason=reason,
        attempt_count=count,
        attempts=(),
        waits_for=None,
        ahead=0,
        expected_at=None,
        fingerprint=None,
        caller=caller,
        accepted_by=name,
    )
    attempts = _usual_attempts(details) if log is None else _decode(log)
    return FoundTask(at, attrs.evolve(details, attempts=attempts))


def _usual_attempts(details: Details) -> tuple[Attempt, ...]:
    if details.attempt_count != 1:
        return ()
    error = None if details.state is State.COMPLETED else details.reason
    return (Attempt(1, details.started_at, details.finished_at, error),)
