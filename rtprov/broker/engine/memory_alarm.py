"""Count the memory used by the messages of all queues, and raise an alarm if it is too much."""

from __future__ import annotations

from collections.abc import Callable

import attrs

ENOUGH = 0.8  # fraction of the limit at or below which the alarm ends


@attrs.define(eq=False)
class Memory:
    """Counts used memory, in bytes.

    `on_change` is called with True when more than `limit` is used, and with False once no more than
    80 % of it is used. `full` is the present state.
    """

    limit: int
    on_change: Callable[[bool], None]
    used: int = 0
    full: bool = False

    def take(self, size: int) -> None:
        """Add a message of `size` bytes that is now in memory."""
        self.used += size
        if self.used > self.limit and not self.full:
            self.full = True
            self.on_change(True)

    def give(self, size: int) -> None:
        """Subtract a message of `size` bytes that was removed or delivered."""
        self.used -= size
        if self.full and self.used <= self.limit * ENOUGH:
            self.full = False
            self.on_change(False)
