"""How much memory the messages in all queues take together, and the alarm when that is too much."""

from __future__ import annotations

from collections.abc import Callable

import attrs

ENOUGH = 0.8  # of the limit: the alarm is over once no more than this is used


@attrs.define(eq=False)
class Memory:
    """An account in bytes. `on_change` is called with True when more than `limit` is used, and with
    False once there is room again.
    """

    limit: int
    on_change: Callable[[bool], None]
    used: int = 0
    full: bool = False

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
