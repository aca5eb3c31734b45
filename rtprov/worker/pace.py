"""Limits for work that comes in bursts: how much runs at once, and how much begins in one turn."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults, succeed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from twisted.internet.interfaces import IReactorTime

T = TypeVar("T")

# To begin a call takes about a millisecond. One read from the broker may release hundreds of calls;
# status requests of the same read would wait for all of them.
CALLS_A_TURN = 16


class Pace:
    """Lets at most `a_turn` callers pass in one turn of the reactor, in the order in which they
    ask. The others pass in later turns, so that the reactor reads from its sockets in between.
    """

    def __init__(self, a_turn: int, clock: IReactorTime) -> None:
        self._a_turn = a_turn
        self._clock = clock
        self._passed = 0
        self._waiting: deque[Deferred[None]] = deque()

    def turn(self) -> Deferred[None]:
        """Return a Deferred that fires when the caller may pass, at once if possible.

        Cancelling it gives up the place.
        """
        if self.allows():
            return succeed(None)
        waiter: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiter)
        return waiter

    def allows(self) -> bool:
        """Return whether the caller may pass now; it is counted then."""
        if self._waiting or self._passed >= self._a_turn:
            return False
        self._count()
        return True

    def _count(self) -> None:
        self._passed += 1
        if self._passed == 1:
            self._clock.callLater(0, self._next_turn)

    def _next_turn(self) -> None:
        self._passed = 0
        while self._waiting and self._passed < self._a_turn:
            self._count()
            self._waiting.popleft().callback(None)


async def for_each(
    items: Iterable[T], work: Callable[[T], Coroutine[Any, Any, None]], *, at_once: int
) -> None:
    """Await `work` for each item, started in order, at most `at_once` at the same time.

    Raises the first error, after cancelling the rest."""
    remaining = iter(items)

    async def run() -> None:
        for item in remaining:
            await work(item)

    running = [Deferred.fromCoroutine(run()) for _ in range(at_once)]
    try:
        await gatherResults(running, consumeErrors=True)
    except FirstError as error:
        for each in running:
            each.cancel()
        error.subFailure.raiseException()
