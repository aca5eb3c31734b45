"""Heartbeats (AMQP 0-9-1 §4.2.7): keep an idle connection open, and detect a dead one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Heartbeat:
    """Checks twice in each interval when bytes were last received and sent.

    The protocol sets `received_at` and `sent_at`, so a byte does not reset a timer. `beat` is
    called to send a heartbeat. `dead` is called when nothing has been received for two intervals.

    This is not a `LoopingCall`, because making one imports the global reactor.
    """

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
        """Start the checks. An interval of 0 s means that heartbeats are off."""
        if interval_s > 0:
            self._interval_s = interval_s
            self._look_later()

    def stop(self) -> None:
        """Stop the checks and cancel the timer."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _look_later(self) -> None:
        self._looked_at = self._clock.seconds()
        self._call = self._clock.callLater(self._interval_s / 2, self._look)

    def _look(self) -> None:
        now = self._clock.seconds()
        if now - self._looked_at >= self._interval_s:
            # This process was suspended. What the peer sent meanwhile has not been read yet.
            self.received_at = max(self.received_at, now - self._interval_s)
        self._look_later()
        if now - self.received_at >= 2 * self._interval_s:
            self._dead()
        elif now - self.sent_at >= self._interval_s / 4:
            self._beat()
