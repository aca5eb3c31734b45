"""What all messages have in common: tag, version, and one error for what cannot be decoded."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from rtprov.errors import UndecodableMessage

VERSION = 1
T = TypeVar("T")
MAX_CALLER = 100  # characters of a caller's or a process's name that are kept


class Tagged(msgspec.Struct, tag_field="kind", gc=False):
    pass


# What msgspec raises on bytes from outside: not JSON, or of another form; not UTF-8; nested without
# end.
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_PLACE = re.compile(r"`\$[^`]*`$")


def given(value: T | None) -> T | UnsetType:
    return UNSET if value is None else value


def short_name(text: str | UnsetType) -> str | None:
    """A name from a message, cut to a length at which millions of them can be kept."""
    return text[:MAX_CALLER] or None if isinstance(text, str) else None


def undecodable(what: str, error: Exception) -> UndecodableMessage:
    """Name the place at most: some of msgspec's messages repeat the value that they object to."""
    if not isinstance(error, msgspec.ValidationError):
        return UndecodableMessage(f"not {what}: damaged JSON")
    place = _PLACE.search(str(error))
    return UndecodableMessage(
        f"not {what}: wrong at {place[0]}"
        if place
        else f"not {what}: a field is missing, or it is no object"
    )
