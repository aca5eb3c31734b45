"""Waiting until this process's replica has seen its own `Started` events.

The journal's order decides whether a cancellation came before the start of a call. The replica has
seen all earlier events when it sees the `Started` itself. A barrier would tell the same, but costs
a message of its own and lets all calls begin at the same moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from rtprov.model import Started

# An event is normally seen within milliseconds of its confirm. If not, a barrier finds out whether
# the stream has stalled.
SEEN_WITHIN_S = 1.0


class StartedEvents:
    """The `Started` events that were appended and not yet seen. All share one timer."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._expected: dict[tuple[str, int], Deferred[bool]] = {}
        self._timer: IDelayedCall | None = None

    def expect(self, task_id: str, attempt: int) -> Deferred[bool]:
        """Fire with True when the replica has seen the event, or with False after a second.

        The event is that of the task's attempt with this number. Cancelling ends the wait.
        """
        key = task_id, attempt
        seen: Deferred[bool] = Deferred(lambda _: self._forget(key))
        self._expected[key] = seen
        if self._timer is None:
            self._timer = self._clock.callLater(SEEN_WITHIN_S, self._give_up)
        return seen

    def on_started(self, event: Started) -> None:
        """Call this when the replica has applied the event."""
        seen = self._expected.get((event.task_id, event.attempt))
        if seen is not None:
            self._forget((event.task_id, event.attempt))
            seen.callback(True)

    def _forget(self, key: tuple[str, int]) -> None:
        self._expected.pop(key, None)
        if not self._expected and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        expected, self._expected = self._expected, {}
        for seen in expected.values():
            if not seen.called:  # the callbacks of an earlier one may have cancelled it
                seen.callback(False)
