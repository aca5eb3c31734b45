"""Tasks in whose calls one worker after another has died. Few of them run at once: so the one that
kills is found, and the others end.

Whoever was under way beside it looks just as guilty. With each death, fewer run together: 64, then
8, then each alone. A task that goes on killing then is given up."""

from __future__ import annotations

from collections import deque

from attrs import define, field
from twisted.internet.defer import Deferred, succeed

SUSPECT_AFTER = 3  # crash_count
GIVE_UP_AFTER = 20  # so many that no series of restarts looks like it
# how many suspects may run at once, by how often their worker died since they became ones; then one
_COMPANY = (64, 8)


def max_concurrent_suspects(crash_count: int) -> int | None:
    """How many suspects may run at once where one of them has seen so many crash_count; None where
    it is no suspect."""
    if crash_count < SUSPECT_AFTER:
        return None
    steps = crash_count - SUSPECT_AFTER
    return _COMPANY[steps] if steps < len(_COMPANY) else 1


@define(eq=False)
class _Waiter:
    max_concurrent_suspects: int
    admitted: Deferred[None] = field(repr=False)


class Quarantine:
    """All suspects of a process, first come, first served."""

    def __init__(self) -> None:
        self._running: list[int] = []
        self._waiting: deque[_Waiter] = deque()
        self._admitting = False

    def enter(self, crash_count: int) -> Deferred[None]:
        """Fire when the task may go on: at once for one that is no suspect. Cancelling gives the
        place up.
        """
        limit = max_concurrent_suspects(crash_count)
        if limit is None:
            return succeed(None)
        waiter = _Waiter(limit, Deferred(lambda _: self._waiting.remove(waiter)))
        self._waiting.append(waiter)
        self._admit()
        return waiter.admitted

    def leave(self, crash_count: int) -> None:
        """The task's attempt is over. To be called once for each `enter` that has fired."""
        limit = max_concurrent_suspects(crash_count)
        if limit is not None:
            self._running.remove(limit)
            self._admit()

    def _admit(self) -> None:
        """In a loop: hundreds may have nothing to do, and leave as they come, without nesting their
        calls.
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
