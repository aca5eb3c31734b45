"""Read the filters of searches from the query parameters of a request.

The parameters are those of `rtprov.reports.TaskFilter`, in camel case.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from rtprov.errors import InvalidQuery
from rtprov.frontend.query_parameters import DEFAULT_PAGE, MAX_PAGE, parse_parameters
from rtprov.model import is_equipment_id, is_task_id
from rtprov.reports import STATES, Cursor, TaskFilter

MAX_TEXT = 200
MAX_VALUES = 50  # of one parameter that may be repeated
TIME_PATTERN = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
# A task's id; or with it the time by which the task is sorted, as the bits of a float. So the next
# page is found exactly, even if the task is forgotten in the meantime.
CURSOR_PATTERN = r"[0-9a-f]{32}([0-9a-f]{16})?"
ID_LENGTH = 32

_TEXT = f"expected a text of 1 to {MAX_TEXT} characters"
_TIME = "expected a time such as 2026-11-29T12:35:44Z (RFC 3339)"
_STATE = f"expected one of {', '.join(STATES)}"
_FILTERS = {
    "state": _STATE,
    "caller": _TEXT,
    "campaign": _TEXT,
    "equipmentId": "expected 6 or more characters from a-z, A-Z and 0-9",
    "reason": _TEXT,
    "acceptedAfter": _TIME,
    "acceptedBefore": _TIME,
    "endedAfter": _TIME,
    "endedBefore": _TIME,
}
_PAGE = {
    "limit": f"expected an integer from 1 to {MAX_PAGE}",
    "before": "expected a task's id, or the value from `next` of an answer",
}
_BY = {"by": "expected reason"}

Arguments = Mapping[bytes, Sequence[bytes]]


def task_filter(arguments: Arguments) -> TaskFilter:
    """Return the filter of a request that has no other parameters. Raises `InvalidQuery`."""
    return _split(arguments, {})[0]


def failures_filter(arguments: Arguments) -> TaskFilter:
    """Return the filter of a request that may also have ``by=reason``. Raises `InvalidQuery`."""
    wanted, values = _split(arguments, _BY)
    if values.get("by", "reason") != "reason":
        raise InvalidQuery(f"by: {_BY['by']}")
    return wanted


def search_page(arguments: Arguments) -> tuple[TaskFilter, int, Cursor | str | None]:
    """Return filter, ``limit`` and ``before`` of a request for a page.

    ``before`` is a position or the id of a task. Raises `InvalidQuery`.
    """
    wanted, values = _split(arguments, _PAGE)
    limit, before = values.get("limit", str(DEFAULT_PAGE)), values.get("before")
    if not re.fullmatch(r"[0-9]{1,3}", limit) or not 1 <= int(limit) <= MAX_PAGE:
        raise InvalidQuery(f"limit: {_PAGE['limit']}")
    if before is None:
        return wanted, int(limit), None
    if not re.fullmatch(CURSOR_PATTERN, before):
        raise InvalidQuery(f"before: {_PAGE['before']}")
    if is_task_id(before):
        return wanted, int(limit), before
    (at,) = struct.unpack(">d", bytes.fromhex(before[ID_LENGTH:]))
    if not math.isfinite(at):
        raise InvalidQuery(f"before: {_PAGE['before']}")
    return wanted, int(limit), Cursor(at, before[:ID_LENGTH])


def cursor_text(cursor: Cursor) -> str:
    """Return a position as the value of ``before``."""
    return cursor.task_id + struct.pack(">d", cursor.at).hex()


def _split(arguments: Arguments, others: Mapping[str, str]) -> tuple[TaskFilter, dict[str, str]]:
    """Return the filter, and the values of the other parameters that are expected."""
    repeated = {name: _values(arguments.get(name.encode(), ()), name) for name in _REPEATED}
    once = {raw: each for raw, each in arguments.items() if raw.decode("latin-1") not in repeated}
    values = parse_parameters(once, {**_FILTERS, **others})
    wanted = TaskFilter(
        states=repeated["state"],
        callers=repeated["caller"],
        campaigns=repeated["campaign"],
        equipment_ids=repeated["equipmentId"],
        reasons=repeated["reason"],
        accepted_after=_time(values, "acceptedAfter"),
        accepted_before=_time(values, "acceptedBefore"),
        ended_after=_time(values, "endedAfter"),
        ended_before=_time(values, "endedBefore"),
    )
    return wanted, values


def _values(given: Sequence[bytes], name: str) -> tuple[str, ...]:
    """Return the different values of a parameter that may be repeated."""
    values = tuple(dict.fromkeys(each.decode("utf-8", "replace") for each in given))
    if len(values) > MAX_VALUES:
        raise InvalidQuery(f"{name}: expected at most {MAX_VALUES} different values")
    if not all(map(_REPEATED[name], values)):
        raise InvalidQuery(f"{name}: {_FILTERS[name]}")
    return values


def _is_text(value: str) -> bool:
    return 0 < len(value) <= MAX_TEXT and "\ufffd" not in value


# The parameters that may be repeated, and what a value must fulfil.
_REPEATED: Mapping[str, Callable[[str], bool]] = {
    "state": STATES.__contains__,
    "caller": _is_text,
    "campaign": _is_text,
    "equipmentId": is_equipment_id,
    "reason": _is_text,
}


def _time(values: Mapping[str, str], name: str) -> float | None:
    """Return a time in seconds since the epoch, None if it is not given."""
    if name not in values:
        return None
    # A plus sign that is not percent-encoded arrives as a blank.
    text = re.sub(r" (?=[0-9]{2}:[0-9]{2}$)", "+", values[name])
    if not re.fullmatch(TIME_PATTERN, text):
        raise InvalidQuery(f"{name}: {_TIME}")
    # Python before 3.11 reads neither a Z nor any number of decimals.
    clock, fraction, zone = re.split(r"(\.[0-9]+)?([Zz]|[+-][0-9:]{5})$", text)[:3]
    try:
        at = datetime.fromisoformat(clock.upper() + ("+00:00" if zone in "Zz" else zone))
        return at.timestamp() + float(fraction or 0.0)
    except ValueError:
        raise InvalidQuery(f"{name}: {_TIME}") from None
