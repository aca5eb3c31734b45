"""What a role gets from this process: the reactor's clock, made monotonic, the wall clock beside
it, randomness and ids.
"""

from __future__ import annotations

import random
import secrets
import time
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtprov.amqp.client.url import BrokerUrl
from rtprov.clocks import READ_EVERY_S, AwakeClock, Step, WallClock
from rtprov.messaging.environment import Environment

log = Logger(namespace="rtprov")

# Twisted's reactor takes its time from the system's clock, which may be set, and counts the seconds
# in which the process was stopped. All its timers read `seconds`. The new clock starts at the old
# one's time, so that timers which are set already stay as they are.
_awake = AwakeClock(time.monotonic, start=time.time())
cast("Any", reactor).seconds = _awake.seconds

clock = cast("IReactorTime", reactor)
wall_clock = WallClock(time.time, clock.seconds)


class TimeWatch(Service):
    """Reads both clocks once a second, so that they notice a stop of the process or a step of the
    system's clock, and logs each.
    """

    def __init__(
        self, awake: AwakeClock = _awake, wall: WallClock = wall_clock, timers: IReactorTime = clock
    ) -> None:
        self._awake = awake
        self._wall = wall
        self._stopped_s = awake.stopped_s
        self._last_step: Step | None = wall.steps[-1] if wall.steps else None
        self._reading = LoopingCall(self._read)
        self._reading.clock = timers

    def startService(self) -> None:
        super().startService()
        reading = self._reading.start(READ_EVERY_S, now=False)
        reading.addErrback(
            lambda reason: log.failure(
                "the clocks are no longer read: a stop of the process may end calls early", reason
            )
        )

    def stopService(self) -> None:
        super().stopService()
        if self._reading.running:
            self._reading.stop()

    def _read(self) -> None:
        self._wall()
        stopped_s, self._stopped_s = self._awake.stopped_s - self._stopped_s, self._awake.stopped_s
        if stopped_s:
            log.warn(
                "this process did not run for {seconds:.1f} s: it was stopped, or its machine was"
                " paused; deadlines are put off by as much",
                seconds=stopped_s,
            )
        step = self._wall.steps[-1] if self._wall.steps else None
        if step is not self._last_step:
            self._last_step = step
            if step is not None and not stopped_s:
                log.warn(
                    "the system's clock was set {seconds:.1f} s {direction}; no deadline and no"
                    " task's patience changes by it",
                    seconds=abs(step.size_s),
                    direction="forward" if step.size_s > 0 else "back",
                )


def environment(broker: IStreamClientEndpoint, url: BrokerUrl) -> Environment:
    """The real process: its reactor, its clock, its randomness."""
    return Environment(
        clock=clock,
        wall_clock=wall_clock,
        rng=random.Random(),
        new_id=lambda: secrets.token_hex(16),
        broker=broker,
        broker_url=url,
    )
