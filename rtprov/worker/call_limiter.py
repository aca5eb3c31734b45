"""What every call to A passes through: so many at once in this process and, while A is in trouble,
as few as the breaker says.

permit = await gate.enter(left_s, turn)  # first come, first served; raises `OutOfPatience`
try:
    ...                                  # call A; then permit.answered() or permit.outage(…)
finally:
    permit.end()
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from rtprov.errors import OutOfPatience
from rtprov.model import EquipmentState

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from rtprov.errors import NoAnswer
    from rtprov.worker.circuit_breaker import CircuitBreaker

LOOK_EVERY_S = 1.0  # at who has run out of patience, while A is in trouble
LOOK_AGAIN_S = 0.01  # at the least: times are floats
MANY_GONE = 1000


@define(eq=False)
class Permit:
    """Leave for one call, to be given back by `end`."""

    _gate: CallLimiter
    _generation: int
    waited_s: float = 0.0  # for an A in trouble
    _ended: bool = False

    def answered(self) -> None:
        """A has answered the call, be it with an error of its own."""
        self._gate._answered()

    def outage(self, device: str, error: NoAnswer) -> None:
        """A gave no answer for this device, or none of its own."""
        self._gate._outage(self._generation, device, error)

    def end(self) -> None:
        """The call is over, or was never made. Does nothing the second time."""
        if not self._ended:
            self._ended = True
            self._gate._leave(self._generation)


@define(eq=False)
class _Waiter:
    permitted: Deferred[Permit] = field(repr=False)
    left_s: float
    deadline: float | None = None  # while A is in trouble


class CallLimiter:
    """`concurrency` is how many calls may be under way at once, all shards of the process together.

    Each of `watchers` is called when `state` has changed.
    """

    _log = Logger()

    def __init__(self, *, concurrency: int, breaker: CircuitBreaker, clock: IReactorTime) -> None:
        self.concurrency = concurrency
        self.watchers: list[Callable[[], None]] = []
        self._free = concurrency
        self._breaker = breaker
        self._clock = clock
        self._turns = count()
        self._waiting: dict[_Waiter, None] = {}  # an ordered set
        self._queue: list[tuple[int, int, _Waiter]] = []  # a heap, with some that wait no longer
        self._state = EquipmentState.CLOSED
        self._admitting = False
        self._look: IDelayedCall | None = None
        self._in_trouble = False
        self._stopped = False

    @property
    def state(self) -> EquipmentState:
        """How A looks."""
        if self._breaker.closed:
            return EquipmentState.CLOSED
        return EquipmentState.HALF_OPEN if self._breaker.half_open else EquipmentState.OPEN

    def next_turn(self) -> int:
        """A turn later than all before it."""
        return next(self._turns)

    def enter(self, left_s: float, turn: int | None = None) -> Deferred[Permit]:
        """Fire when the call may be made: before those with a later `turn`, of `next_turn`; a new
        one is taken where none is given.

        Cancelling gives the place in the queue up. Fails with `OutOfPatience` after `left_s`
        seconds of waiting for an A in trouble. Waiting for one's turn costs none otherwise."""
        waiter: _Waiter = _Waiter(Deferred(lambda _: self._waiting.pop(waiter, None)), left_s)
        if self._in_trouble:
            waiter.deadline = self._clock.seconds() + left_s
        self._waiting[waiter] = None
        number = self.next_turn()
        heappush(self._queue, (number if turn is None else turn, number, waiter))
        if len(self._queue) > 2 * len(self._waiting) + MANY_GONE:
            self._queue = [each for each in self._queue if each[2] in self._waiting]
            heapify(self._queue)
        self._admit()
        return waiter.permitted

    def stop(self) -> None:
        """Leave no timer behind."""
        self._stopped = True
        if self._look is not None:
            self._look.cancel()
            self._look = None

    # What a permit calls.

    def _leave(self, generation: int) -> None:
        self._free += 1
        self._breaker.end(generation)
        self._admit()

    def _answered(self) -> None:
        self._breaker.answered(self._clock.seconds())
        self._admit()

    def _outage(self, generation: int, device: str, error: NoAnswer) -> None:
        self._breaker.outage(generation, device, self._clock.seconds(), error.retry_after_s)
        if not self._breaker.closed and not self._in_trouble:
            self._in_trouble = True
            self._log.warn(
                "A is in trouble ({error}): calls wait, and one at a time tries whether it is over",
                error=error,
            )
            for waiter in self._waiting:
                waiter.deadline = self._clock.seconds() + waiter.left_s
        self._note_change()

    # Inside.

    def _admit(self) -> None:
        """Let in whoever may go, in a loop: thousands may come and go at once without nesting their
        calls.
        """
        if self._admitting:
            return
        self._admitting = True
        try:
            now = self._clock.seconds()
            while self._breaker.may_begin(now) and self._free and self._waiting:
                waiter = heappop(self._queue)[2]
                if waiter not in self._waiting:
                    continue
                del self._waiting[waiter]
                self._free -= 1
                waited_s = (
                    0.0 if waiter.deadline is None else waiter.left_s - (waiter.deadline - now)
                )
                waiter.permitted.callback(Permit(self, self._breaker.begin(now), waited_s))
        finally:
            self._admitting = False
        self._note_recovery()
        self._note_change()
        self._arm()

    def _note_change(self) -> None:
        if self.state is not self._state:
            self._state = self.state
            for watcher in self.watchers:
                watcher()

    def _note_recovery(self) -> None:
        if self._in_trouble and self._breaker.closed:
            self._in_trouble = False
            self._log.info("A has recovered: calls are made as usual")
            for waiter in self._waiting:
                waiter.deadline = None

    def _arm(self) -> None:
        """Look again when time alone may let a call begin, or has used a patience up."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if self._stopped or not self._in_trouble or not (self._waiting or self._breaker.half_open):
            return
        next_look_s = self._breaker.next_look_s(self._clock.seconds())
        next_look_s = LOOK_EVERY_S if next_look_s is None else min(next_look_s, LOOK_EVERY_S)
        self._look = self._clock.callLater(max(next_look_s, LOOK_AGAIN_S), self._look_again)

    def _look_again(self) -> None:
        self._look = None
        self._admit()
        if self._in_trouble and not self._breaker.half_open:
            self._lose_patience()

    def _lose_patience(self) -> None:
        now = self._clock.seconds()
        for waiter in list(self._waiting):
            if waiter.deadline is not None and now >= waiter.deadline and waiter in self._waiting:
                del self._waiting[waiter]
                waiter.permitted.errback(OutOfPatience())
