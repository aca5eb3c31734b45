"""The clocks of this process, one monotonic and one wall clock, and the `Environment` of roles."""

from __future__ import annotations

import random
import secrets
import time
from collections import deque
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtprov.amqp.client.url import BrokerUrl
from rtprov.clocks import READ_EVERY_S, AwakeClock, Step, WallClock
from rtprov.messaging.environment import Environment

_log = Logger()
LAGS = 60

# Twisted's reactor uses the system's clock. That clock can be set, and it counts the seconds during
# which the process was stopped. All the reactor's timers read `seconds`. The new clock starts at
# the old clock's time, so timers that are set already stay valid.
_awake = AwakeClock(time.monotonic, start=time.time())
cast("Any", reactor).seconds = _awake.seconds

clock = cast("IReactorTime", reactor)
wall_clock = WallClock(time.time, clock.seconds)


class TimeWatch(Service):
    """Reads both clocks once a second. They then notice that the process was stopped or that the
    system's clock was set; both are logged.
    """

    def __init__(
        self, awake: AwakeClock = _awake, wall: WallClock = wall_clock, timers: IReactorTime = clock
    ) -> None:
        self._awake = awake
        self._wall = wall
        self._stopped_s = awake.stopped_s
        self._last_step: Step | None = wall.steps[-1] if wall.steps else None
        self._reading = LoopingCall(self._read)
        self._reading.clock = self._timers = timers
        self._due = 0.0
        self._lags: deque[float] = deque(maxlen=LAGS)

    @property
    def lag_s(self) -> float:
        """The longest time, in the last minute, by which a reading was late: for that long at least
        the reactor did other things. It misses short delays between two readings.
        """
        return max(self._lags, default=0.0)

    def startService(self) -> None:
        super().startService()
        self._due = self._timers.seconds() + READ_EVERY_S
        reading = self._reading.start(READ_EVERY_S, now=False)
        reading.addErrback(
            lambda reason: _log.failure(
                "the clocks are no longer read; calls may time out early after a pause of this"
                " process",
                reason,
            )
        )

    def stopService(self) -> None:
        super().stopService()
        if self._reading.running:
            self._reading.stop()

    def _read(self) -> None:
        self._wall()
        now = self._timers.seconds()
        self._lags.append(max(0.0, now - self._due))
        self._due = now + READ_EVERY_S - (now - self._due) % READ_EVERY_S
        stopped_s, self._stopped_s = self._awake.stopped_s - self._stopped_s, self._awake.stopped_s
        if stopped_s:
            _log.warn(
                "this process did not run for {seconds:.1f} s: it was stopped, or its machine was"
                " paused; all deadlines are extended by that time",
                seconds=stopped_s,
            )
        step = self._wall.steps[-1] if self._wall.steps else None
        if step is not self._last_step:
            self._last_step = step
            if step is not None and not stopped_s:
                _log.warn(
                    "the system's clock was set {seconds:.1f} s {direction}; deadlines and the"
                    " patience of tasks are not affected",
                    seconds=abs(step.size_s),
                    direction="forward" if step.size_s > 0 else "back",
                )


def environment(broker: IStreamClientEndpoint, url: BrokerUrl) -> Environment:
    """Return the environment of a role in this process: clocks, randomness, ids, broker."""
    return Environment(
        clock=clock,
        wall_clock=wall_clock,
        rng=random.Random(),
        new_id=lambda: secrets.token_hex(16),
        broker=broker,
        broker_url=url,
    )
