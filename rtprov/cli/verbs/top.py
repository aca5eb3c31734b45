"""``rtprov top``: the summary, full screen, live."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from attrs import define, field
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text
from twisted.internet.defer import CancelledError, Deferred

from rtprov.cli.failures import Status, VerbFailed
from rtprov.cli.keyboard import Keyboard
from rtprov.cli.output import console
from rtprov.cli.session import Connected, Session, asks_service_b
from rtprov.cli.sse import ServerEvent, events
from rtprov.cli.summary_view import spark, summary_view
from rtprov.cli.task_view import state_of

if TYPE_CHECKING:
    from rich.console import Console

HISTORY = 60
LATEST = 100
_HEAD = 22  # lines of the summary


@define
class Screen:
    """What ``rtprov top`` shows: the newest summary, the tasks that have ended, and a warning."""

    url: str
    summary: Mapping[str, Any] | None = None
    waiting: deque[int] = field(factory=lambda: deque(maxlen=HISTORY))
    ends: deque[Mapping[str, Any]] = field(factory=lambda: deque(maxlen=LATEST))
    skipped: int = 0
    warning: str = ""

    def take(self, event: ServerEvent | None) -> None:
        """Take an event; None says that the stream has broken."""
        if event is None:
            self.warning = self.warning or "the connection is lost; trying again"
            return
        self.warning = ""
        if event.kind == "summary" and isinstance(event.data, dict):
            self.summary = event.data.get("summary", event.data)
            self.waiting.append(sum(self.summary.get("tasks", {}).values()))
        elif event.kind == "task" and isinstance(event.data, dict):
            self.ends.appendleft(event.data)
        elif event.kind == "skipped" and isinstance(event.data, dict):
            self.skipped += int(event.data.get("count", 0))

    def view(self, now: float, width: int, height: int, *, ascii_only: bool) -> RenderableType:
        """Return the screen for a terminal of this size."""
        head = Text(f"rtprov top  {self.url}  ", style="bold", no_wrap=True, overflow="ellipsis")
        head.append("q quits", style="dim")
        parts: list[RenderableType] = [head]
        if self.warning:
            parts.append(Text(self.warning, style="red", no_wrap=True, overflow="ellipsis"))
        if self.summary is None:
            return Group(*parts, Text("waiting for the first summary", style="dim"))
        line = spark(list(self.waiting)[-(width - 14) :], ascii_only=ascii_only)
        parts += [Text(), summary_view(self.summary, now), Text()]
        parts.append(Text(f"open tasks  {line}", no_wrap=True))
        rows = max(0, height - _HEAD - len(self.summary.get("shards", ())))
        for task in list(self.ends)[:rows]:
            parts.append(_ended(task))
        return Group(*parts)


def _ended(task: Mapping[str, Any]) -> Text:
    from rtprov.cli.output import styled

    state = state_of(dict(task))
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{state:<10}", style=styled(state).style)
    words = f" {task.get('equipmentId')} {task.get('taskId')} {task.get('reason') or ''}"
    text.append("".join(each if each.isprintable() else "\ufffd" for each in words))
    return text


@click.command()
@asks_service_b
def top(session: Session) -> None:
    """Watch the summary and the ends of tasks, full screen, live. q or Ctrl-C ends it."""
    if not sys.stdout.isatty():
        raise VerbFailed(
            "top needs a terminal; use `rtprov summary` or `rtprov events -f`", Status.USAGE
        )
    out = console(session.out, session.process.environ)

    async def work(connected: Connected) -> int:
        screen = Screen(connected.api.url)
        quits: Deferred[None] = Deferred()
        with Keyboard(connected.network.reactor, sys.stdin, lambda key: _pressed(key, quits)):
            watching = Deferred.fromCoroutine(_watch(session, connected, screen, out))
            quits.addCallback(lambda _: watching.cancel())
            try:
                await watching
            except CancelledError:
                if not quits.called:
                    raise
        return Status.DONE

    session.run(work)


def _pressed(key: str, quits: Deferred[None]) -> None:
    if key in ("q", "Q") and not quits.called:
        quits.callback(None)


async def _watch(session: Session, connected: Connected, screen: Screen, out: Console) -> None:
    def warn(text: str) -> None:
        screen.warning = text
        if live.is_started:
            draw()

    def draw() -> None:
        now = session.process.now()
        size = out.size
        ascii_only = "utf" not in (out.encoding or "").lower()
        view = screen.view(now, size.width, size.height, ascii_only=ascii_only)
        live.update(view, refresh=True)

    from attrs import evolve

    api = evolve(connected.api, tell=warn)
    live = Live(console=out, screen=True, auto_refresh=False, vertical_overflow="crop")
    stream = events(api)
    first = True
    try:
        async for event in stream:
            if first:  # not before the connection works, so that an error is readable
                live.start()
                first = False
            screen.take(event)
            draw()
    finally:
        live.stop()
        await stream.aclose()  # type: ignore[attr-defined] # it is a generator
