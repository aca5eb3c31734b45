"""Long work in short pieces, so that the reactor is never held up."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from twisted.internet.defer import DeferredLock

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime

PIECE_S = 0.005

T = TypeVar("T")


class Pieces:
    """Runs the pieces of all searches of a process, at most one in each turn of the reactor."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._lock = DeferredLock()

    async def run(self, piece: Callable[[Callable[[], bool]], T]) -> T:
        """Return the result of `piece`, when it is its turn.

        `piece` gets a function that tells whether its time, 5 ms, is over.
        """
        await self._lock.acquire()
        try:
            end = self._clock.seconds() + PIECE_S
            return piece(lambda: self._clock.seconds() >= end)
        finally:
            self._clock.callLater(0, self._lock.release)
