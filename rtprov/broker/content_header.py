"""A content header (AMQP 0-9-1 §4.2.6.1) changed here and there; all else stays as it came, byte for byte.

`split` it, change its parts, `join` them. Nothing is decoded that is passed on: a client may have written what pamqp would write in
another way, or not at all. What goes in here has been decoded before, so it is well formed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from pamqp import encode
from pamqp.commands import Basic

from rtprov.amqp.fields import table_fields

EMPTY_TABLE = bytes(4)

_start = struct.Struct(">HHQH")  # class, weight, the body's size, a flag for each property that is there
_length = struct.Struct(">I")

_SIZES: dict[str, Callable[[bytes, int], int]] = {
    "shortstr": lambda header, at: 1 + header[at],
    "table": lambda header, at: _length.size + _length.unpack_from(header, at)[0],
    "octet": lambda header, at: 1,
    "timestamp": lambda header, at: 8,
}
# Each property's name, flag, and how to tell its size, in their order.
_PROPERTIES = [(name, flag, _SIZES[Basic.Properties.amqp_type(name)]) for name, flag in Basic.Properties.flags.items()]


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


def join(parts: Mapping[str, bytes], body_size: int) -> bytes:
    """A content header with these properties; `body_size` in bytes."""
    present = [(flag, parts[name]) for name, flag, _ in _PROPERTIES if name in parts]
    start = _start.pack(Basic.frame_id, 0, body_size, sum(flag for flag, _ in present))
    return start + b"".join(part for _, part in present)


def with_headers(table: bytes, headers: Mapping[str, Any]) -> bytes:
    """A table with these headers, in place of those of the same names. Raises ValueError or TypeError where one cannot be encoded."""
    names = {name.encode() for name in headers}
    kept = b"".join(field for name, field in table_fields(table) if name not in names)
    try:
        fields = kept + encode.field_table(dict(headers))[_length.size :]
    except (struct.error, OverflowError) as error:
        raise ValueError(str(error)) from error
    return _length.pack(len(fields)) + fields
