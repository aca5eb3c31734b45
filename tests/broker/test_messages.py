"""Messages in the broker: a header that it adds, and everything else left as it came."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pamqp.commands import Basic
from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.codec import decode_header, encode_header
from rtprov.broker.messages import Message

text = st.text(max_size=20)
properties = st.fixed_dictionaries(
    {},
    optional={
        "content_type": text,
        "content_encoding": text,
        "headers": st.dictionaries(st.text(min_size=1, max_size=10) | st.just("x-stream-offset"), st.booleans() | text, max_size=4),
        "delivery_mode": st.sampled_from([1, 2]),
        "correlation_id": text,
        "expiration": text,
    },
)


def message(**given: Any) -> Message:
    header = encode_header(Basic.Properties(**given), 3)
    return Message("", "q", decode_header(header).properties, header, b"abc")


class ChangedTests(SynchronousTestCase):
    @given(properties, st.integers(0, 2**63 - 1))
    def test_one_more_header(self, given: dict[str, Any], value: int) -> None:
        """Whatever properties a message has, it gets one header more, or its value replaced; body size and all else stay."""
        decoded = decode_header(message(**given).with_number("x-stream-offset", value))
        self.assertEqual(decoded.body_size, 3)
        expected = Basic.Properties(**{**given, "headers": {**given.get("headers", {}), "x-stream-offset": value}})
        self.assertEqual(dict(decoded.properties), dict(decode_header(encode_header(expected, 3)).properties))

    def test_bytes_stay(self) -> None:
        """The bytes of the other properties and headers are passed on as they came, whatever types they have."""
        given = message(headers={"small": 1, "нет": None}, correlation_id="7")
        spliced = given.with_number("x-delivery-count", 2)
        table = given.header[given.header.index(b"\x05small") : given.header.index(b"\x017")]
        self.assertIn(table, spliced)
        self.assertTrue(spliced.endswith(b"\x017"))

    def test_changed(self) -> None:
        """To change a message's properties changes those of no other message, though the same bytes were decoded for both."""
        header = encode_header(Basic.Properties(delivery_mode=2), 3)
        first = Message("", "q", decode_header(header).properties, header, b"abc")
        changed = first.with_properties(reply_to="somewhere")
        self.assertEqual(changed.properties.reply_to, "somewhere")
        self.assertEqual(decode_header(changed.header).properties.reply_to, "somewhere")
        self.assertIsNone(decode_header(header).properties.reply_to)
