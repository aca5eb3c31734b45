"""Messages that are made neither of a task nor of an event: markers of the census, and events that
are written again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from rtprov.model import Copied


class _Census(msgspec.Struct, tag_field="kind", tag="census", gc=False):
    id: str
    v: int = 1


_encode = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.Decoder(_Census).decode


def encode_census(marker_id: str) -> bytes:
    """A marker: the worker that gets it has got all that the queue held before it."""
    return _encode(_Census(marker_id))


def decode_census(body: bytes) -> str | None:
    """The marker's id; None where the message is no marker."""
    try:
        return _decode(body).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def copy_event(body: bytes, copied: Copied) -> bytes:
    """The message of a `Requested` or `Cancelled` for being written again, with all that is in it,
    known or not.
    """
    fields = _decode_fields(body)
    fields["copied"] = msgspec.Raw(_encode(copied))
    return _encode(fields)
