"""Change single properties of an encoded content header (AMQP 0-9-1 §4.2.6.1).

Use `split`, change the parts, and `join` them. All other properties stay the same, byte for byte.
They are not decoded and encoded again, because pamqp encodes some values in another way than the
client did, and some not at all. The functions expect a well-formed header, that is, one that has
been decoded before.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from pamqp import encode
from pamqp.commands import Basic

from rtprov.amqp.fields import MAX_FIELDS, check_properties, table_fields
from rtprov.amqp.framing import DEFAULT_FRAME_MAX, FRAME_OVERHEAD

EMPTY_TABLE = bytes(4)
# A content header is one frame. 64 bytes are left for a header that is added on delivery.
MAX_BYTES = DEFAULT_FRAME_MAX - FRAME_OVERHEAD - 64
# Limits for clients. They leave room for the headers that the broker adds, mainly x-death, so that
# every client can still read the result.
ACCEPTED_BYTES = MAX_BYTES - 4096
ACCEPTED_FIELDS = MAX_FIELDS // 2

# Class, weight, body size, property flags.
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
# Each property's name, flag, and function that returns its size, in the order of the header.
_PROPERTIES = [
    (name, flag, _SIZES[Basic.Properties.amqp_type(name)])
    for name, flag in Basic.Properties.flags.items()
]


def split(header: bytes) -> dict[str, bytes]:
    """Return the properties that are present: names and encoded values."""
    *_, flags = _start.unpack_from(header)
    at, parts = _start.size, {}
    for name, flag, size in _PROPERTIES:
        if flags & flag:
            end = at + size(header, at)
            parts[name] = header[at:end]
            at = end
    return parts


def refusal(header: bytes) -> str | None:
    """Return why the broker refuses a client's content header, or None if it accepts it."""
    if len(header) > ACCEPTED_BYTES:
        return f"properties of {len(header)} bytes, at most {ACCEPTED_BYTES} are taken"
    if len(header) > ACCEPTED_FIELDS:  # a field takes at least one byte
        fields = check_properties(header[_FLAGS_AT:])
        if fields > ACCEPTED_FIELDS:
            return f"headers of {fields} fields, at most {ACCEPTED_FIELDS} are taken"
    return None


def join(parts: Mapping[str, bytes], body_size: int) -> bytes:
    """Return a content header with these encoded properties; `body_size` is in bytes."""
    present = [(flag, parts[name]) for name, flag, _ in _PROPERTIES if name in parts]
    start = _start.pack(Basic.frame_id, 0, body_size, sum(flag for flag, _ in present))
    return start + b"".join(part for _, part in present)


def with_headers(table: bytes, headers: Mapping[str, bytes]) -> bytes:
    """Return an encoded header table with `headers` added.

    `headers` maps names to encoded values with their type octets. They replace headers of the same
    names.
    """
    names = {name.encode() for name in headers}
    kept = b"".join(field for name, field in table_fields(table) if name not in names)
    return sized(
        kept + b"".join(encode.short_string(name) + value for name, value in headers.items())
    )


def sized(content: bytes) -> bytes:
    """Return the content of a table, array or long string with its length prepended."""
    return _length.pack(len(content)) + content


def number(value: int) -> bytes:
    """Return an encoded header value: a signed 64-bit integer, as in RabbitMQ's own headers."""
    return b"l" + _signed.pack(value)
