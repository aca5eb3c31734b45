"""``rtprov device``, ``rtprov tasks`` and ``rtprov failures``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from io import TextIOWrapper
from typing import Any, TypeVar, cast
from urllib.parse import quote

import click

from rtprov.cli.answer import missing_in
from rtprov.cli.api import API
from rtprov.cli.body import Stalled
from rtprov.cli.failures import OutOfReach, Status
from rtprov.cli.output import Column
from rtprov.cli.session import Connected, Session, asks_service_b
from rtprov.cli.task_view import NAMES, columns

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_LIMIT = 20
DOWNLOADS = {"csv": "text/csv", "jsonl": "application/jsonl"}
"""The formats of a download, and their media types."""
FILTERS = {
    "state": (
        "STATE",
        True,
        "waiting, calling, retrying, running, completed, failed, not_found, cancelled.",
    ),
    "caller": ("NAME", True, "Whose POST made the task, such as token:billing."),
    "campaign": ("ID", True, "The campaign that made the task."),
    "equipment-id": ("ID", True, "The device."),
    "reason": ("TEXT", True, "Why the task ended so, such as 'A answered 500'."),
    "accepted-after": ("TIME", False, "Accepted at this time (RFC 3339) or later."),
    "accepted-before": ("TIME", False, "Accepted before this time."),
    "ended-after": ("TIME", False, "Ended at this time or later."),
    "ended-before": ("TIME", False, "Ended before this time."),
}
"""The filters of the request, in kebab-case: placeholder, whether it may repeat, and help."""


def filtered(function: F) -> F:
    """Add an option for each filter; the verb gets them as `query`."""

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        query: list[tuple[str, str]] = []
        for name, (_, multiple, _) in FILTERS.items():
            value = options.pop(name.replace("-", "_"))
            values = value if multiple else [value] if value is not None else []
            query += [(camel(name), each) for each in values]
        return function(*args, query=query, **options)

    for name, (metavar, multiple, text) in reversed(FILTERS.items()):
        more = " Repeatable." if multiple else ""
        run = click.option(f"--{name}", metavar=metavar, multiple=multiple, help=text + more)(run)
    return run  # type: ignore[return-value] # click's decorators add parameters


def camel(name: str) -> str:
    """Return a query parameter's name for an option's, for example ``endedAfter``."""
    first, *rest = name.split("-")
    return first + "".join(each.capitalize() for each in rest)


_LIMIT = click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=DEFAULT_LIMIT,
    show_default=True,
    metavar="N",
    help="The most tasks to show.",
)
_ALL = click.option("--all", "everything", is_flag=True, help="Show all, without a limit.")
_BEFORE = click.option(
    "--before", metavar="TASK", help="Only tasks that were accepted before this one (older tasks)."
)


def _list(
    session: Session,
    path: str,
    query: list[tuple[str, str]],
    *,
    limit: int | None,
    before: str | None,
) -> None:
    if before is not None:
        query = [*query, ("before", before)]

    async def work(connected: Connected) -> int:
        writer = session.writer(columns(session.process.now()), names=NAMES)
        async for task in connected.api.tasks(path, query, limit):
            writer.add(task)
        writer.end("no tasks")
        return Status.DONE

    session.run(work)


@click.command()
@click.argument("equipment")
@_LIMIT
@_ALL
@_BEFORE
@asks_service_b
def device(
    session: Session, equipment: str, limit: int, everything: bool, before: str | None
) -> None:
    """List the tasks of the device EQUIPMENT, newest first."""
    path = f"{API}/equipment/cpe/{quote(equipment, safe='')}/task"
    _list(session, path, [], limit=None if everything else limit, before=before)


@click.command()
@filtered
@_LIMIT
@_ALL
@_BEFORE
@asks_service_b
def tasks(
    session: Session,
    query: list[tuple[str, str]],
    limit: int,
    everything: bool,
    before: str | None,
) -> None:
    """Search the tasks of all devices, newest first.

    With --all, CSV and JSONL are a download: one request, however many tasks there are.
    """
    if everything and before is None and session.format in DOWNLOADS:
        _download(session, query)
    path = f"{API}/tasks"
    _list(session, path, query, limit=None if everything else limit, before=before)


def _download(session: Session, query: list[tuple[str, str]]) -> None:
    path, media_type = f"{API}/tasks.{session.format}", DOWNLOADS[session.format]

    async def work(connected: Connected) -> int:
        body = await connected.api.stream(path, query, media_type=media_type)
        out = cast("TextIOWrapper", session.out).buffer
        try:
            while (piece := await body.read()) is not None:
                out.write(piece)
        except Stalled as error:
            raise OutOfReach(f"the download is not complete: {error}") from None
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutOfReach(f"the download is not complete: {error}") from None
        except Exception as error:  # connection errors have no common base class
            text = connected.api.explain(error)
            raise OutOfReach(f"the download is not complete: {text}") from None
        finally:
            body.close()
        out.flush()
        return Status.DONE

    session.run(work)


@click.command()
@filtered
@click.option("--by", default="reason", metavar="FIELD", show_default=True, help="Count by this.")
@asks_service_b
def failures(session: Session, query: list[tuple[str, str]], by: str) -> None:
    """Count the tasks that failed, by reason."""

    async def work(connected: Connected) -> int:
        document = await connected.api.get(f"{API}/tasks/failures", [("by", by), *query])
        rows = connected.api.part(document, "failures", list)
        writer = session.writer(
            [
                Column("COUNT", lambda row: str(row.get("count")), right=True),
                Column("REASON", lambda row: str(row.get("reason")), fold=True),
            ],
            names=("reason", "count"),
        )
        for row in rows:
            writer.add(row)
        writer.end("no failed tasks")
        connected.api.tell_incomplete(missing_in(document))
        return Status.DONE

    session.run(work)
