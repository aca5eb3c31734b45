"""Messages as the broker holds them. Properties are passed on byte for byte unless the broker has
to add a header.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

import attrs
from pamqp.commands import Basic

from rtprov.amqp.codec import decode_header
from rtprov.broker.content_header import MAX_BYTES, join, number, split, with_headers

MAX_EXPIRATION_MS = 10 * 365 * 86400 * 1000  # RabbitMQ's
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")

# in a content header: class, weight, the body's size, then a bit for each property that is there
_FLAGS_AT = 12
_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS = 0x8000, 0x4000, 0x2000
_flags, _length = struct.Struct(">H"), struct.Struct(">I")


@attrs.define  # not frozen, which takes longer to make
class Message:
    """`header` is the content header's payload; `properties` the same, decoded."""

    exchange: str
    routing_key: str
    properties: Basic.Properties = attrs.field(repr=False)
    header: bytes = attrs.field(repr=False)
    body: bytes = attrs.field(repr=lambda body: f"<{len(body)} bytes>")

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        return len(self.body) + len(self.header) + 400

    @property
    def persistent(self) -> bool:
        """Whether it asks to survive a restart (``delivery-mode`` 2)."""
        return self.properties.delivery_mode == 2

    def with_number(self, name: str, value: int) -> bytes:
        """The content header's payload with one more header, a signed 64-bit number as RabbitMQ's
        own are.

        It is spliced in (AMQP 0-9-1 §4.2.6.1): nothing else is looked at, or changed. `split` and
        `join` would take five times as long, and each delivery of a stream takes this."""
        headers = self.properties.headers
        if headers and name in headers:
            parts = split(self.header)
            parts["headers"] = with_headers(parts["headers"], {name: number(value)})
            return join(parts, len(self.body))
        key, header = name.encode(), self.header
        field = b"%c%s%s" % (len(key), key, number(value))
        (flags,) = _flags.unpack_from(header, _FLAGS_AT)
        table_at = _FLAGS_AT + 2
        for flag in (_CONTENT_TYPE, _CONTENT_ENCODING):
            if flags & flag:
                table_at += 1 + header[table_at]
        if not flags & _HEADERS:
            start = (
                header[:_FLAGS_AT]
                + _flags.pack(flags | _HEADERS)
                + header[_FLAGS_AT + 2 : table_at]
            )
            return start + _length.pack(len(field)) + field + header[table_at:]
        (length,) = _length.unpack_from(header, table_at)
        end = table_at + 4 + length
        return (
            header[:table_at]
            + _length.pack(length + len(field))
            + header[table_at + 4 : end]
            + field
            + header[end:]
        )

    def with_parts(self, parts: Mapping[str, bytes]) -> Message:
        """The same message with these properties instead, as `rtprov.broker.content_header` has
        them.

        Raises ValueError where they have no room in a frame, or `AmqpError` as a decoder does.
        """
        header = join(parts, len(self.body))
        if len(header) > MAX_BYTES:
            raise ValueError(f"a content header of {len(header)} bytes")
        return attrs.evolve(self, properties=decode_header(header).properties, header=header)


@attrs.define(eq=False)
class Entry:
    """A message in one queue. `position` orders the queue and is the entry's id in storage;
    `expires_at` is in seconds since the epoch.

    `deliveries` counts how often it was handed out and came back; `stored` tells that the storage
    has it too."""

    position: int
    message: Message
    expires_at: float | None = None
    deliveries: int = 0
    redelivered: bool = False
    stored: bool = False


def expiration_s(properties: Basic.Properties) -> float | None:
    """The per-message expiration (milliseconds as text, with or without a sign) in seconds, or
    None.

    Raises ValueError if it is there and is no number, or not one from 0 to ten years.
    """
    text = properties.expiration
    if text is None:
        return None
    if not _INTEGER.fullmatch(text) or not 0 <= int(text) <= MAX_EXPIRATION_MS:
        raise ValueError("expiration is no number of milliseconds")
    return int(text) / 1000
