"""Messages that need no model: census markers, and copies of events for the journal."""

from __future__ import annotations

import msgspec

from rtprov.model import Copied

JOURNAL_SPAN = 1 << 44  # more than any journal's offsets


class _Census(msgspec.Struct, tag_field="kind", tag="census", gc=False):
    id: str
    v: int = 1


_encode = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.Decoder(_Census).decode
_decode_copied = msgspec.json.Decoder(Copied).decode


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


def rebase_copy(body: bytes, first_offset: int) -> bytes:
    """Return an event's message for another journal, which has other offsets.

    Only copies (`copy_event`) contain offsets. The old journal begins at `first_offset`.

    - If it no longer has the first event of the task, the copy keeps its mark. The task's place
      then is before all tasks of the new journal; such tasks keep their order.
    - Otherwise the new journal gets the copied events, too, and the mark is removed.

    Other messages are returned unchanged.
    """
    if b'"copied"' not in body:
        return body
    try:
        fields = _decode_fields(body)
        copied = _decode_copied(fields["copied"])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
        return body  # not an event
    if copied.place < first_offset:
        fields["copied"] = msgspec.Raw(_encode(Copied(copied.at, copied.place - JOURNAL_SPAN, -1)))
    else:
        del fields["copied"]
    return _encode(fields)
