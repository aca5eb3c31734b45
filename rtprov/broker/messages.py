"""Messages in the embedded broker.

The broker passes a message's properties on byte for byte, except for headers that it adds.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

import attrs
from pamqp.commands import Basic

from rtprov.amqp.codec import decode_header
from rtprov.broker.content_header import MAX_BYTES, join, number, split, with_headers

MAX_EXPIRATION_MS = 10 * 365 * 86400 * 1000  # the limit of RabbitMQ
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")

# A content header starts with class, weight and body size. Then follow the property flags: one bit
# for each property that is present.
_FLAGS_AT = 12
_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS = 0x8000, 0x4000, 0x2000
_flags, _length = struct.Struct(">H"), struct.Struct(">I")


@attrs.define  # not frozen, because a frozen class takes longer to make
class Message:
    """A published message.

    `header` is the payload of the content header frame; `properties` is the same, decoded.
    """

    exchange: str
    routing_key: str
    properties: Basic.Properties = attrs.field(repr=False)
    header: bytes = attrs.field(repr=False)
    body: bytes = attrs.field(repr=lambda body: f"<{len(body)} bytes>")

    @property
    def size(self) -> int:
        """The memory that the message needs, in bytes (an estimate)."""
        return len(self.body) + len(self.header) + 400

    @property
    def persistent(self) -> bool:
        """Whether the message must survive a restart (``delivery-mode`` 2)."""
        return self.properties.delivery_mode == 2

    def with_number(self, name: str, value: int) -> bytes:
        """Return the payload of the content header with the header `name` set to `value`.

        The value is a signed 64-bit integer, as in RabbitMQ's own headers. The new field is
        inserted into the bytes (AMQP 0-9-1 §4.2.6.1); all others stay as they are. Each delivery
        from a stream needs this, and `split` and `join` would take five times as long.
        """
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
        """Return the same message with other properties.

        `parts` maps property names to encoded values, as `rtprov.broker.content_header.split`
        returns them. Raises ValueError if they do not fit in a frame, and `AmqpError` if they
        cannot be decoded.
        """
        header = join(parts, len(self.body))
        if len(header) > MAX_BYTES:
            raise ValueError(f"a content header of {len(header)} bytes")
        return attrs.evolve(self, properties=decode_header(header).properties, header=header)


@attrs.define(eq=False)
class Entry:
    """A message in one queue.

    - `position`: orders the queue, and is the message's id in the storage.
    - `expires_at`: in seconds since the epoch; None if the message does not expire.
    - `deliveries`: how many times the message was delivered and returned.
    - `redelivered`: whether an earlier delivery was returned.
    - `stored`: whether the message is in the storage too.
    """

    position: int
    message: Message
    expires_at: float | None = None
    deliveries: int = 0
    redelivered: bool = False
    stored: bool = False


def expiration_s(properties: Basic.Properties) -> float | None:
    """Return the ``expiration`` property in seconds, or None if the message has none.

    The property is text: milliseconds, with or without a sign. Raises ValueError if it is not an
    integer, or not in the range from 0 to ten years.
    """
    text = properties.expiration
    if text is None:
        return None
    if not _INTEGER.fullmatch(text) or not 0 <= int(text) <= MAX_EXPIRATION_MS:
        raise ValueError("expiration is not a number of milliseconds from 0 to ten years")
    return int(text) / 1000
