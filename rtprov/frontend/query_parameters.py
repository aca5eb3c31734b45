"""Validate the query parameters of a request (RFC 3986 §3.4).

An unknown parameter is an error: a misspelt name must not silently change what a request means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote_to_bytes

from rtprov.errors import InvalidQuery
from rtprov.model import is_task_id

MAX_PAGE = 100
DEFAULT_PAGE = 20
MAX_REASON = 200
MAX_SHOWN = 40

_UNFIT = re.compile(r"[^A-Za-z0-9_.\[\]-]")


def arguments_of(target: bytes) -> dict[bytes, list[bytes]]:
    """Return the query parameters in a request's target, percent-decoded.

    A parameter without an equals sign has an empty value. (``request.args`` of Twisted leaves it
    out.)
    """
    arguments: dict[bytes, list[bytes]] = {}
    for part in target.partition(b"?")[2].split(b"&"):
        name, _, value = (
            unquote_to_bytes(each) for each in part.replace(b"+", b" ").partition(b"=")
        )
        if name or value:
            arguments.setdefault(name, []).append(value)
    return arguments


def parse_parameters(
    arguments: Mapping[bytes, Sequence[bytes]], expected: Mapping[str, str]
) -> dict[str, str]:
    """Return the values of the query parameters `arguments`, as `arguments_of` returns them.

    `expected` maps each known name to a text that says what its value should be, for example
    ``expected a task's id``. Raises `InvalidQuery` if a name is unknown or repeated, or if a value
    is empty or not UTF-8.
    """
    values: dict[str, str] = {}
    for raw_name, raw_values in arguments.items():
        name = raw_name.decode("utf-8", "replace")
        if not name and not any(raw_values):
            continue  # an empty part between two ampersands
        if name not in expected:
            taken = f"expected {' or '.join(expected)}" if expected else "this request has none"
            raise InvalidQuery(
                f"{_UNFIT.sub('?', name)[:MAX_SHOWN] or '(no name)'}: no such query parameter;"
                f" {taken}"
            )
        try:
            (values[name],) = (value.decode("utf-8") for value in raw_values)
        except ValueError:
            values[name] = ""
        if not values[name]:
            raise InvalidQuery(f"{name}: {expected[name]}")
    return values


_PAGE = {"limit": f"expected an integer from 1 to {MAX_PAGE}", "before": "expected a task's id"}
_REASON = {"reason": f"expected a text of 1 to {MAX_REASON} characters"}


def no_parameters(arguments: Mapping[bytes, Sequence[bytes]]) -> None:
    """Raise `InvalidQuery` if there are any query parameters."""
    parse_parameters(arguments, {})


def parse_page(arguments: Mapping[bytes, Sequence[bytes]]) -> tuple[int, str | None]:
    """Return ``limit`` and ``before`` of a request for a list of tasks. Raises `InvalidQuery`."""
    values = parse_parameters(arguments, _PAGE)
    limit, before = values.get("limit", str(DEFAULT_PAGE)), values.get("before")
    if not re.fullmatch(r"[0-9]{1,3}", limit) or not 1 <= int(limit) <= MAX_PAGE:
        raise InvalidQuery(f"limit: {_PAGE['limit']}")
    if before is not None and not is_task_id(before):
        raise InvalidQuery(f"before: {_PAGE['before']}")
    return int(limit), before


def parse_reason(arguments: Mapping[bytes, Sequence[bytes]]) -> str | None:
    """Return the ``reason`` for the audit line, or None if the client gives none.

    Characters that are not printable are replaced by U+FFFD, so the audit line stays one line.
    Raises `InvalidQuery`.
    """
    text = parse_parameters(arguments, _REASON).get("reason")
    if text is None:
        return None
    if len(text) > MAX_REASON:
        raise InvalidQuery(f"reason: {_REASON['reason']}")
    return "".join(each if each.isprintable() else "\ufffd" for each in text)
