"""A front end's cache of final task states.

A final state never changes, so a cached one answers later polls without a question to the broker.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from rtprov.model import State, may_be_reused

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_REMEMBERED = 100_000
# For ids made from an Idempotency-Key: after the retention, a new task may get the same id.
REMEMBERED_KEYED_S = 60.0


class FinalStates:
    """The latest `MAX_REMEMBERED` final states, by task id and equipment id.

    `seconds` returns the time of a monotonic clock, in seconds.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        # A state, and the time at which it expires; None for ids that are never used again.
        self._remembered: OrderedDict[tuple[str, str], tuple[State, float | None]] = OrderedDict()

    def recall(self, task_id: str, equipment_id: str) -> State | None:
        """Return the task's final state, or None if it is not in the cache."""
        state, until = self._remembered.get((task_id, equipment_id), (None, None))
        return state if until is None or self._seconds() < until else None

    def remember(self, task_id: str, equipment_id: str, state: State) -> State:
        """Store a final state and return it.

        If a state of the task is already stored, it is kept and returned instead.
        """
        known = self.recall(task_id, equipment_id)
        if known is not None:
            return known
        until = self._seconds() + REMEMBERED_KEYED_S if may_be_reused(task_id) else None
        self._remembered[task_id, equipment_id] = state, until
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return state

    def forget(self, task_id: str, equipment_id: str) -> None:
        """Remove the task's state, because a new task may have its id."""
        self._remembered.pop((task_id, equipment_id), None)
