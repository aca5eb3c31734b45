"""Calls into the thread that reads and writes a history, with deadlines and a limit."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred

from rtprov.errors import HistoryUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

T = TypeVar("T")

MAX_WAITING = 100  # calls that the thread has not begun or not ended


class HistoryThread:
    """Calls functions in one thread, one at a time and in order.

    `run` does that; its Deferred fires with the result, or fails with the error.
    """

    def __init__(self, run: Callable[..., Deferred[Any]], clock: IReactorTime) -> None:
        self._run = run
        self._clock = clock
        self._waiting = 0

    def call(self, deadline_s: float, function: Callable[..., T], *arguments: Any) -> Deferred[T]:
        """Call a function, and fire with its result.

        Fails with `HistoryUnavailable` if the function raises `sqlite3.Error` or OSError, if it has
        not returned after `deadline_s` seconds (it still runs then), or if too many calls wait.
        """
        result: Deferred[T] = Deferred()
        if self._waiting >= MAX_WAITING:
            result.errback(HistoryUnavailable("the disk is too slow: too many calls wait for it"))
            return result
        self._waiting += 1
        late = self._clock.callLater(
            deadline_s,
            self._end,
            result,
            HistoryUnavailable(f"the disk is too slow: no result within {deadline_s:g} s"),
        )

        def ended(outcome: T | Failure) -> None:
            self._waiting -= 1
            if late.active():
                late.cancel()
            self._end(result, outcome)

        self._run(function, *arguments).addBoth(ended)
        return result

    def _end(self, result: Deferred[Any], outcome: Any) -> None:
        if result.called:
            return
        error = getattr(outcome, "value", outcome)
        if isinstance(error, (sqlite3.Error, OSError)):
            result.errback(HistoryUnavailable(str(error) or type(error).__name__))
        elif isinstance(error, HistoryUnavailable):
            result.errback(error)
        else:
            result.callback(outcome)  # a Failure becomes an errback
