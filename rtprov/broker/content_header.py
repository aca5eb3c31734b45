"""A content header (AMQP 0-9-1 §4.2.6.1) changed here and there; all else stays as it came, byte
for byte.

`split` it, change its parts, `join` them. Nothing is decoded that is passed on: a client may have
written what pamqp would write in another way, or not at all. What goes in here has been decoded
before, so it is well formed."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from pamqp import encode
from pamqp.commands import Basic

from rtprov.amqp.fields import MAX_FIELDS, check_properties, table_fields
from rtprov.amqp.framing import DEFAULT_FRAME_MAX, FRAME_OVERHEAD

EMPTY_TABLE = bytes(4)
# a header is one frame, and a number may be added as it is handed out
MAX_BYTES = DEFAULT_FRAME_MAX - FRAME_OVERHEAD - 64
# From clients: with what the broker adds, x-death above all, a header is still one that every
# client can read.
ACCEPTED_BYTES = MAX_BYTES - 4096
ACCEPTED_FIELDS = MAX_FIELDS // 2

# class, weight, the body's size, a flag for each property that is there
_start = struct.Struct(">HHQH")
_FLAGS_AT = _start.size - 2
_length = struct.Struct(">I")
_signed = struct.Struct(">q")

_SIZES: dict[str, Callable[[bytes, int], int]] = {
    "shortstr": lambda header, at: 1 + header[at],
    "table": lambda header, at: _length.size + _length.unpack_from(header, at)[0],
    "octet": lambda header, at: 1,
    "timestamp": lambda header, at: 8,
}
# Each property's name, flag, and how to tell its size, in their order.
_PROPERTIES = [
    (name, flag, _SIZES[Basic.Properties.amqp_type(name)])
    for name, flag in Basic.Properties.flags.items()
]


def split(header: bytes) -> dict[str, bytes]:
    """The properties that are there, by their names, as they are written."""
    *_, flags = _start.unpack_from(header)
    at, parts = _start.size, {}
    for name, flag, size in _PROPERTIES:
        if flags & flag:
            end = at + size(header, at)
            parts[name] = header[at:end]
            at = end
    return parts


def refusal(header: bytes) -> str | None:
    """Why a client's content header is not taken; None where it is."""
    if len(header) > ACCEPTED_BYTES:
        return f"properties of {len(header)} bytes, at most {ACCEPTED_BYTES} are taken"
    if len(header) > ACCEPTED_FIELDS:  # a field takes at least one byte
        fields = check_properties(header[_FLAGS_AT:])
        if fields > ACCEPTED_FIELDS:
            return f"headers of {fields} fields, at most {ACCEPTED_FIELDS} are taken"
    return None


def join(parts: Mapping[str, bytes], body_size: int) -> bytes:
    """A content header with these properties; `body_size` in bytes."""
    present = [(flag, parts[name]) for name, flag, _ in _PROPERTIES if name in parts]
    start = _start.pack(Basic.frame_id, 0, body_size, sum(flag for flag, _ in present))
    return start + b"".join(part for _, part in present)


def with_headers(table: bytes, headers: Mapping[str, bytes]) -> bytes:
    """A table with these headers, type and value of each encoded, in place of those of the same
    names.
    """
    names = {name.encode() for name in headers}
    kept = b"".join(field for name, field in table_fields(table) if name not in names)
    return sized(
        kept + b"".join(encode.short_string(name) + value for name, value in headers.items())
    )


def sized(content: bytes) -> bytes:
    """The content of a table, array or long string, behind its length."""
    return _length.pack(len(content)) + content


def number(value: int) -> bytes:
    """A header's value, a signed 64-bit number as RabbitMQ's own are."""
    return b"l" + _signed.pack(value)
