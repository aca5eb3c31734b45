"""Encode and decode AMQP 0-9-1 methods and content headers (§4.2.5 and §4.2.6).

Decoding raises only `AmqpError`, for any input.

The method and property types are pamqp's. pamqp also encodes and decodes them, except for those
that each message needs:

- ``basic.publish`` and properties are cached, because a publisher uses few routing keys and
  property sets. Decoded publishes and properties are therefore shared objects. Do not change them.
- ``basic.deliver`` and ``basic.ack`` differ in every message. They have their own code here, which
  is faster than pamqp's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from pamqp import base, encode
from pamqp.commands import INDEX_MAPPING, Basic
from pamqp.exceptions import PAMQPException

from rtprov.amqp.fields import check_method, check_properties
from rtprov.errors import AmqpError

SHORT_STRING = 255  # bytes
REMEMBERED = 1024  # entries in each cache
# Received payloads that are longer are not cached. Cached values that are sent need no such limit,
# because they consist of short strings.
REMEMBERED_BYTES = 256

# What pamqp raises for malformed bytes. MemoryError is not in the list: it is not the peer's error.
UNPARSABLE = (
    ArithmeticError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    PAMQPException,
    AmqpError,
)

# Class, weight and body size. The property flags and the properties follow.
_content_header = struct.Struct(">HHQ")
_property_flags = struct.Struct(">H")
_tag_and_bit = struct.Struct(">qB")  # signed, as in pamqp

_METHODS: dict[int, type[base.Frame]] = INDEX_MAPPING
_WITH_TABLES = {
    method for method in _METHODS.values() if "table" in map(method.amqp_type, method.attributes())
}
_PUBLISH, _DELIVER, _ACK = (
    method.index.to_bytes(4, "big") for method in (Basic.Publish, Basic.Deliver, Basic.Ack)
)
_HEADERS = Basic.Properties.flags["headers"] >> 8  # the bit in the first byte of the flags


# Methods: the payload of a method frame.


def decode_method(payload: bytes) -> base.Frame:
    """Decode the payload of a method frame.

    Raises `AmqpError`: 540 for an unknown method, 502 for arguments that cannot be parsed.
    """
    decoder = _DECODERS.get(payload[:4])
    return _decode_any(payload) if decoder is None else decoder(payload)


def _decode_any(payload: bytes) -> base.Frame:
    if len(payload) < 4:
        raise AmqpError(502, "SYNTAX_ERROR - method frame without a method")
    index = int.from_bytes(payload[:4], "big")
    class_id, method_id = index >> 16, index & 0xFFFF
    method_class = _METHODS.get(index)
    if method_class is None:
        raise AmqpError(
            540, f"NOT_IMPLEMENTED - unknown method {class_id}.{method_id}", class_id, method_id
        )
    try:
        arguments = payload[4:]
        if method_class in _WITH_TABLES:
            check_method(method_class, arguments)
        method: base.Frame = method_class()
        method.unmarshal(arguments)
    except UNPARSABLE as error:
        raise AmqpError(
            502, f"SYNTAX_ERROR - {method_class.name}: arguments do not parse", class_id, method_id
        ) from error
    return method


_decode_known_publish = lru_cache(REMEMBERED)(_decode_any)


def _decode_publish(payload: bytes) -> base.Frame:
    return (
        _decode_known_publish(payload) if len(payload) <= REMEMBERED_BYTES else _decode_any(payload)
    )


def _decode_deliver(payload: bytes) -> base.Frame:
    method = Basic.Deliver()
    try:
        tag_at = 5 + payload[4]
        exchange_at = tag_at + _tag_and_bit.size
        key_at = exchange_at + 1 + payload[exchange_at]
        method.delivery_tag, bits = _tag_and_bit.unpack_from(payload, tag_at)
        method.consumer_tag = payload[5:tag_at].decode()
        method.redelivered = bits & 1 == 1
        method.exchange = payload[exchange_at + 1 : key_at].decode()
        method.routing_key = payload[key_at + 1 : key_at + 1 + payload[key_at]].decode()
    except (IndexError, struct.error, UnicodeDecodeError):
        return _decode_any(payload)
    return method


def _decode_ack(payload: bytes) -> base.Frame:
    if len(payload) != 4 + _tag_and_bit.size:
        return _decode_any(payload)
    delivery_tag, bits = _tag_and_bit.unpack_from(payload, 4)
    return Basic.Ack(delivery_tag, bits & 1 == 1)


_DECODERS: dict[bytes, Callable[[bytes], base.Frame]] = {
    _PUBLISH: _decode_publish,
    _DELIVER: _decode_deliver,
    _ACK: _decode_ack,
}


def encode_payload(method: base.Frame) -> bytes:
    """Encode a method as the payload of a method frame.

    Raises ValueError or TypeError if an argument does not fit its field.
    """
    encoder = _ENCODERS.get(method.index, _encode_any)
    try:
        return encoder(method)
    except (struct.error, OverflowError) as error:  # pamqp does not check every range and length
        raise ValueError(f"{method.name}: {error}") from error


def _encode_any(method: base.Frame) -> bytes:
    return method.index.to_bytes(4, "big") + method.marshal()


_publish_arguments = attrgetter(*Basic.Publish.attributes())
_short_string = lru_cache(REMEMBERED, typed=True)(encode.short_string)


def _encode_publish(method: Basic.Publish) -> bytes:
    return _encode_known_publish(*_publish_arguments(method))


@lru_cache(REMEMBERED, typed=True)
def _encode_known_publish(*arguments: Any) -> bytes:
    return _encode_any(Basic.Publish(*arguments))


def _encode_deliver(method: Basic.Deliver) -> bytes:
    tag = _tag_and_bit.pack(method.delivery_tag, method.redelivered)
    return b"".join(
        (
            _DELIVER,
            _short_string(method.consumer_tag),
            tag,
            _short_string(method.exchange),
            _short_string(method.routing_key),
        )
    )


def _encode_ack(method: Basic.Ack) -> bytes:
    return _ACK + _tag_and_bit.pack(method.delivery_tag, method.multiple)


_ENCODERS: dict[int, Callable[[Any], bytes]] = {
    Basic.Publish.index: _encode_publish,
    Basic.Deliver.index: _encode_deliver,
    Basic.Ack.index: _encode_ack,
}


def cut_short(text: str) -> str:
    """Return as much of `text` as fits in a short string: 255 bytes of UTF-8 (§4.2.5.3)."""
    return text.encode()[:SHORT_STRING].decode("utf-8", "ignore")


# Content headers: the payload of a content header frame.


class Header(NamedTuple):
    """A decoded content header. `body_size` is in bytes."""

    class_id: int
    body_size: int
    properties: Basic.Properties


def decode_header(payload: bytes) -> Header:
    """Decode the payload of a content header frame. Raises `AmqpError` 502 if it is malformed."""
    try:
        class_id, _, body_size = _content_header.unpack_from(payload)
        properties = payload[_content_header.size :]
        known = len(properties) <= REMEMBERED_BYTES and not properties[0] & _HEADERS
        return Header(
            class_id,
            body_size,
            _decode_known_properties(properties) if known else _decode_properties(properties),
        )
    except UNPARSABLE as error:
        raise AmqpError(502, "SYNTAX_ERROR - content header does not parse") from error


def _decode_properties(payload: bytes) -> Basic.Properties:
    check_properties(payload)
    (flags,) = _property_flags.unpack_from(payload)
    properties = Basic.Properties()
    properties.unmarshal(flags, payload[_property_flags.size :])
    return properties


_decode_known_properties = lru_cache(REMEMBERED)(_decode_properties)


_property_values = attrgetter(*Basic.Properties.attributes())


def encode_header(properties: Basic.Properties, body_size: int) -> bytes:
    """Encode properties as the payload of a content header frame; `body_size` is in bytes.

    Raises ValueError or TypeError if a property does not fit its field.
    """
    try:
        known = _is_common(properties)
        encoded = (
            _encode_known_properties(*_property_values(properties))
            if known
            else properties.marshal()
        )
    except (struct.error, OverflowError) as error:
        raise ValueError(f"{properties.name}: {error}") from error
    return _content_header.pack(Basic.frame_id, 0, body_size) + encoded


def _is_common(properties: Basic.Properties) -> bool:
    """Return whether other messages are likely to have the same properties."""
    return (
        properties.correlation_id is None
        and properties.message_id is None
        and properties.timestamp is None
        and properties.headers is None
    )


@lru_cache(REMEMBERED, typed=True)
def _encode_known_properties(*values: Any) -> bytes:
    properties = Basic.Properties()
    for name, value in zip(Basic.Properties.attributes(), values, strict=True):
        # The constructor rejects some values that a broker must be able to pass on.
        setattr(properties, name, value)
    return properties.marshal()
