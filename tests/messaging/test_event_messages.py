"""The messages between front ends, workers and journals."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import attrs
import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtprov.errors import UndecodableMessage
from rtprov.messaging.event_messages import decode_event, decode_task, encode_event, encode_task
from rtprov.messaging.markers import copy_event, decode_census, encode_census
from rtprov.messaging.status_messages import (
    decode_status_reply,
    decode_status_request,
    encode_status_reply,
    encode_status_request,
)
from rtprov.model import (
    Active,
    Cancelled,
    Copied,
    EquipmentState,
    Event,
    Finished,
    Marker,
    Postponed,
    Requested,
    Started,
    State,
    Task,
    Unrecognised,
    Withheld,
)
from tests.support.strategies import equipment_ids, events, task_ids, tasks, texts

TASK = Task("0123456789abcdef" * 2, "ABC123456", 14, 1_800_000_000.25, "gAAAAAtoken")
FINISHED = Finished(
    TASK.task_id, TASK.equipment_id, 1_800_000_060.5, State.COMPLETED, "A answered 200"
)
DECODERS: list[Callable[[bytes], object]] = [
    decode_task,
    decode_event,
    decode_status_request,
    decode_status_reply,
]
WRONG_TIMES = (-1, -1e300, 1.8e12, 1e300, 10**300)  # among them one in milliseconds
MISTYPED: list[Any] = [None, True, ["x"], {}]


def altered(body: bytes, **fields: Any) -> bytes:
    """Return the message with other or additional fields."""
    return json.dumps({**json.loads(body), **fields}).encode()


def without(body: bytes, field: str) -> bytes:
    return json.dumps(
        {key: value for key, value in json.loads(body).items() if key != field}
    ).encode()


class EarlierTask(msgspec.Struct, tag_field="kind", tag="requested"):
    """A task as read by versions without key ids."""

    task: str
    equipment: str
    at: float
    timeout: int
    sealed: str
    v: int = 1
    fingerprint: str | None = None


class Tasks(SynchronousTestCase):
    @given(tasks)
    def test_round_trip(self, task: Task) -> None:
        """A task decodes to what was encoded. The same message decodes as the journal's
        `Requested`.
        """
        body = encode_task(task)
        self.assertEqual(decode_task(body), task)
        requested = Requested(
            task.task_id, task.equipment_id, task.accepted_at, task.fingerprint, key=task.key
        )
        self.assertEqual(decode_event(body), requested)

    def test_wire_format(self) -> None:
        """The message on the wire, field by field, because other versions read it too."""
        self.assertEqual(
            json.loads(encode_task(TASK)),
            {
                "kind": "requested",
                "v": 1,
                "task": TASK.task_id,
                "equipment": "ABC123456",
                "at": 1_800_000_000.25,
                "timeout": 14,
                "sealed": "gAAAAAtoken",
            },
        )

    def test_fingerprint(self) -> None:
        """The fingerprint of a body with an ``Idempotency-Key`` is a field of its own. A task of an
        earlier version has none.
        """
        body = encode_task(attrs.evolve(TASK, fingerprint="f1"))
        self.assertEqual(json.loads(body), {**json.loads(encode_task(TASK)), "fingerprint": "f1"})
        self.assertEqual(decode_task(body).fingerprint, "f1")
        self.assertEqual(
            decode_event(body), Requested(TASK.task_id, TASK.equipment_id, TASK.accepted_at, "f1")
        )
        self.assertEqual(decode_task(without(body, "fingerprint")), TASK)

    def test_urgency(self) -> None:
        """The urgency is a field of its own, missing if it is the usual one. One that this version
        does not know counts as the nearest.
        """
        body = encode_task(attrs.evolve(TASK, urgency=0))
        self.assertEqual(json.loads(body), {**json.loads(encode_task(TASK)), "urgency": 0})
        for number, expected in ((0, 0), (3, 3), (7, 7), (8, 7), (-1, 0)):
            body = json.dumps({**json.loads(encode_task(TASK)), "urgency": number}).encode()
            event = decode_event(body)
            assert isinstance(event, Requested)
            self.assertEqual((decode_task(body).urgency, event.urgency), (expected, expected))
            self.assertEqual(decode_event(encode_event(event)), event)

    def test_rate(self) -> None:
        """So is the rate of a worker's calls."""
        for rate in (None, 0.5, 20.0):
            event = Active("p1", 1.0, 10, EquipmentState.CLOSED, rate)
            self.assertEqual(decode_event(encode_event(event)), event)
        self.assertNotIn(b"rate", encode_event(Active("p1", 1.0, 10, EquipmentState.CLOSED)))
        nonsense = encode_event(Active("p1", 1.0, 10, EquipmentState.CLOSED, -1.0))
        self.assertEqual(decode_event(nonsense), Active("p1", 1.0, 10, EquipmentState.CLOSED))

    def test_key(self) -> None:
        """The id of the sealing key is a field beside the sealed body, whose form is unchanged. A
        task of an earlier version has none.
        """
        body = encode_task(attrs.evolve(TASK, key="0a1b2c3d"))
        self.assertEqual(json.loads(body), {**json.loads(encode_task(TASK)), "key": "0a1b2c3d"})
        self.assertEqual(decode_task(body).key, "0a1b2c3d")
        self.assertEqual(
            decode_event(body),
            Requested(TASK.task_id, TASK.equipment_id, TASK.accepted_at, key="0a1b2c3d"),
        )
        self.assertEqual(decode_task(without(body, "key")), TASK)

    def test_malformed_key(self) -> None:
        """A task with a malformed key id is refused, because key ids are logged."""
        for key in ("0a1b\n", "x" * 65, "ключ", "a b"):
            error = self.assertRaises(
                UndecodableMessage, decode_task, altered(encode_task(TASK), key=key)
            )
            self.assertEqual(str(error), "not a task: the id of its key is malformed")

    def test_earlier_versions(self) -> None:
        """A worker of an earlier version reads this version's task and ignores the key id."""
        read = msgspec.json.decode(
            encode_task(attrs.evolve(TASK, key="0a1b2c3d", fingerprint="f1")), type=EarlierTask
        )
        self.assertEqual(
            (read.task, read.sealed, read.fingerprint), (TASK.task_id, TASK.sealed, "f1")
        )

    def test_more_fields(self) -> None:
        """Fields of a later version are ignored."""
        self.assertEqual(
            decode_task(altered(encode_task(TASK), v=2, priority={"level": [1, None]})), TASK
        )

    def test_malformed_ids(self) -> None:
        """A task with malformed ids is refused."""
        for fields in (
            {"task": ""},
            {"task": TASK.task_id.upper()},
            {"task": TASK.task_id + "0"},
            {"task": "../" + TASK.task_id[3:]},
            {"equipment": "ABC12"},
            {"equipment": "ABC/123456"},
            {"equipment": "ABC123456\n"},
            {"equipment": "АВС123456"},
        ):
            error = self.assertRaises(
                UndecodableMessage, decode_task, altered(encode_task(TASK), **fields)
            )
            self.assertEqual(str(error), "not a task: an id is malformed")

    def test_incomplete_or_mistyped(self) -> None:
        """Each field is required, and checked for its type."""
        for field in ("task", "equipment", "at", "timeout", "sealed"):
            self.assertRaises(UndecodableMessage, decode_task, without(encode_task(TASK), field))
            for value in MISTYPED:
                self.assertRaises(
                    UndecodableMessage, decode_task, altered(encode_task(TASK), **{field: value})
                )

    def test_numbers(self) -> None:
        """A task is refused if its time is not one in seconds, or its timeout not 1 to 1500 s."""
        body = encode_task(TASK)
        for field, numbers in (("at", WRONG_TIMES), ("timeout", [0, -1, 1501, 10**12, 10**400])):
            for number in numbers:
                error = self.assertRaises(
                    UndecodableMessage, decode_task, altered(body, **{field: number})
                )
                self.assertEqual(str(error), f"not a task: wrong at `$.{field}`")
        for timeout in (1, 1500):
            self.assertEqual(decode_task(altered(body, timeout=timeout)).timeout_s, timeout)
        for text in (b"1e999", b"NaN", b"Infinity", b"1" + b"0" * 5000):
            wrong = body.replace(b"1800000000.25", text)
            self.assertNotEqual(wrong, body)
            self.assertRaises(UndecodableMessage, decode_task, wrong)
            self.assertRaises(UndecodableMessage, decode_event, wrong)

    def test_other_kinds(self) -> None:
        """Other events of a journal are not tasks."""
        for event in (FINISHED, Marker("m"), Requested(TASK.task_id, TASK.equipment_id, 1.0)):
            self.assertRaises(UndecodableMessage, decode_task, encode_event(event))


class Again(SynchronousTestCase):
    """Events that are copied in the journal, and markers."""

    def test_a_copy(self) -> None:
        """A copied request has all fields of the first one, also those of a later version, and says
        when and from where it was copied.
        """
        body = altered(encode_task(TASK), priority=[1, None, "п"])
        for copied in (Copied(9.5, 7, 12), Copied(10.0, -(1 << 46), -1)):
            body = copy_event(body, copied)
            self.assertEqual(json.loads(body)["priority"], [1, None, "п"])
            self.assertEqual(decode_task(body), TASK)
            event = decode_event(body)
            assert isinstance(event, Requested)
            self.assertEqual(
                (event.task_id, event.whole, event.copied), (TASK.task_id, True, copied)
            )

    def test_request_without_a_body(self) -> None:
        """A request that a worker wrote has no body."""
        event = decode_event(encode_event(Requested(TASK.task_id, TASK.equipment_id, 1.0)))
        assert isinstance(event, Requested)
        self.assertEqual((event.whole, event.copied), (False, None))

    def test_events(self) -> None:
        """Requests and cancellations decode to events that say that they are copies."""
        for kind in (Requested, Cancelled):
            event = kind(TASK.task_id, TASK.equipment_id, 1.0, copied=Copied(9.5, 7, 12))
            self.assertEqual(decode_event(encode_event(event)), event)

    def test_census(self) -> None:
        """A marker is not a task, and a task is not a marker."""
        self.assertEqual(decode_census(encode_census("m1")), "m1")
        self.assertRaises(UndecodableMessage, decode_task, encode_census("m1"))
        for body in (encode_task(TASK), b"", b"?", b"[]", encode_event(Marker("m"))):
            self.assertIsNone(decode_census(body))


class Events(SynchronousTestCase):
    @given(events)
    def test_round_trip(self, event: Event) -> None:
        """An event decodes to what was encoded."""
        self.assertEqual(decode_event(encode_event(event)), event)

    @given(
        events,
        st.dictionaries(
            st.just("later") | st.from_regex(r"x[a-z]{1,9}", fullmatch=True),
            st.none() | st.integers() | texts,
        ),
    )
    def test_more_fields(self, event: Event, fields: dict[str, Any]) -> None:
        """Fields of a later version are ignored."""
        self.assertEqual(decode_event(altered(encode_event(event), v=2, **fields)), event)

    def test_wire_format(self) -> None:
        """The messages on the wire, field by field."""
        ids = {"v": 1, "task": TASK.task_id, "equipment": "ABC123456"}
        self.assertEqual(
            json.loads(encode_event(Started(TASK.task_id, "ABC123456", 2.5, 3))),
            {"kind": "started", **ids, "at": 2.5, "attempt": 3},
        )
        named = Started(TASK.task_id, "ABC123456", 2.5, 3, "p1")
        self.assertEqual(
            json.loads(encode_event(named)),
            {"kind": "started", **ids, "at": 2.5, "attempt": 3, "by": "p1"},
        )
        self.assertEqual(decode_event(encode_event(named)), named)
        for state, name in (
            (State.COMPLETED, "completed"),
            (State.FAILED, "failed"),
            (State.NOT_FOUND, "not_found"),
        ):
            self.assertEqual(
                json.loads(encode_event(attrs.evolve(FINISHED, state=state))),
                {
                    "kind": "finished",
                    **ids,
                    "at": FINISHED.at,
                    "state": name,
                    "reason": "A answered 200",
                },
            )
        self.assertEqual(
            json.loads(encode_event(Postponed(TASK.task_id, "ABC123456", 2.5, 3, "refused", 4.5))),
            {
                "kind": "postponed",
                **ids,
                "at": 2.5,
                "attempt": 3,
                "reason": "refused",
                "until": 4.5,
            },
        )
        self.assertEqual(
            json.loads(encode_event(Cancelled(TASK.task_id, "ABC123456", 2.5))),
            {"kind": "cancelled", **ids, "at": 2.5},
        )
        withheld = {"kind": "withheld", **ids, "at": 2.5}
        self.assertEqual(
            json.loads(encode_event(Withheld(TASK.task_id, "ABC123456", 2.5, "0a1b2c3d"))),
            {**withheld, "key": "0a1b2c3d", "over": False},
        )
        self.assertEqual(
            json.loads(encode_event(Withheld(TASK.task_id, "ABC123456", 2.5, over=True))),
            {**withheld, "over": True},
        )
        self.assertEqual(
            json.loads(encode_event(Marker("m1"))), {"kind": "marker", "v": 1, "id": "m1"}
        )

    def test_later_kinds(self) -> None:
        """An event of an unknown kind is decoded as unrecognised, whatever its fields."""
        for body in (
            b'{"kind": "paused"}',
            b'{"v": 2, "kind": "paused", "task": 5, "at": [{}]}',
            b'{"task": null, "kind": "paused", "v": []}',
        ):
            self.assertEqual(decode_event(body), Unrecognised("paused"))

    def test_unrecognised_is_not_written(self) -> None:
        """An unrecognised event cannot be encoded."""
        self.assertRaises(TypeError, encode_event, Unrecognised("paused"))

    def test_incomplete_or_mistyped(self) -> None:
        """An event of a known kind needs all its fields, with their types."""
        postponed = Postponed(TASK.task_id, "ABC123456", 1.0, 1, "refused", 2.0)
        cancelled = Cancelled(TASK.task_id, "ABC123456", 1.0)
        started = Started(TASK.task_id, "ABC123456", 1.0, 1)
        for event in (
            Requested(TASK.task_id, "ABC123456", 1.0),
            started,
            postponed,
            cancelled,
            FINISHED,
            Marker("m"),
        ):
            body = encode_event(event)
            for field in json.loads(body).keys() - {"v"}:
                self.assertRaises(UndecodableMessage, decode_event, without(body, field))
                for value in MISTYPED:
                    self.assertRaises(
                        UndecodableMessage, decode_event, altered(body, **{field: value})
                    )

    def test_numbers(self) -> None:
        """An event is refused if a time is not one in seconds, or a number is not in its range."""
        task = (TASK.task_id, "ABC123456", 1.0)
        attempts = (0, -1, 10**9 + 1, 10**400)
        for event, fields in (
            (Requested(*task), {"at": WRONG_TIMES}),
            (Started(*task, 1), {"at": WRONG_TIMES, "attempt": attempts}),
            (
                Postponed(*task, 1, "refused", 2.0),
                {"at": WRONG_TIMES, "attempt": attempts, "until": WRONG_TIMES},
            ),
            (Withheld(*task), {"at": WRONG_TIMES}),
            (Cancelled(*task), {"at": WRONG_TIMES}),
            (FINISHED, {"at": WRONG_TIMES}),
            (Active("p1", 1.0, 10, EquipmentState.CLOSED), {"at": WRONG_TIMES}),
        ):
            for field, numbers in fields.items():
                for number in numbers:
                    body = altered(encode_event(event), **{field: number})
                    error = self.assertRaises(UndecodableMessage, decode_event, body)
                    self.assertEqual(str(error), f"not an event: wrong at `$.{field}`")

    def test_numbers_of_copies(self) -> None:
        """So is the mark of a copy."""
        for event in (
            Requested(TASK.task_id, "ABC123456", 1.0, copied=Copied(9.5, 7, 12)),
            Cancelled(TASK.task_id, "ABC123456", 1.0, copied=Copied(9.5, 7, 12)),
        ):
            for field, numbers in (
                ("at", WRONG_TIMES),
                ("place", [10**19, -(10**400)]),
                ("upto", [10**19, -(10**400)]),
            ):
                for number in numbers:
                    copied = {"at": 9.5, "place": 7, "upto": 12, field: number}
                    body = altered(encode_event(event), copied=copied)
                    self.assertRaises(UndecodableMessage, decode_event, body)

    def test_numbers_of_a_worker(self) -> None:
        """A number of calls that no worker makes counts as the nearest, such a rate as none."""
        active = Active("p1", 1.0, 10, EquipmentState.CLOSED)
        for number, expected in ((0, 1), (-5, 1), (10**13, 100_000), (10**400, 100_000)):
            body = altered(encode_event(active), concurrency=number)
            self.assertEqual(decode_event(body), attrs.evolve(active, concurrency=expected))
        for rate in (0.0, 5e-324, 1e308, -1e308):
            self.assertEqual(decode_event(altered(encode_event(active), rate=rate)), active)

    def test_state(self) -> None:
        """A task finishes in a final state. An unknown one, of a later version, counts as
        failed.
        """
        self.assertRaises(
            UndecodableMessage, decode_event, altered(encode_event(FINISHED), state="running")
        )
        for state in ("retired", "s3cr3t", ""):
            event = decode_event(altered(encode_event(FINISHED), state=state))
            reason = "ended in a state that this version does not know"
            self.assertEqual(event, attrs.evolve(FINISHED, state=State.FAILED, reason=reason))


class Statuses(SynchronousTestCase):
    @given(st.lists(st.tuples(task_ids, equipment_ids), max_size=20), st.booleans())
    def test_request_round_trip(self, pairs: list[tuple[str, str]], barrier: bool) -> None:
        """A batch of pairs, and whether a barrier is needed, decode to what was encoded."""
        self.assertEqual(
            decode_status_request(encode_status_request(pairs, barrier=barrier)), (pairs, barrier)
        )

    @given(st.lists(st.none() | st.sampled_from(State), max_size=20))
    def test_reply_round_trip(self, states: list[State | None]) -> None:
        """A batch of states, some unknown, decodes to what was encoded."""
        self.assertEqual(decode_status_reply(encode_status_reply(states)), states)

    def test_wire_format(self) -> None:
        """The messages on the wire, field by field."""
        self.assertEqual(
            json.loads(encode_status_request([("t1", "e1"), ("t2", "e2")], barrier=True)),
            {"kind": "status", "v": 1, "tasks": [["t1", "e1"], ["t2", "e2"]], "barrier": True},
        )
        self.assertEqual(
            json.loads(
                encode_status_reply(
                    [*(state for state in State if state is not State.CANCELLED), None]
                )
            ),
            {
                "kind": "states",
                "v": 1,
                "states": ["running", "completed", "failed", "not_found", None],
            },
        )

    def test_cancelled(self) -> None:
        """For earlier versions a cancelled task has failed. An additional field tells later
        versions that it was cancelled.
        """
        reply = encode_status_reply([State.CANCELLED, State.FAILED, None, State.CANCELLED])
        self.assertEqual(
            json.loads(reply),
            {
                "kind": "states",
                "v": 1,
                "states": ["failed", "failed", None, "failed"],
                "cancelled": [0, 3],
            },
        )
        for value in ([4], [-1], ["0"]):
            self.assertRaises(
                UndecodableMessage, decode_status_reply, altered(reply, cancelled=value)
            )

    def test_more_fields(self) -> None:
        """Fields of a later version are ignored."""
        self.assertEqual(
            decode_status_request(altered(encode_status_request([], barrier=False), v=2, later=1)),
            ([], False),
        )
        self.assertEqual(
            decode_status_reply(altered(encode_status_reply([None]), v=2, later=1)), [None]
        )

    def test_malformed(self) -> None:
        """Each pair must be two strings, and each state must be known."""
        request, reply = encode_status_request([], barrier=False), encode_status_reply([])
        pairs: list[Any] = [None, "x", ["x"], [["x"]], [["x", "y", "z"]], [["x", 5]], {}]
        for value in pairs:
            self.assertRaises(
                UndecodableMessage, decode_status_request, altered(request, tasks=value)
            )
        for value in (None, 0, "true"):
            self.assertRaises(
                UndecodableMessage, decode_status_request, altered(request, barrier=value)
            )
        states: list[Any] = [None, "running", ["lost"], [5], {}]
        for value in states:
            self.assertRaises(UndecodableMessage, decode_status_reply, altered(reply, states=value))
        self.assertRaises(UndecodableMessage, decode_status_request, reply)
        self.assertRaises(UndecodableMessage, decode_status_reply, request)


class Garbage(SynchronousTestCase):
    @given(st.binary(max_size=100) | texts.map(str.encode))
    def test_any_bytes(self, body: bytes) -> None:
        """Arbitrary bytes raise nothing but `UndecodableMessage`."""
        for decode in DECODERS:
            with contextlib.suppress(UndecodableMessage):
                decode(body)

    def test_not_ours(self) -> None:
        """Every decoder refuses what is not a JSON object with its fields, however deeply
        nested.
        """
        deep = b"[" * 100_000 + b"]" * 100_000
        for body in (
            b"",
            b"\xff",
            b"null",
            b"5",
            b"[]",
            b"{}",
            b'"requested"',
            b'{"kind": 5}',
            b'{"kind": "requested"}',
            deep,
            b"{" * 100_000,
        ):
            for decode in DECODERS:
                self.assertRaises(UndecodableMessage, decode, body)
        for decode in DECODERS:
            self.assertRaises(
                UndecodableMessage, decode, b'{"kind": "finished", "later": ' + deep + b"}"
            )

    def test_no_value_is_repeated(self) -> None:
        """An error names the place, and does not repeat values, because these may be secret."""
        values: list[Any] = ["s3cr3t", ["s3cr3t"], {"s3cr3t": "s3cr3t"}]
        for value in values:
            error = self.assertRaises(
                UndecodableMessage, decode_task, altered(encode_task(TASK), kind=value)
            )
            self.assertEqual(str(error), "not a task: wrong at `$.kind`")
            error = self.assertRaises(
                UndecodableMessage, decode_task, altered(encode_task(TASK), timeout=value)
            )
            self.assertEqual(str(error), "not a task: wrong at `$.timeout`")
            error = self.assertRaises(
                UndecodableMessage, decode_event, altered(encode_event(FINISHED), at=value)
            )
            self.assertEqual(str(error), "not an event: wrong at `$.at`")
        for decode in DECODERS:
            for body in (
                b's3cr3t {"kind"',
                b'{"kind": "finished", "s3cr3t": "s3cr3t"}',
                b'{"kind": "s3cr3t',
                b'"s3cr3t"',
            ):
                self.assertNotIn("s3cr3t", str(self.assertRaises(UndecodableMessage, decode, body)))
