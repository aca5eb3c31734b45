"""Writes what a verb found: as a table for people, or as JSON, JSONL or CSV for programs.

Colours are used on a terminal only, and not with ``NO_COLOR`` (https://no-color.org).
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import IO, Any

from attrs import define, field, frozen
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

FORMATS = ("table", "json", "jsonl", "csv")
GAP = 2  # between two columns
MIN_LAST = 8
WIDE = 1_000_000  # where there is no terminal, no cell is cut
STYLES = {
    "completed": "green",
    "failed": "red",
    "not_found": "yellow",
    "cancelled": "yellow",
    "calling": "cyan",
    "retrying": "magenta",
    "waiting": "",
    "running": "cyan",
    "closed": "green",
    "half_open": "yellow",
    "open": "red",
    "paused": "yellow",
}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def console(stream: IO[str], environ: Mapping[str, str] = os.environ) -> Console:
    """Return a console on `stream`; only a terminal gets colours."""
    terminal = stream.isatty()
    return Console(
        file=stream,
        force_terminal=terminal,
        color_system="auto" if terminal else None,
        no_color=bool(environ.get("NO_COLOR")) or None,
        width=None if terminal else WIDE,
        highlight=False,
        markup=False,
        emoji=False,
    )


def show(out: Console, what: RenderableType) -> None:
    """Write `what`. Where there is no terminal, lines do not end in the blanks that rich adds."""
    if out.is_terminal:
        out.print(what)
        return
    with out.capture() as captured:
        out.print(what)
    for line in captured.get().splitlines():
        out.file.write(line.rstrip() + "\n")


@frozen
class Column:
    """One column of a table: its heading, and its text for one row."""

    title: str
    text: Callable[[Any], str | Text]
    right: bool = False
    fold: bool = False


def table(
    columns: Sequence[Column], rows: Sequence[Any], *, width: int, headed: bool = True
) -> Table:
    """Return a table of rows, with its columns' headings if `headed`.

    If a terminal of `width` columns is too narrow, only the last column is cut, or folded. (rich
    would cut all of them, ids too.)
    """
    made = Table(box=None, pad_edge=False, header_style="bold", show_header=headed)
    cells = [[_printable(column.text(row)) for column in columns] for row in rows]
    left = width
    for index, column in enumerate(columns):
        last = index == len(columns) - 1
        widest = max((each[index].cell_len for each in cells), default=0)
        widest = max(widest, len(column.title))
        made.add_column(
            column.title,
            justify="right" if column.right else "left",
            overflow="fold" if column.fold else "ellipsis",
            no_wrap=not column.fold,
            min_width=None if last else widest,
            max_width=max(MIN_LAST, left) if last else None,
        )
        left -= widest + GAP
    for each in cells:
        made.add_row(*each)
    return made


def _printable(text: str | Text) -> Text:
    """Return a text without control characters, which a terminal would obey."""
    if isinstance(text, Text):
        return text
    return Text("".join(each if each.isprintable() else "\ufffd" for each in text))


def styled(word: str | None) -> Text:
    """Return a state in its colour."""
    return Text(word or "-", style=STYLES.get(word or "", ""))


def age(text: str | None, now: float) -> str:
    """Return how long ago a time (RFC 3339) was, for example ``12 min``."""
    at = seconds_of(text)
    return "-" if at is None else duration(max(0.0, now - at))


def seconds_of(text: str | None) -> float | None:
    """Return a time as in RFC 3339 in seconds since the epoch, None if it is none."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return at.replace(tzinfo=at.tzinfo or timezone.utc).timestamp()


def duration(seconds: float | None) -> str:
    """Return a number of seconds in the unit that people expect."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172800:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} d"


@define
class Writer:
    """Writes rows in one of `FORMATS` to `stream`.

    `columns` are those of the table. The other formats have the JSON's own fields. JSON is one
    document: a list, or, with `single`, the one object. JSONL and CSV are written row by row.
    """

    format: str
    columns: Sequence[Column]
    stream: IO[str]
    single: bool = False
    headed: bool = True
    names: Sequence[str] = ()
    _rows: list[Any] = field(init=False, factory=list)
    _names: list[str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._names = list(self.names)
        if self.format == "csv" and self._names:
            self._csv(self._names)

    def add(self, row: Any) -> None:
        """Write a row, or keep it until `end` if the format needs all."""
        if self.format == "jsonl":
            self.stream.write(dump(row) + "\n")
        elif self.format == "csv":
            if not self._names:
                self._names = flat_names(row)
                self._csv(self._names)
            self._csv([cell(row.get(name)) for name in self._names])
        else:
            self._rows.append(row)

    def end(self, empty: str = "nothing found") -> None:
        """Write what is left. An empty table is the line `empty` on a terminal."""
        if self.format == "json":
            rows = self._rows[0] if self.single and self._rows else self._rows
            self.stream.write(json.dumps(rows, ensure_ascii=False, indent=2) + "\n")
        elif self.format == "table":
            out = console(self.stream)
            if self._rows:
                show(out, table(self.columns, self._rows, width=out.width, headed=self.headed))
            elif out.is_terminal:
                out.print(Text(empty, style="dim"))
        self.stream.flush()

    def _csv(self, cells: Sequence[object]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\r\n").writerow(cells)  # RFC 4180
        self.stream.write(line.getvalue())


def dump(document: object) -> str:
    """Return JSON in one line."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def flat_names(row: Mapping[str, Any]) -> list[str]:
    """Return the names of the fields that are no lists or objects."""
    return [name for name in row if name not in NESTED and not isinstance(row[name], (dict, list))]


NESTED = ("attempts", "waitsFor")  # null in some rows


def cell(value: object) -> str:
    """Return a CSV cell. A text that a spreadsheet would run as a formula gets an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA) else text


def stdout() -> IO[str]:
    """Return standard output, which never fails for a character that it cannot encode."""
    stream = sys.stdout
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    return stream
