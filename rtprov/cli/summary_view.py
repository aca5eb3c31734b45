"""How a summary is shown to people: by ``rtprov summary``, and full screen by ``rtprov top``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rtprov.cli.output import age, duration, styled

PHASES = ("waiting", "calling", "retrying")
ENDS = ("completed", "failed", "not_found", "cancelled")
PERIODS = (("lastMinute", "minute"), ("lastHour", "hour"), ("lastDay", "day"))
_BARS = " ▁▂▃▄▅▆▇█"
_ASCII_BARS = " .:-=+*#@"


def summary_view(summary: Mapping[str, Any], now: float) -> RenderableType:
    """Return the summary as a few small tables. `now` is in seconds since the epoch."""
    return Group(_tasks(summary), Text(), _ended(summary), Text(), _parts(summary, now))


def _grid() -> Table:
    return Table(box=None, pad_edge=False, header_style="bold")


def _tasks(summary: Mapping[str, Any]) -> Table:
    tasks = summary.get("tasks", {})
    table = _grid()
    for phase in PHASES:
        table.add_column(phase.upper(), justify="right")
    table.add_column("OLDEST", justify="right")
    table.add_column("DONE IN", justify="right")
    table.add_row(
        *(Text(f"{tasks.get(phase, 0)}", styled(phase).style) for phase in PHASES),
        duration(summary.get("oldestWaitingSeconds")),
        eta(summary),
    )
    return table


def eta(summary: Mapping[str, Any]) -> str:
    """Return when the backlog is done, as a range, or why that is not known."""
    found = summary.get("etaSeconds")
    if not found:
        reason = summary.get("etaReason")
        return f"unknown: {reason}" if reason else "-"
    low, high = duration(found.get("low")), duration(found.get("high"))
    return low if low == high else f"{low} to {high}"


def _ended(summary: Mapping[str, Any]) -> Table:
    table = _grid()
    table.add_column("ENDED IN THE LAST")
    for state in ENDS:
        table.add_column(state.upper().replace("_", " "), justify="right")
    for key, period in PERIODS:
        counts = summary.get("ended", {}).get(key, {})
        cells = [
            Text(f"{counts.get(state, 0)}", styled(state).style if counts.get(state) else "dim")
            for state in ENDS
        ]
        table.add_row(period, *cells)
    return table


def _parts(summary: Mapping[str, Any], now: float) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    equipment = summary.get("equipment", {})
    table.add_row("service A", _equipment(equipment, now))
    table.add_row("dispatch", styled(str(summary.get("dispatch", "-"))))
    table.add_row("broker", _broker(summary.get("broker", {})))
    if summary.get("parked"):
        table.add_row("parked", Text(f"{summary['parked']} letters", style="yellow"))
    for shard in summary.get("shards", ()):
        table.add_row(f"shard {shard.get('shard')}", _shard(shard))
    if summary.get("incomplete"):
        table.add_row("missing", Text(f"no live worker for {summary['incomplete']}", style="red"))
    return table


def _equipment(equipment: Mapping[str, Any], now: float) -> Text:
    words = {"closed": "well", "open": "in trouble", "half_open": "being tried again"}
    state = str(equipment.get("state", "-"))
    text = Text.assemble((words.get(state, state), styled(state).style))
    if state in ("open", "half_open"):
        text.append(f" for {age(equipment.get('since'), now)}")
        if equipment.get("lastError"):
            text.append(f": {_clean(equipment['lastError'])}")
    elif equipment.get("typicalCallSeconds") is not None:
        text.append(f", a call takes {duration(equipment['typicalCallSeconds'])}")
    return text


def _broker(broker: Mapping[str, Any]) -> Text:
    if not broker.get("connected"):
        return Text("not connected", style="red")
    if broker.get("blocked"):
        return Text("accepts no messages (memory or disk)", style="red")
    return Text("connected", style="green")


def _shard(shard: Mapping[str, Any]) -> Text:
    text = Text(f"{shard.get('backlog', 0)} tasks, ")
    if shard.get("active"):
        text.append(f"worker {_clean(shard['active'])}")
    else:
        text.append("no worker", style="red")
    standbys = shard.get("standbys") or ()
    text.append(f", {len(standbys)} standby{'' if len(standbys) == 1 else 's'}")
    if shard.get("concurrency") is not None:
        text.append(f", {shard['concurrency']} calls at once")
    return text


def _clean(text: object) -> str:
    return "".join(each if each.isprintable() else "\ufffd" for each in str(text))


def spark(values: Sequence[float], *, ascii_only: bool = False) -> str:
    """Return a line of bars, one for each value, the largest one full."""
    bars = _ASCII_BARS if ascii_only else _BARS
    top, steps = max(values, default=0.0) or 1.0, len(bars) - 1
    return "".join(bars[ceil(each / top * steps)] for each in values)
