"""`rtprov.messaging.event_batches`."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtprov.errors import UndecodableMessage
from rtprov.messaging.event_batches import encode_batch, events_in, events_of_task
from rtprov.messaging.event_messages import decode_event, encode_event
from rtprov.model import Event, Finished, Started, State, Unrecognised
from tests.support.brokered import EPOCH, task_id

EVENTS: list[Event] = [
    Started(task_id(1), "DEVICE1", EPOCH, 1, "p1"),
    Started(task_id(2), "DEVICE2", EPOCH, 1),
    Finished(task_id(1), "DEVICE1", EPOCH, State.FAILED, 'A said "events": [no]'),
]
MESSAGES = [encode_event(event) for event in EVENTS]


class Batches(SynchronousTestCase):
    def test_wire_format(self) -> None:
        """The message on the wire, because other versions read it too."""
        body = encode_batch(MESSAGES)
        self.assertEqual(body[:25], b'{"kind":"events","v":1,"e')
        self.assertEqual(
            json.loads(body),
            {"kind": "events", "v": 1, "events": [json.loads(each) for each in MESSAGES]},
        )

    @given(st.lists(st.sampled_from(MESSAGES), min_size=1))
    def test_round_trip(self, messages: list[bytes]) -> None:
        """A batch has its events in order, byte for byte."""
        self.assertEqual(list(events_in(encode_batch(messages))), messages)

    def test_one_event(self) -> None:
        """A message that is no batch is its only event."""
        for message in (*MESSAGES, b"{}", b"", b'{"kind": "events"}'):
            self.assertEqual(list(events_in(message)), [message])
            self.assertEqual(list(events_of_task(message, task_id(1))), [message])

    def test_fields_of_later_versions(self) -> None:
        """Fields that this version does not know are ignored in a batch, and kept in its events."""
        event = b'{"kind":"paused","task":"t","new":[1]}'
        body = encode_batch([event, MESSAGES[0]]).replace(b'"v":1', b'"v":2,"more":{"a":1}', 1)
        self.assertEqual(list(events_in(body)), [event, MESSAGES[0]])

    def test_earlier_versions(self) -> None:
        """A worker of an earlier version takes a batch for an event of a kind that it does not
        know.
        """
        self.assertEqual(decode_event(encode_batch(MESSAGES)), Unrecognised("events"))

    def test_damaged(self) -> None:
        """A damaged batch is an error that does not repeat its content."""
        body = encode_batch(MESSAGES)
        for damaged in (body[:-1], body[:40], b'{"kind":"events","events":7}', body + b"x"):
            for read in (events_in, lambda body: events_of_task(body, task_id(1))):
                error = self.assertRaises(UndecodableMessage, read, damaged)
                self.assertNotIn("DEVICE", str(error))

    def test_of_one_task(self) -> None:
        """The events of one task are found in a batch."""
        self.assertEqual(
            list(events_of_task(encode_batch(MESSAGES), task_id(1))), [MESSAGES[0], MESSAGES[2]]
        )
        self.assertEqual(list(events_of_task(encode_batch(MESSAGES), task_id(3))), [])
        mixed = encode_batch([b'{"kind":"paused","v":1}', MESSAGES[1], b"7"])
        self.assertEqual(list(events_of_task(mixed, task_id(2))), [MESSAGES[1]])
