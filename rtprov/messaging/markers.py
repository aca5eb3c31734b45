"""Messages that need no model: census markers, and copies of events for the journal."""

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
    """Return a census marker (see `rtprov.worker.census`).

    A worker that receives the marker has received every message that was in the queue before it.
    """
    return _encode(_Census(marker_id))


def decode_census(body: bytes) -> str | None:
    """Return the marker's id, None if the message is not a marker."""
    try:
        return _decode(body).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def copy_event(body: bytes, copied: Copied) -> bytes:
    """Return a copy of the message of a `Requested` or `Cancelled`, marked as `copied`.

    The copy keeps all fields, including those that this version does not know.
    """
    fields = _decode_fields(body)
    fields["copied"] = msgspec.Raw(_encode(copied))
    return _encode(fields)
