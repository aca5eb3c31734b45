"""The limit of concurrent calls to A in one process; lower while the circuit breaker is open.

Each call needs a permit. Callers share the permits (see `FairQueue`); those of one caller are given
by urgency, then in the order of the turns::

    permit = await limiter.enter(left_s, turn, caller, urgency)  # raises `OutOfPatience`
    try:
        ...  # call A, then permit.answered() or permit.outage(device, error)
    finally:
        permit.end()
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from rtprov.errors import OutOfPatience
from rtprov.fair_queue import FairQueue
from rtprov.model import DEFAULT_URGENCY, EquipmentState
from rtprov.worker.token_bucket import TokenBucket

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from rtprov.errors import NoAnswer
    from rtprov.worker.circuit_breaker import CircuitBreaker
    from rtprov.worker.pace import Pace

LOOK_EVERY_S = 1.0  # how often waiters are checked for lost patience while A is in trouble
SHORTEST_TIMER_S = 0.01  # without it, rounding of floats could set a timer for 0 s in a loop


@define(eq=False)
class Permit:
    """The permission for one call. Give it back with `end`."""

    _limiter: CallLimiter
    _generation: int
    _caller: str | None
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
            self._limiter._leave(self._generation, self._caller)


@define(eq=False)
class _Waiter:
    permitted: Deferred[Permit] = field(repr=False)
    caller: str | None
    left_s: float
    deadline: float | None = None  # set while A is in trouble


class CallLimiter:
    """Gives permits for calls to A, for all shards of the process together.

    `concurrency` is the largest number of calls at the same time, `per_second` the largest number
    of permits in a second, None for no limit. `pace` limits how many permits are given in one turn
    of the reactor. Each function in `watchers` is called when `state` has
    changed.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        concurrency: int,
        breaker: CircuitBreaker,
        pace: Pace,
        clock: IReactorTime,
        per_second: float | None = None,
    ) -> None:
        self.concurrency = concurrency
        self.per_second = per_second
        self._pace = pace
        self._rate = TokenBucket(per_second)
        self.watchers: list[Callable[[], None]] = []
        self._free = concurrency
        self._breaker = breaker
        self._clock = clock
        self._turns = count()
        self._waiting: dict[_Waiter, None] = {}  # an ordered set
        self._queue: FairQueue[_Waiter] = FairQueue()
        self._state = EquipmentState.CLOSED
        self._admitting = False
        self._look: IDelayedCall | None = None
        self._resuming: IDelayedCall | None = None
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

    def waiting(self, caller: str | None) -> int:
        """Return how many calls for this caller wait for their permits."""
        return self._queue.waiting(caller)

    def enter(
        self,
        left_s: float,
        turn: int | None = None,
        caller: str | None = None,
        urgency: int = DEFAULT_URGENCY,
    ) -> Deferred[Permit]:
        """Return a Deferred that fires with a permit when the call may be made.

        Among waiters of one `caller`, those with a lower `urgency` (0 to 7) are served first, then
        those with a lower `turn`, a result of `next_turn`; without one, a new turn is taken.
        Fails with `OutOfPatience` after `left_s` seconds of waiting while A is in trouble; other
        waiting time does not count. Cancelling the Deferred gives up the place."""
        waiter: _Waiter = _Waiter(Deferred(lambda _: self._remove(waiter)), caller, left_s)
        if self._in_trouble:
            waiter.deadline = self._clock.seconds() + left_s
        self._waiting[waiter] = None
        self._queue.add(caller, waiter, urgency, self.next_turn() if turn is None else turn)
        self._admit()
        return waiter.permitted

    def _remove(self, waiter: _Waiter) -> None:
        self._waiting.pop(waiter, None)
        self._queue.remove(waiter.caller, waiter)

    def stop(self) -> None:
        """Cancel the timers, and set no other ones."""
        self._stopped = True
        for timer in (self._look, self._resuming):
            if timer is not None:
                timer.cancel()
        self._look = self._resuming = None

    # Called by permits.

    def _leave(self, generation: int, caller: str | None) -> None:
        self._free += 1
        self._queue.ended(caller)
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
                wait_s = self._rate.wait_s(now)
                if wait_s:
                    self._admit_later(max(wait_s, SHORTEST_TIMER_S))
                    break
                if not self._pace.allows():
                    self._admit_later(0)
                    break
                self._rate.take()
                waiter = self._queue.pop()
                del self._waiting[waiter]
                self._free -= 1
                waited_s = (
                    0.0 if waiter.deadline is None else waiter.left_s - (waiter.deadline - now)
                )
                permit = Permit(self, self._breaker.begin(now), waiter.caller, waited_s)
                waiter.permitted.callback(permit)
        finally:
            self._admitting = False
        self._note_recovery()
        self._note_change()
        self._set_timer()

    def _admit_later(self, pause_s: float) -> None:
        if self._resuming is None and not self._stopped:
            self._resuming = self._clock.callLater(pause_s, self._resume)

    def _resume(self) -> None:
        self._resuming = None
        self._admit()

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

    def _set_timer(self) -> None:
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
                self._remove(waiter)
                waiter.permitted.errback(OutOfPatience())
