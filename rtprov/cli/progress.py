"""A progress bar on standard error, on a terminal only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rtprov.cli.output import duration, styled

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


class Progress:
    """The progress of `total` tasks. `seconds` is a clock.

    rich draws from a thread unless it is told not to; here the reactor draws.
    """

    def __init__(self, console: Console, total: int, seconds: Callable[[], float]) -> None:
        self.visible = console.is_terminal
        self._console = console
        self._total = total
        self._seconds = seconds
        self._began = seconds()
        self._said = ""
        self._live: Live | None = None

    def show(self, ended: Counter[str]) -> None:
        """Draw the bar. `ended` counts the tasks that have ended, by state."""
        if not self.visible:
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        done = sum(ended.values())
        row = Table.grid(padding=(0, 1))
        parts: list[RenderableType] = [
            ProgressBar(total=max(1, self._total), completed=done, width=24),
            Text(f"{done}/{self._total}"),
            Text(duration(self._seconds() - self._began)),
        ]
        parts += [Text.assemble(styled(state), f" {count}") for state, count in ended.items()]
        if self._said:
            parts.append(Text(self._said, style="yellow", overflow="ellipsis", no_wrap=True))
        row.add_row(*parts)
        self._live.update(row, refresh=True)

    def say(self, text: str) -> None:
        """Show why it takes longer; without a terminal, once on a line of its own."""
        if text != self._said:
            self._said = text
            if not self.visible:
                self._console.print(Text(f"rtprov: {text}"))

    def end(self) -> None:
        """Remove the bar."""
        if self._live is not None:
            self._live.stop()
            self._live = None
