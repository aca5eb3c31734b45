"""How much memory the messages in all queues take together, and the alarm when that is too much."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred

ENOUGH = 0.8  # of the limit: the alarm is over once no more than this is used


@attrs.define(eq=False)
class Memory:
    """An account in bytes. `on_change` is called with True when more than `limit` is used, and with False once there is room again.

    `later` has something called in a turn of the reactor of its own.
    """

    limit: int = 256 * 1024 * 1024
    on_change: Callable[[bool], None] = lambda full: None
    later: Callable[[Callable[[], None]], object] = lambda call: call()
    used: int = 0
    full: bool = False
    _waiting: list[Deferred[None]] = attrs.Factory(list)

    def take(self, size: int) -> None:
        """A message is held in memory."""
        self.used += size
        if self.used > self.limit and not self.full:
            self.full = True
            self.on_change(True)

    def give(self, size: int) -> None:
        """A message is held no longer, or only for a consumer."""
        self.used -= size
        if self.full and self.used <= self.limit * ENOUGH:
            self.full = False
            self.on_change(False)
            self.later(self._tell)  # who gives is in the middle of something, and who waits may publish at once

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    def when_room(self) -> Deferred[None]:
        """Fire once there is room again."""
        room: Deferred[None] = Deferred()
        self._waiting.append(room)
        return room
