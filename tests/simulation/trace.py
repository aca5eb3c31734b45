"""The trace of a run: what happened, in order. It is shown after a violation, and with
``--seed``.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from attrs import define, field

if TYPE_CHECKING:
    from tests.simulation.clock import WorldClock

LAST_LINES = 25


@define(eq=False)
class Trace:
    """Lines with their time, and with the task and device that they are about. With `live` each is
    printed at once.
    """

    world: WorldClock
    live: bool = False
    lines: list[tuple[float, str, str | None, str | None]] = field(factory=list)

    def note(self, text: str, task_id: str | None = None, device: str | None = None) -> None:
        """Add a line."""
        self.lines.append((self.world.now, text, task_id, device))
        if self.live:
            print(_line(self.world.now, text))  # noqa: T201 - the trace that was asked for

    def log(self, text: str) -> None:
        """Print a log event of the product. It is not part of the trace."""
        if self.live:
            print(_line(self.world.now, f"    log: {text}"))  # noqa: T201 - the same

    def about(self, task_id: str | None, device: str | None) -> str:
        """Return the last lines about a task or its device, or about neither."""
        chosen = [
            (at, text)
            for at, text, task, about in self.lines
            if (task is None and about is None)
            or task_id in (None, task)
            or (device is not None and about == device)
        ]
        return "\n".join(_line(at, text) for at, text in chosen[-LAST_LINES:])

    def digest(self) -> str:
        """Return a hash of the trace. Runs with equal traces have the same digest."""
        text = "\n".join(_line(at, text) for at, text, _, _ in self.lines)
        return hashlib.sha256(text.encode()).hexdigest()


def _line(at: float, text: str) -> str:
    return f"{at:10.4f}  {text}"
