"""The final states that a front end has learned of. They never change, so remembering the latest
spares the broker the polls that come.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from rtprov.model import State, may_come_again

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_REMEMBERED = 100_000
REMEMBERED_KEYED_S = 60.0  # a final state whose id may be another task's later


class FinalStates:
    """By task and equipment. `seconds` is a clock's."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        # The time beside a state is when it is forgotten: only the id of a key may be another
        # task's later.
        self._remembered: OrderedDict[tuple[str, str], tuple[State, float | None]] = OrderedDict()

    def recall(self, task_id: str, equipment_id: str) -> State | None:
        """The task's final state, if it is remembered."""
        state, until = self._remembered.get((task_id, equipment_id), (None, None))
        return state if until is None or self._seconds() < until else None

    def remember(self, task_id: str, equipment_id: str, state: State) -> State:
        """Keep a final state; return the one that counts: the first that was learned stands."""
        known = self.recall(task_id, equipment_id)
        if known is not None:
            return known
        until = self._seconds() + REMEMBERED_KEYED_S if may_come_again(task_id) else None
        self._remembered[task_id, equipment_id] = state, until
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return state

    def forget(self, task_id: str, equipment_id: str) -> None:
        """The id may be a new task's."""
        self._remembered.pop((task_id, equipment_id), None)
