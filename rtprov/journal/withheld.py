"""Which tasks wait for their sealing key, and for how long: computed from the journal's events."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from rtprov.model import Withheld

if TYPE_CHECKING:
    from rtprov.journal.record import Record


@attrs.define
class _Wait:
    """The waits of one task for its key.

    `since` is when the present wait began, None if there is none. The earlier waits took
    `earlier_s` seconds in all; the last of them ended at `over_at`.
    """

    key: str | None
    since: float | None = None
    earlier_s: float = 0.0
    over_at: float = float("-inf")


class WithheldTasks:
    """The open tasks of a shard that wait, or have waited, for their sealing key.

    All times are seconds since the epoch.
    """

    def __init__(self) -> None:
        self._waits: dict[str, _Wait] = {}
        self._waiting: dict[str | None, int] = {}  # tasks that wait, by key

    def __len__(self) -> int:
        return len(self._waits)

    def apply(self, event: Withheld) -> None:
        """Apply an event of an open task."""
        if event.over:
            self.end(event.task_id, event.at)
            return
        wait = self._waits.setdefault(event.task_id, _Wait(event.key))
        if wait.since is None and event.at > wait.over_at:
            wait.since = event.at
            self._waiting[wait.key] = self._waiting.get(wait.key, 0) + 1

    def end(self, task_id: str, at: float) -> None:
        """End the task's wait at the time `at`."""
        wait = self._waits.get(task_id)
        if wait is not None and wait.since is not None:
            wait.earlier_s += max(0.0, at - wait.since)
            wait.since, wait.over_at = None, max(wait.over_at, at)
            left = self._waiting[wait.key] - 1
            if left:
                self._waiting[wait.key] = left
            else:
                del self._waiting[wait.key]

    def forget(self, task_id: str) -> None:
        """Forget the task's waits: it has ended, or they do not count."""
        if task_id in self._waits:
            self.end(task_id, 0.0)
            del self._waits[task_id]

    def waits(self, task_id: str) -> bool:
        """Return whether the task waits for its key."""
        wait = self._waits.get(task_id)
        return wait is not None and wait.since is not None

    def missing(self, key: str | None) -> bool:
        """Return whether some task waits for this key. Other tasks with the key will wait, too."""
        return key is not None and key in self._waiting

    def holds(self, record: Record) -> bool:
        """Whether the task waits for its key, or will when its turn comes."""
        return self.waits(record.task_id) or (
            not record.attempts and self.missing(record.origin.key)
        )

    @property
    def waiting(self) -> int:
        """How many tasks wait for their keys."""
        return sum(self._waiting.values())

    def seconds(self, task_id: str, now: float) -> float:
        """Return for how many seconds the task has waited since its first attempt."""
        wait = self._waits.get(task_id)
        if wait is None:
            return 0.0
        return wait.earlier_s + (0.0 if wait.since is None else max(0.0, now - wait.since))
