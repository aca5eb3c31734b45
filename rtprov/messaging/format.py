"""The parts that all message formats share: version, tag, optional fields, and decoding errors."""

from __future__ import annotations

import re
from typing import Annotated, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from rtprov.errors import UndecodableMessage

VERSION = 1
T = TypeVar("T")
# The year 2286. A time in milliseconds is later. In nanoseconds this one still fits in 64 bits.
LATEST = 1e10
Time = Annotated[float, Meta(ge=0.0, le=LATEST)]
"""A time in seconds since the epoch. Dates, spans and files of the history can hold it."""
MAX_CALLER = 100  # characters; longer names of callers and processes are cut


class Tagged(msgspec.Struct, tag_field="kind", gc=False):
    """Base of all messages: the field ``kind`` has the name of the message's type."""

    pass


# The errors of msgspec for a damaged message: invalid JSON or another schema, invalid UTF-8, too
# deep nesting.
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_PLACE = re.compile(r"`\$[^`]*`$")


def given(value: T | None) -> T | UnsetType:
    """Return the value of an optional field, which is left out of the JSON if it is None."""
    return UNSET if value is None else value


def short_name(text: str | UnsetType) -> str | None:
    """Return a name from a message, cut to `MAX_CALLER` characters to limit the use of memory."""
    return text[:MAX_CALLER] or None if isinstance(text, str) else None


def undecodable(what: str, error: Exception) -> UndecodableMessage:
    """Return the error for a message that is not `what`.

    It names the place at most, because some messages of msgspec repeat the invalid value, which may
    be secret.
    """
    if not isinstance(error, msgspec.ValidationError):
        return UndecodableMessage(f"not {what}: damaged JSON")
    place = _PLACE.search(str(error))
    return UndecodableMessage(
        f"not {what}: wrong at {place[0]}"
        if place
        else f"not {what}: a field is missing, or it is no object"
    )
