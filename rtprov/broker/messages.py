"""Messages as the broker holds them. Properties are passed on byte for byte unless the broker has to add a header."""

from __future__ import annotations

import struct
from typing import Any

import attrs
from pamqp.commands import Basic

from rtprov.amqp.framing import decode_header, encode_header

_BODY_SIZE_AT = 4  # in a content header: class, weight, then the body's size
_size = struct.Struct(">Q")


@attrs.frozen
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

    def with_headers(self, added: dict[str, Any]) -> bytes:
        """The content header's payload with these headers added or replaced."""
        return self.with_properties(headers={**(self.properties.headers or {}), **added})

    def with_properties(self, **changed: Any) -> bytes:
        """The content header's payload with these properties changed."""
        properties = decode_header(self.header).properties
        for name, value in changed.items():
            setattr(properties, name, value)
        return encode_header(properties, len(self.body))


@attrs.define(eq=False)
class Entry:
    """A message in one queue. `position` orders the queue and is the entry's id in storage; `expires_at` is in seconds since the epoch.

    `deliveries` counts how often it was handed out and came back; `stored` tells that the storage has it too.
    """

    position: int
    message: Message
    expires_at: float | None = None
    deliveries: int = 0
    redelivered: bool = False
    stored: bool = False


def expiration_s(properties: Basic.Properties) -> float | None:
    """The per-message expiration (milliseconds as text) in seconds, or None. Raises ValueError where it is no number."""
    text = properties.expiration
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError("expiration is no number of milliseconds")
    return int(text) / 1000
