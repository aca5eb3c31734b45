"""Virtual time: one clock for the whole world, and for each role its own view of it.

    world = WorldClock()
    role = Role("worker1", world, offset_s=-90.0)
    role.clock.callLater(1.0, print, "never printed")
    role.alive = False
    while world.step(): ...

The calls that a role has scheduled do not run after its end.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, cast

from attrs import define, field
from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from rtprov.clocks import READ_EVERY_S, AwakeClock, WallClock

EPOCH = 1_800_000_000.0
EARLY_S = 1e-6  # tolerance for float arithmetic

_log = Logger()


class _Call(DelayedCall):
    number = 0  # of its newest heap entry; older entries are void


@define(eq=False)
class Role:
    """A simulated process. Its timers do not run once `alive` is false, nor between `frozen_from`
    and `frozen_until`.

    `offset_s` is how far its wall clock is ahead of the world's. `steps` are the offsets that it
    had before, each with the time at which it ended.
    """

    name: str
    world: WorldClock
    offset_s: float = 0.0
    alive: bool = True
    frozen_from: float = 0.0
    frozen_until: float = 0.0
    born_at: float = field(init=False)
    steps: list[tuple[float, float]] = field(factory=list)
    clock: RoleClock = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.born_at = self.world.now
        self.clock = RoleClock(self)

    @property
    def wall_clock(self) -> WallClock:
        """The wall clock of this role's machine: seconds since the epoch."""
        return self.clock.wall

    def freeze(self, seconds: float) -> None:
        """Suspend the process from now on, for this many seconds."""
        self.clock.read()
        if self.frozen_until <= self.world.now:
            self.frozen_from = self.world.now
        self.frozen_until = max(self.frozen_until, self.world.now + seconds)

    def set_clock(self, offset_s: float) -> None:
        """Step the system clock of the role's machine."""
        self.clock.read()
        self.steps.append((self.world.now, self.offset_s))
        self.offset_s = offset_s

    def offset_at(self, now: float) -> float:
        """Return how far the role's wall clock was ahead of the world's at this time of
        the world.
        """
        return next((offset_s for until, offset_s in self.steps if now < until), self.offset_s)


class WorldClock:
    """All pending calls, ordered by time, and for equal times by the order in which they were
    scheduled. `now` is in seconds from 0.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, float, int, _Call, Role | None]] = []
        self._numbers = 0

    def seconds(self) -> float:
        return self.now

    def call_later(
        self,
        role: Role | None,
        delay: float,
        function: Callable[..., object],
        *args: Any,
        **kwargs: Any,
    ) -> DelayedCall:
        """Call `function` after `delay` seconds if `role` is still alive then. None is the world
        itself.

        The delay is counted by the role's own clock, as in a reactor: a call that would be early by
        that clock is postponed.
        """
        seconds = self.seconds if role is None else role.clock.seconds

        def push(call: DelayedCall) -> None:
            self._numbers += 1
            assert isinstance(call, _Call)
            call.number = self._numbers
            at = call.time if role is None else self.now + call.time - seconds()
            heappush(self._heap, (at, at, call.number, call, role))

        call = _Call(seconds() + delay, function, args, kwargs, _ignore, push, seconds)
        if role is None or role.alive:
            push(call)
        return call

    def pending(self) -> list[tuple[Role | None, DelayedCall]]:
        """Return the pending calls."""
        return [
            (role, call)
            for _, _, number, call, role in sorted(self._heap, key=lambda entry: entry[:3])
            if call.active() and call.number == number and (role is None or role.alive)
        ]

    def step(self) -> bool:
        """Run the next call; return whether there was one."""
        while self._heap:
            at, due, number, call, role = heappop(self._heap)
            if call.cancelled or call.called or call.number != number:
                continue
            if role is not None:
                if not role.alive:
                    continue
                if role.frozen_until > max(at, self.now):
                    heappush(self._heap, (role.frozen_until, due, number, call, role))
                    continue
            self.now = max(self.now, at)
            if call.delayed_time:
                call.activate_delay()
            if call.time > call.seconds() + EARLY_S:
                call.resetter(call)
                continue
            self.events += 1
            call.called = 1
            try:
                call.func(*call.args, **call.kw)
            except Exception:
                _log.failure(
                    "an event of {role} failed", role=role.name if role is not None else "the world"
                )
            return True
        return False


def _ignore(_: object) -> None:
    """Do nothing: a cancelled call is skipped when its time comes."""


@implementer(IReactorTime)
class RoleClock:
    """The reactor's clock as one role sees it: the product's own clock, read once a second while
    the process runs.
    """

    def __init__(self, role: Role) -> None:
        self._role = role
        self._monotonic = role.world.now
        self._awake = AwakeClock(
            lambda: self._monotonic, start=EPOCH + role.world.now + role.offset_s
        )
        self.wall = WallClock(lambda: EPOCH + self._monotonic + role.offset_s, self._awake.seconds)

    def seconds(self) -> float:
        self.read()
        return self._awake.seconds()

    def read(self) -> None:
        """Catch up on the readings that a real process would have made until now."""
        role, now = self._role, self._role.world.now
        if self._monotonic < role.frozen_until:
            self._read_until(min(now, role.frozen_from))
            if now < role.frozen_until:
                return
            self._read_at(role.frozen_until)
        self._read_until(now)

    def _read_until(self, now: float) -> None:
        while self._monotonic < now:
            self._read_at(min(self._monotonic + READ_EVERY_S, now))

    def _read_at(self, monotonic: float) -> None:
        self._monotonic = monotonic
        self.wall()

    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object
    ) -> IDelayedCall:
        return cast(
            "IDelayedCall",
            self._role.world.call_later(self._role, delay, callable, *args, **kwargs),
        )

    def getDelayedCalls(self) -> list[IDelayedCall]:
        return [
            cast("IDelayedCall", call)
            for role, call in self._role.world.pending()
            if role is self._role
        ]
