"""The quarantine: a limit of concurrent calls for tasks during whose calls workers have died.

If a task makes workers crash, all tasks under way at that moment are suspects. With each further
crash, fewer suspects run at the same time: 64, then 8, then one alone. So the other tasks finish,
and the task that causes the crashes remains. After `GIVE_UP_AFTER` crashes, A is not called for
that task any more.
"""

from __future__ import annotations

from collections import deque

from attrs import define, field
from twisted.internet.defer import Deferred, succeed

SUSPECT_AFTER = 3  # crashes
GIVE_UP_AFTER = 20  # crashes; more than a series of restarts for other reasons causes
# How many suspects may run at the same time, by the number of crashes after SUSPECT_AFTER. With
# more crashes, each runs alone.
_LIMITS = (64, 8)


def max_concurrent_suspects(crash_count: int) -> int | None:
    """Return how many suspects may run at the same time if one of them has had `crash_count`
    crashes; None if a task with that count is not a suspect.
    """
    if crash_count < SUSPECT_AFTER:
        return None
    steps = crash_count - SUSPECT_AFTER
    return _LIMITS[steps] if steps < len(_LIMITS) else 1


@define(eq=False)
class _Waiter:
    max_concurrent_suspects: int
    admitted: Deferred[None] = field(repr=False)


class Quarantine:
    """Limits the suspects of a process; first come, first served."""

    def __init__(self) -> None:
        self._running: list[int] = []
        self._waiting: deque[_Waiter] = deque()
        self._admitting = False

    def enter(self, crash_count: int) -> Deferred[None]:
        """Return a Deferred that fires when the task may run: at once if it is not a suspect.

        Cancelling the Deferred gives up the place.
        """
        limit = max_concurrent_suspects(crash_count)
        if limit is None:
            return succeed(None)
        waiter = _Waiter(limit, Deferred(lambda _: self._waiting.remove(waiter)))
        self._waiting.append(waiter)
        self._admit()
        return waiter.admitted

    def leave(self, crash_count: int) -> None:
        """The task's attempt is over. Call this once for each `enter` that has fired."""
        limit = max_concurrent_suspects(crash_count)
        if limit is not None:
            self._running.remove(limit)
            self._admit()

    def _admit(self) -> None:
        """Let the first waiters run, as far as the limits allow.

        A nested call returns at once and leaves the work to the loop of the outer one, so hundreds
        of tasks that end at once cause no deep recursion.
        """
        if self._admitting:
            return
        self._admitting = True
        try:
            while self._waiting and len(self._running) < min(
                [self._waiting[0].max_concurrent_suspects, *self._running]
            ):
                waiter = self._waiting.popleft()
                self._running.append(waiter.max_concurrent_suspects)
                waiter.admitted.callback(None)
        finally:
            self._admitting = False
