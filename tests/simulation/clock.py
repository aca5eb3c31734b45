"""Virtual time: one clock for the whole world, and for each role its own view of it, which ends with the role.

world = WorldClock()
role = Role("worker1", world, offset_s=-90.0)
role.clock.callLater(1.0, print, "never printed")
role.alive = False
while world.step(): ...
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

EPOCH = 1_800_000_000.0

_log = Logger()


class _Call(DelayedCall):
    number = 0  # of its newest entry in the heap; older ones are void


@define(eq=False)
class Role:
    """A process of the world. Nothing of it runs once it is not `alive`, and nothing before `frozen_until`.

    `offset_s` is how far its wall clock is ahead of the world's.
    """

    name: str
    world: WorldClock
    offset_s: float = 0.0
    alive: bool = True
    frozen_until: float = 0.0
    clock: RoleClock = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.clock = RoleClock(self)

    def wall_clock(self) -> float:
        """Seconds since the epoch, as this role's machine has them."""
        return EPOCH + self.world.now + self.offset_s


class WorldClock:
    """All that is to happen, in order: first by time, then by the order in which it was asked for. `now` is in seconds from 0."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, float, int, _Call, Role | None]] = []
        self._numbers = 0

    def seconds(self) -> float:
        return self.now

    def call_later(self, role: Role | None, delay: float, function: Callable[..., object], *args: Any, **kwargs: Any) -> DelayedCall:
        """Call `function` after `delay` seconds, if `role` is still there then; None is the world itself."""

        def push(call: DelayedCall) -> None:
            self._numbers += 1
            assert isinstance(call, _Call)
            call.number = self._numbers
            heappush(self._heap, (call.time, call.time, call.number, call, role))

        call = _Call(self.now + delay, function, args, kwargs, _ignore, push, self.seconds)
        if role is None or role.alive:
            push(call)
        return call

    def pending(self) -> list[tuple[Role | None, DelayedCall]]:
        """What is still to happen."""
        return [
            (role, call)
            for _, _, number, call, role in sorted(self._heap, key=lambda entry: entry[:3])
            if call.active() and call.number == number and (role is None or role.alive)
        ]

    def step(self) -> bool:
        """Let the next thing happen; return whether there was one."""
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
            if call.delayed_time:
                call.activate_delay()
                heappush(self._heap, (call.time, call.time, number, call, role))
                continue
            self.now = max(self.now, at)
            self.events += 1
            call.called = 1
            try:
                call.func(*call.args, **call.kw)
            except Exception:
                _log.failure("an event of {role} failed", role=role.name if role is not None else "the world")
            return True
        return False


def _ignore(_: object) -> None:
    """A cancelled call is passed over when its time comes."""


@implementer(IReactorTime)
class RoleClock:
    """The reactor's clock as one role has it."""

    def __init__(self, role: Role) -> None:
        self._role = role

    def seconds(self) -> float:
        return self._role.wall_clock()

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object) -> IDelayedCall:
        return cast("IDelayedCall", self._role.world.call_later(self._role, delay, callable, *args, **kwargs))

    def getDelayedCalls(self) -> list[IDelayedCall]:
        return [cast("IDelayedCall", call) for role, call in self._role.world.pending() if role is self._role]
