"""The codec of methods and content headers: the optimised and cached paths have the same results as
pamqp, and no bytes raise anything worse than `AmqpError`.
"""

from __future__ import annotations

import contextlib
import struct
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import base
from pamqp.commands import Basic, Queue
from pamqp.header import ContentHeader
from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.codec import decode_header, decode_method, encode_header, encode_payload
from rtprov.errors import AmqpError

shorts = st.text(max_size=60)
names = st.text("abc.-_", max_size=9)
tags = st.integers(0, 2**63 - 1)
hot_methods = st.one_of(
    st.builds(Basic.Publish, st.just(0), names, shorts, st.booleans(), st.booleans()),
    st.builds(Basic.Deliver, shorts, tags, st.booleans(), names, shorts),
    st.builds(Basic.Ack, tags, st.booleans()),
)
properties = st.builds(
    Basic.Properties,
    content_type=st.none() | shorts,
    headers=st.none() | st.dictionaries(names, st.integers(0, 9), max_size=2),
    delivery_mode=st.sampled_from((None, 1, 2)),
    correlation_id=st.none() | shorts,
    expiration=st.none() | shorts,
    timestamp=st.none() | st.datetimes(datetime(1971, 1, 1), timezones=st.just(timezone.utc)),
)
HOT = (Basic.Publish, Basic.Deliver, Basic.Ack)


def payload_of(method: base.Frame) -> bytes:
    """Return a method's payload as pamqp encodes it."""
    return method.index.to_bytes(4, "big") + method.marshal()


def outcome(decode: Any, payload: bytes) -> object:
    """Return the result of decoding: names and values, or the error."""
    try:
        return dict(decode(payload))
    except (AmqpError, ValueError, IndexError, struct.error):
        return "wrong"


def decoded_by_pamqp(payload: bytes) -> base.Frame:
    (method,) = (kind() for kind in HOT if kind.index.to_bytes(4, "big") == payload[:4])
    method.unmarshal(payload[4:])
    return method


class HotMethodTests(SynchronousTestCase):
    """The methods that are used for every message."""

    @settings(max_examples=300)
    @given(hot_methods)
    def test_as_pamqp(self, method: base.Frame) -> None:
        """Each is encoded as pamqp encodes it, and decoded again, the first time and the second."""
        for _ in range(2):
            self.assertEqual(encode_payload(method), payload_of(method))
            decoded = decode_method(payload_of(method))
            self.assertIs(type(decoded), type(method))
            self.assertEqual(dict(decoded), dict(method))

    @settings(max_examples=500)
    @given(hot_methods, st.data())
    def test_damaged(self, method: base.Frame, data: st.DataObject) -> None:
        """Whatever bytes follow the method's number, the result or error is the same as pamqp's."""
        payload = bytearray(payload_of(method))
        for _ in range(data.draw(st.integers(1, 3))):
            payload[data.draw(st.integers(4, len(payload) - 1))] = data.draw(st.integers(0, 255))
        damaged = bytes(payload[: data.draw(st.integers(4, len(payload)))])
        self.assertEqual(outcome(decode_method, damaged), outcome(decoded_by_pamqp, damaged))

    def test_long(self) -> None:
        """Values that are too long for the cache are encoded and decoded as well."""
        method = Basic.Publish(0, "x" * 127, "k" * 255, True)
        self.assertEqual(dict(decode_method(encode_payload(method))), dict(method))


class _Autumn(tzinfo):
    """A time zone at the hour at which clocks are set back."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(hours=1 if moment is not None and moment.fold else 2)

    def dst(self, moment: datetime | None) -> None:
        """Unknown."""

    def tzname(self, moment: datetime | None) -> None:
        """No name."""


class HeaderTests(SynchronousTestCase):
    @settings(max_examples=300)
    @given(properties, st.integers(0, 2**32))
    def test_as_pamqp(self, properties: Basic.Properties, size: int) -> None:
        """A header is encoded and decoded as pamqp does it, the first time and the second."""
        expected = ContentHeader(body_size=size, properties=properties).marshal()
        theirs = ContentHeader()
        theirs.unmarshal(expected)
        for _ in range(2):
            self.assertEqual(encode_header(properties, size), expected)
            header = decode_header(expected)
            self.assertEqual(
                (header.class_id, header.body_size, dict(header.properties)),
                (60, size, dict(theirs.properties)),
            )

    def test_folded_times(self) -> None:
        """Two times that Python treats as equal, in the hour that occurs twice in autumn, are
        encoded as different times.
        """
        first = datetime(2026, 10, 25, 2, 30, tzinfo=_Autumn())
        for moment in (first, first.replace(fold=1)):
            properties = Basic.Properties(timestamp=moment)
            self.assertEqual(
                encode_header(properties, 0), ContentHeader(properties=properties).marshal()
            )

    def test_tables_apart(self) -> None:
        """A table of headers, which is mutable, is never shared."""
        header = encode_header(Basic.Properties(headers={"a": 1}), 0)
        self.assertIsNot(
            decode_header(header).properties.headers, decode_header(header).properties.headers
        )

    def test_types_apart(self) -> None:
        """An invalid value is still refused after an equal value of a valid type was accepted."""
        encode_header(Basic.Properties(delivery_mode=2), 0)
        wrong: Any = 2.0
        self.assertRaises(TypeError, encode_header, Basic.Properties(delivery_mode=wrong), 0)

    def test_small_negative(self) -> None:
        """A small negative number is decoded correctly."""
        header = encode_header(Basic.Properties(), 0)[:12] + b"\x20\0\0\0\0\x04\x01nb\xff"
        self.assertEqual(decode_header(header).properties.headers, {"n": -1})


class WrongTests(SynchronousTestCase):
    def test_unknown_method(self) -> None:
        """An unknown method is named by its numbers."""
        error = self.assertRaises(AmqpError, decode_method, b"\0\x0a\0\xff")
        self.assertEqual((error.reply_code, error.class_id, error.method_id), (540, 10, 255))
        self.assertTrue(error.hard)

    def test_endless_fields(self) -> None:
        """Fields that are damaged, too many or too deeply nested are syntax errors, found
        quickly.
        """

        def table(content: bytes) -> bytes:
            return b"\x01t" + content

        long = (1000).to_bytes(4, "big")
        empty = b"A\0\0\0\0"
        deep = b"V"
        for _ in range(1000):
            deep = b"A" + len(deep).to_bytes(4, "big") + deep
        numberless = b"A" + (120_000).to_bytes(4, "big") + b"V" * 120_000
        for value in (
            b"A" + long,
            b"F" + long,
            b"A" + long + empty,
            b"S" + long,
            b"x" + long,
            b"?",
            b"",
            deep,
            numberless,
            b"l1234",
        ):
            fields = table(value)
            headers = len(fields).to_bytes(4, "big") + fields
            header = encode_header(Basic.Properties(), 0)[:12] + b"\x20\0" + headers
            error: AmqpError = self.assertRaises(AmqpError, decode_header, header)
            self.assertEqual(error.reply_code, 502)
            error = self.assertRaises(
                AmqpError, decode_method, b"\0\x32\0\x0a" + b"\0\0\x01q\0" + headers
            )
            self.assertEqual((error.reply_code, error.class_id, error.method_id), (502, 50, 10))
        self.assertRaises(
            AmqpError, decode_header, encode_header(Basic.Properties(), 0)[:12] + b"\0\x01"
        )

    @settings(max_examples=300)
    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """Arbitrary bytes raise nothing worse than `AmqpError`."""
        for decode in (decode_method, decode_header):
            with contextlib.suppress(AmqpError):
                decode(data)

    def test_unencodable(self) -> None:
        """A value that does not fit its field raises ValueError or TypeError, for every field."""
        wrong: list[base.Frame] = [
            Queue.Bind(routing_key="k" * 256),
            Queue.Bind(routing_key="\ud800"),
            Basic.Qos(0, 65536),
            Basic.Qos(0, -1),
        ]
        wrong += [Basic.Publish(0, "", "k" * 256), Basic.Deliver("c", None, False, "", "q")]
        wrong += [
            Basic.Deliver("c", 1, False, "", "k" * 256),
            Basic.Deliver("c" * 256, 1, False, "", "q"),
            Basic.Ack(2**63),
        ]
        for method in wrong:
            self.assertRaises((ValueError, TypeError), encode_payload, method)
        for properties in (
            Basic.Properties(priority=256),
            Basic.Properties(priority=-1),
            Basic.Properties(headers={"a": 2**63}),
            Basic.Properties(headers={"a": 1e300}),
        ):
            self.assertRaises((ValueError, TypeError), encode_header, properties, 0)
