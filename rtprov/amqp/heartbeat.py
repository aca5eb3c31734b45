"""Heartbeats (AMQP 0-9-1 §4.2.7): keep a silent connection alive, and notice a dead one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Heartbeat:
    """Remembers when a byte last came and went, and looks at it twice each interval; a byte costs
    no timer.

    The protocol sets `received_at` and `sent_at`. `beat` is called to send a heartbeat, `dead` once
    nothing has been received for two intervals. (Not a `LoopingCall`: making one imports the global
    reactor.)"""

    def __init__(
        self, *, clock: IReactorTime, beat: Callable[[], None], dead: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._beat = beat
        self._dead = dead
        self._interval_s = 0.0
        self._call: IDelayedCall | None = None
        self._looked_at = 0.0
        self.received_at = self.sent_at = clock.seconds()

    def start(self, interval_s: float) -> None:
        """Start to look; 0 s means that both sides do without heartbeats."""
        if interval_s > 0:
            self._interval_s = interval_s
            self._look_later()

    def stop(self) -> None:
        """Leave no timer behind."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _look_later(self) -> None:
        self._looked_at = self._clock.seconds()
        self._call = self._clock.callLater(self._interval_s / 2, self._look)

    def _look(self) -> None:
        now = self._clock.seconds()
        if now - self._looked_at >= self._interval_s:
            # We, not the peer, have been asleep: what it sent meanwhile still waits to be read.
            self.received_at = max(self.received_at, now - self._interval_s)
        self._look_later()
        if now - self.received_at >= 2 * self._interval_s:
            self._dead()
        elif now - self.sent_at >= self._interval_s / 4:
            self._beat()
