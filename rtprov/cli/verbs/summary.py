"""``rtprov summary``."""

from __future__ import annotations

import json
from typing import Any

import click

from rtprov.cli.api import API
from rtprov.cli.failures import Status
from rtprov.cli.output import cell, console, dump, show
from rtprov.cli.session import Connected, Session, asks_service_b
from rtprov.cli.summary_view import summary_view


@click.command()
@asks_service_b
def summary(session: Session) -> None:
    """Show how many tasks wait, run and have ended, and the state of all parts."""

    async def work(connected: Connected) -> int:
        api = connected.api
        found = api.part(await api.get(f"{API}/summary"), "summary", dict)
        out = session.out
        if session.format == "table":
            view = summary_view(found, session.process.now())
            show(console(out, session.process.environ), view)
        elif session.format == "csv":
            out.write("name,value\r\n")
            for name, value in flattened(found):
                out.write(f"{name},{_quoted(cell(value))}\r\n")
        elif session.format == "jsonl":
            out.write(dump(found) + "\n")
        else:
            out.write(json.dumps(found, ensure_ascii=False, indent=2) + "\n")
        out.flush()
        return Status.DONE

    session.run(work)


def flattened(document: Any, prefix: str = "") -> list[tuple[str, object]]:
    """Return the values of nested objects with dotted names; lists are left out."""
    if not isinstance(document, dict):
        return [] if isinstance(document, list) else [(prefix, document)]
    return [
        pair
        for name, value in document.items()
        for pair in flattened(value, f"{prefix}.{name}" if prefix else name)
    ]


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(each in text for each in ',"\r\n') else text
