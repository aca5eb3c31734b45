"""Heartbeats (AMQP 0-9-1 §4.2.7): keep a silent connection alive, and notice a dead one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.task import LoopingCall

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime


class Heartbeat:
    """Remembers when a byte last came and went, and looks at it twice each interval; a byte costs no timer.

    The protocol sets `received_at` and `sent_at`. `beat` is called to send a heartbeat, `dead` once nothing has been received for two
    intervals.
    """

    def __init__(self, *, clock: IReactorTime, beat: Callable[[], None], dead: Callable[[], None]) -> None:
        self._clock = clock
        self._beat = beat
        self._dead = dead
        self._interval_s = 0.0
        self._loop = LoopingCall.withCount(self._look)
        self._loop.clock = clock
        self.received_at = self.sent_at = clock.seconds()

    def start(self, interval_s: float) -> None:
        """Start to look; 0 s means that both sides do without heartbeats."""
        if interval_s > 0:
            self._interval_s = interval_s
            self._loop.start(interval_s / 2, now=False)

    def stop(self) -> None:
        """Leave no timer behind."""
        if self._loop.running:
            self._loop.stop()

    def _look(self, turns: int) -> None:
        now = self._clock.seconds()
        if turns > 1:
            # We, not the peer, have been asleep: what it sent meanwhile still waits to be read.
            self.received_at = max(self.received_at, now - self._interval_s)
        if now - self.received_at >= 2 * self._interval_s:
            self._dead()
        elif now - self.sent_at >= self._interval_s / 4:
            self._beat()
