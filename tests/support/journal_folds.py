"""Example histories of tasks, and everything that a store returns about them after it has applied
them.
"""

from __future__ import annotations

from rtprov.journal.store import Store
from rtprov.model import (
    Event,
)

RETENTION_S = 100.0
DEVICE = "ABC123456"


def task_id(number: int) -> str:
    return f"{number:032x}"


def fold(events: list[Event], retention_s: float = RETENTION_S) -> Store:
    store = Store(retention_s)
    for event in events:
        store.apply(event)
    return store


def view(store: Store) -> list[object]:
    """Return everything that can be read about the tasks of `A_FEW`."""
    asked: list[object] = [len(store)]
    for each in map(task_id, range(4)):
        asked += [
            store.lookup(each, DEVICE),
            store.finished(each),
            store.first_started_at(each),
            store.attempts(each),
        ]
    return asked


def all_of(store: Store) -> list[object]:
    """Return everything that can be read, including the details."""
    details = [store.details(each, None, 5e9) for each in map(task_id, range(4))]
    return [*view(store), *details, store.tasks_of(DEVICE, None, 10, 5e9)]
