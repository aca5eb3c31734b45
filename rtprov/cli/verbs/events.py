"""``rtprov events``."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import click

from rtprov.cli.failures import Status
from rtprov.cli.output import Writer, console, dump
from rtprov.cli.session import Connected, Session, asks_service_b
from rtprov.cli.sse import ServerEvent
from rtprov.cli.sse import events as all_events
from rtprov.cli.summary_view import PHASES, eta
from rtprov.cli.task_view import state_of

KINDS = ("summary", "task", "skipped", "equipment", "dispatch", "campaign")
NAMES = ("event", "id", "taskId", "equipmentId", "state")
"""The columns of CSV."""


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(KINDS),
    metavar="KIND",
    help=f"Only {', '.join(KINDS)}. Repeatable.",
)
@click.option("--last-event-id", metavar="ID", help="Begin after this event.")
@asks_service_b
def events(
    session: Session, follow: bool, kinds: tuple[str, ...], last_event_id: str | None
) -> None:
    """Show events as they happen: each end of a task, and changes of the summary.

    Without --follow, ends after the first summary. If the connection breaks, it is opened again.
    JSON and JSONL are one object a line: its kind, its id and its data. CSV has a header line.
    """

    async def work(connected: Connected) -> int:
        rows = session.writer([], names=NAMES)
        async for event in all_events(connected.api, last_id=last_event_id):
            if event is None:
                continue
            if not kinds or event.kind in kinds:
                _write(session, rows, event)
            if event.kind == "summary" and not follow:
                break
        return Status.DONE

    session.run(work)


def _write(session: Session, rows: Writer, event: ServerEvent) -> None:
    out = session.out
    if session.format == "table":
        now = datetime.fromtimestamp(session.process.now(), timezone.utc)
        line = f"{now:%H:%M:%S} {event.kind:<9} {described(event.kind, event.data)}"
        console(out, session.process.environ).print(line, soft_wrap=True)
    elif session.format == "csv":
        data = event.data if isinstance(event.data, dict) else {}
        state = data.get("phase") or data.get("state")
        rows.add({**data, "event": event.kind, "id": event.id, "state": state})
    else:
        out.write(dump({"event": event.kind, "id": event.id, "data": event.data}) + "\n")
    out.flush()


def described(kind: str, data: Any) -> str:
    """Return an event in one line."""
    if not isinstance(data, dict):
        text = dump(data)
    elif kind == "task":
        reason = data.get("reason")
        text = f"{data.get('taskId')} {data.get('equipmentId')} {state_of(data)}"
        text += f": {reason}" if reason else ""
    elif kind == "summary":
        tasks = data.get("tasks", {})
        text = ", ".join(f"{phase} {tasks.get(phase, 0)}" for phase in PHASES)
        text += f"; done in {eta(data)}"
    else:
        text = ", ".join(f"{name} {value}" for name, value in data.items() if value is not None)
    return "".join(each if each.isprintable() else "\ufffd" for each in text)
