"""Parse and build AMQP 0-9-1 frames (§2.3 and §4.2), for clients and the broker. Does no I/O.

To receive: a `FrameParser` splits the byte stream into frames, and one `Assembler` for each channel
joins method, header and body frames into a `Command`. Both raise only `AmqpError`, for any input.
To send: use `encode_method` or `encode_content`.
"""

from __future__ import annotations

import struct

import attrs
from pamqp import base, commands
from pamqp import constants as amqp

from rtprov.amqp.codec import Header, decode_header, decode_method, encode_payload
from rtprov.errors import AmqpError

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD, CONTENT_HEADER, BODY, HEARTBEAT_KIND = (
    amqp.FRAME_METHOD,
    amqp.FRAME_HEADER,
    amqp.FRAME_BODY,
    amqp.FRAME_HEARTBEAT,
)
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
DEFAULT_FRAME_MAX = 131072  # bytes; RabbitMQ's default, and used in place of 0 ("no limit")
FRAME_MIN_SIZE = amqp.FRAME_MIN_SIZE
FRAME_OVERHEAD = 8  # bytes: 7 of header, 1 of frame end

# The first four bytes of the method frames that close a connection (§1.4.2.6).
CLOSES = {
    commands.Connection.Close.index.to_bytes(4, "big"),
    commands.Connection.CloseOk.index.to_bytes(4, "big"),
}

_frame_header = struct.Struct(">BHI")
_KINDS = (METHOD, CONTENT_HEADER, BODY, HEARTBEAT_KIND)
_FRAME_END = bytes([amqp.FRAME_END])


# Not frozen: a frozen class takes three times as long to make, and each message needs four.
@attrs.define
class Frame:
    """One frame. `kind` is `METHOD`, `CONTENT_HEADER`, `BODY` or `HEARTBEAT_KIND` (§4.2.3)."""

    kind: int
    channel: int
    payload: bytes


@attrs.define  # not frozen, for the same reason as Frame
class Command:
    """One method and, if the method carries content, its complete content.

    `header` is the payload of the content header as received. A broker passes it on without
    encoding the properties again.
    """

    channel: int
    method: base.Frame
    properties: commands.Basic.Properties | None = None
    body: bytes = attrs.field(default=b"", repr=lambda body: f"<{len(body)} bytes>")
    header: bytes = attrs.field(default=b"", repr=False)


class FrameParser:
    """Splits a byte stream into frames.

    `frame_max` is the largest size of a whole frame in bytes. Set it to the negotiated value after
    ``connection.tune``.
    """

    def __init__(self, frame_max: int = DEFAULT_FRAME_MAX) -> None:
        self.frame_max = frame_max
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes, in order, and keep the incomplete rest.

        Raises `AmqpError` 501 if a frame is too large, is of an unknown kind, or does not end in
        0xCE. The parser cannot be used after that.
        """
        if self._rest:
            data = self._rest + data
        frames = []
        start, end = 0, len(data)
        while end - start >= FRAME_OVERHEAD:
            kind, channel, size = _frame_header.unpack_from(data, start)
            if size + FRAME_OVERHEAD > self.frame_max:
                raise AmqpError(
                    501,
                    f"FRAME_ERROR - frame of {size + FRAME_OVERHEAD} bytes, at most"
                    f" {self.frame_max} were agreed",
                )
            stop = start + 7 + size
            if stop >= end:
                break
            if data[stop] != amqp.FRAME_END:
                raise AmqpError(501, "FRAME_ERROR - frame does not end in 0xCE")
            if kind not in _KINDS:
                raise AmqpError(501, f"FRAME_ERROR - unknown frame type {kind}")
            frames.append(Frame(kind, channel, data[start + 7 : stop]))
            start = stop + 1
        self._rest = data[start:] if start else data
        return frames


class Assembler:
    """Joins the frames of one channel into commands (§4.2.6). A body is always bytes.

    `unfinished` is the number of bytes received of content that is not complete yet.
    """

    def __init__(self, channel: int, max_body_bytes: int) -> None:
        self._channel = channel
        self._max_body_bytes = max_body_bytes
        self._method: base.Frame | None = None
        self._header: Header | None = None
        self._header_payload = b""
        self._body = bytearray()
        self._missing = 0
        self.unfinished = 0

    def feed(self, frame: Frame) -> Command | None:
        """Return the command that `frame` completes, or None if more frames must follow.

        Raises `AmqpError`: 505 for a frame out of order, 501 for a body larger than announced or
        allowed, and 502 or 540 as `decode_method` and `decode_header` do.
        """
        if frame.kind == METHOD:
            return self._on_method(frame.payload)
        if frame.kind == CONTENT_HEADER:
            return self._on_header(frame.payload)
        return self._on_body(frame.payload)

    def _on_method(self, payload: bytes) -> Command | None:
        if self._method is not None:
            raise AmqpError(
                505, f"UNEXPECTED_FRAME - method frame within the content of {self._method.name}"
            )
        method = decode_method(payload)
        if not _carries_content(method):
            return Command(self._channel, method)
        self._method = method
        return None

    def _on_header(self, payload: bytes) -> Command | None:
        if self._method is None or self._header is not None:
            raise AmqpError(505, "UNEXPECTED_FRAME - content header without its method")
        header = decode_header(payload)
        if header.class_id != self._method.frame_id and header.class_id != commands.Basic.frame_id:
            raise AmqpError(505, f"UNEXPECTED_FRAME - content header of class {header.class_id}")
        if header.body_size > self._max_body_bytes:
            raise AmqpError(
                501,
                f"FRAME_ERROR - body of {header.body_size} bytes, at most {self._max_body_bytes}"
                " are taken",
            )
        self._header, self._header_payload, self._missing = header, payload, header.body_size
        if not header.body_size:
            return self._finish(b"")
        self.unfinished = len(payload)
        return None

    def _on_body(self, payload: bytes) -> Command | None:
        if self._header is None:
            raise AmqpError(505, "UNEXPECTED_FRAME - body frame without its content header")
        self._missing -= len(payload)
        if self._missing < 0:
            raise AmqpError(501, "FRAME_ERROR - more body than the content header announced")
        if not self._missing and not self._body:
            return self._finish(payload)
        # Joined at once, not kept in a list: a peer may send many tiny or empty frames.
        self._body += payload
        self.unfinished += len(payload)
        return self._finish(bytes(self._body)) if not self._missing else None

    def _finish(self, body: bytes) -> Command:
        method, header = self._method, self._header
        assert method is not None and header is not None
        command = Command(self._channel, method, header.properties, body, self._header_payload)
        self._method = self._header = None
        self._header_payload = b""
        if self._body:
            self._body = bytearray()
        self.unfinished = 0
        return command


WITH_CONTENT = (
    commands.Basic.Publish,
    commands.Basic.Return,
    commands.Basic.Deliver,
    commands.Basic.GetOk,
)


def _carries_content(method: base.Frame) -> bool:
    return isinstance(method, WITH_CONTENT)


def encode_method(channel: int, method: base.Frame) -> bytes:
    """Return the whole method frame.

    Raises ValueError or TypeError if an argument does not fit its field.
    """
    payload = encode_payload(method)
    return _frame_header.pack(METHOD, channel, len(payload)) + payload + _FRAME_END


def encode_content(
    channel: int, method: base.Frame, header: bytes, body: bytes, frame_max: int
) -> bytes:
    """Return the method, content header and body frames of one message as one bytes object.

    A message that cannot be encoded completely is therefore not sent at all. `header` is the result
    of `encode_header` or the header of a received `Command`. `frame_max` is in bytes. Raises
    ValueError or TypeError if an argument does not fit its field.
    """
    frames = [
        encode_method(channel, method),
        _frame_header.pack(CONTENT_HEADER, channel, len(header)),
        header,
        _FRAME_END,
    ]
    step = (frame_max or DEFAULT_FRAME_MAX) - FRAME_OVERHEAD
    for start in range(0, len(body), step):
        chunk = body if len(body) <= step else body[start : start + step]
        frames += (_frame_header.pack(BODY, channel, len(chunk)), chunk, _FRAME_END)
    return b"".join(frames)
