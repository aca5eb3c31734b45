"""The header field ``traceparent`` (https://www.w3.org/TR/trace-context/ §3.2)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

HEADER = "traceparent"
# A later version may have more after the flags; version ff is invalid.
_VALID = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}"
    r"-[0-9a-f]{2}(?P<more>-.*)?",
    re.DOTALL,
)
MAX_LENGTH = 200


def valid_traceparent(values: Sequence[str]) -> str | None:
    """Return the ``traceparent`` of a request, or None.

    `values` are the values of its fields. None means that there is not exactly one, or that it is
    malformed; the caller then begins a new trace (§3.2.2.2, §4.3).
    """
    if len(values) != 1 or len(values[0]) > MAX_LENGTH:
        return None
    match = _VALID.fullmatch(values[0])
    if match is None or (match["version"] == "00" and match["more"] is not None):
        return None
    return values[0] if match["more"] is None else f"00{values[0][2:55]}"


def traceparent_in(headers: Mapping[str, object], task_id: str) -> str:
    """Return the ``traceparent`` in the headers of a task's message, or the task's own one."""
    value = headers.get(HEADER)
    return (valid_traceparent([value]) if isinstance(value, str) else None) or own_traceparent(
        task_id
    )


def own_traceparent(task_id: str) -> str:
    """Return the ``traceparent`` of a task whose POST had none: its trace has the task's id.

    So all processes give the task the same trace, even if a message has lost its headers.
    """
    return f"00-{task_id}-{task_id[16:]}-01"


def trace_id(traceparent: str) -> str:
    """Return the id of the trace, 32 hexadecimal digits."""
    return traceparent[3:35]
