"""The limit of concurrent calls to A in one process; lower while the circuit breaker is open.

Each call needs a permit. Permits are given in the order of the turns::

    permit = await limiter.enter(left_s, turn)  # raises `OutOfPatience`
    try:
        ...  # call A, then permit.answered() or permit.outage(device, error)
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

LOOK_EVERY_S = 1.0  # how often waiters are checked for lost patience while A is in trouble
SHORTEST_TIMER_S = 0.01  # without it, rounding of floats could set a timer for 0 s in a loop
# The heap is rebuilt when it holds more cancelled waiters than this, and more of them than others.
MAX_CANCELLED = 1000


@define(eq=False)
class Permit:
    """The permission for one call. Give it back with `end`."""

    _limiter: CallLimiter
    _generation: int
    waited_s: float = 0.0  # how long it waited because A was in trouble
    _ended: bool = False

    def answered(self) -> None:
        """Call this when A has answered, also with an error."""
        self._limiter._answered()

    def outage(self, device: str, error: NoAnswer) -> None:
        """Call this when the call for `device` got no answer from A."""
        self._limiter._outage(self._generation, device, error)

    def end(self) -> None:
        """Give the permit back. Does nothing the second time."""
        if not self._ended:
            self._ended = True
            self._limiter._leave(self._generation)


@define(eq=False)
class _Waiter:
    permitted: Deferred[Permit] = field(repr=False)
    left_s: float
    deadline: float | None = None  # set while A is in trouble


class CallLimiter:
    """Gives permits for calls to A, for all shards of the process together.

    `concurrency` is the largest number of calls at the same time. Each function in `watchers` is
    called when `state` has changed.
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
        self._queue: list[tuple[int, int, _Waiter]] = []  # a heap; may hold cancelled waiters
        self._state = EquipmentState.CLOSED
        self._admitting = False
        self._look: IDelayedCall | None = None
        self._in_trouble = False
        self._stopped = False

    @property
    def state(self) -> EquipmentState:
        """The state of A, as the circuit breaker sees it."""
        if self._breaker.closed:
            return EquipmentState.CLOSED
        return EquipmentState.HALF_OPEN if self._breaker.half_open else EquipmentState.OPEN

    @property
    def used(self) -> int:
        """How many permits are given out."""
        return self.concurrency - self._free

    def next_turn(self) -> int:
        """Return a turn that is later than all turns before it."""
        return next(self._turns)

    def enter(self, left_s: float, turn: int | None = None) -> Deferred[Permit]:
        """Return a Deferred that fires with a permit when the call may be made.

        Waiters are served by `turn`, a result of `next_turn`; without one, a new turn is taken.
        Fails with `OutOfPatience` after `left_s` seconds of waiting while A is in trouble; other
        waiting time does not count. Cancelling the Deferred gives up the place."""
        waiter: _Waiter = _Waiter(Deferred(lambda _: self._waiting.pop(waiter, None)), left_s)
        if self._in_trouble:
            waiter.deadline = self._clock.seconds() + left_s
        self._waiting[waiter] = None
        number = self.next_turn()
        heappush(self._queue, (number if turn is None else turn, number, waiter))
        if len(self._queue) > 2 * len(self._waiting) + MAX_CANCELLED:
            self._queue = [each for each in self._queue if each[2] in self._waiting]
            heapify(self._queue)
        self._admit()
        return waiter.permitted

    def stop(self) -> None:
        """Cancel the timer, and set no other one."""
        self._stopped = True
        if self._look is not None:
            self._look.cancel()
            self._look = None

    # Called by permits.

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
                "A is in trouble ({error}): holding back calls, one call at a time probes it",
                event="equipment.trouble",
                error=error,
            )
            for waiter in self._waiting:
                waiter.deadline = self._clock.seconds() + waiter.left_s
        self._note_change()

    def _admit(self) -> None:
        """Give permits to the waiters that may call now.

        A nested call returns at once and leaves the work to the loop of the outer one. So thousands
        of permits can be given and returned without recursion.
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
            self._log.info("A has recovered: making calls as usual", event="equipment.recovered")
            for waiter in self._waiting:
                waiter.deadline = None

    def _arm(self) -> None:
        """Set the timer for the next change that comes from time alone: a probe is due, or a
        waiter's patience is over.
        """
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if self._stopped or not self._in_trouble or not (self._waiting or self._breaker.half_open):
            return
        next_look_s = self._breaker.next_look_s(self._clock.seconds())
        next_look_s = LOOK_EVERY_S if next_look_s is None else min(next_look_s, LOOK_EVERY_S)
        self._look = self._clock.callLater(max(next_look_s, SHORTEST_TIMER_S), self._look_again)

    def _look_again(self) -> None:
        self._look = None
        self._admit()
        if self._in_trouble and not self._breaker.half_open:
            self._fail_overdue()

    def _fail_overdue(self) -> None:
        now = self._clock.seconds()
        for waiter in list(self._waiting):
            if waiter.deadline is not None and now >= waiter.deadline and waiter in self._waiting:
                del self._waiting[waiter]
                waiter.permitted.errback(OutOfPatience())
