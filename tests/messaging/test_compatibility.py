"""Compatibility of versions: each decodes messages with fewer or more fields than its own.

A field that is added to a message, or to an object in one, must have a default. Otherwise a new
front end refuses the replies of an old worker.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import inspect
from twisted.trial.unittest import SynchronousTestCase

from rtprov.messaging import (
    event_messages,
    markers,
    query_messages,
    report_messages,
    status_messages,
)
from rtprov.model import (
    Active,
    Attempt,
    Cancelled,
    Copied,
    Details,
    EquipmentState,
    Finished,
    Marker,
    Phase,
    Postponed,
    Requested,
    Started,
    State,
    Task,
    Waiting,
    Withheld,
)
from rtprov.reports import (
    Cursor,
    EndedCounts,
    FoundTask,
    FoundTasks,
    HistoryCounts,
    ReasonCounts,
    ReplicaCoverage,
    ShardSummary,
    TaskFilter,
)

REQUIRED = {
    "_Task": "task equipment at timeout sealed",
    "_Requested": "task equipment at",
    "_Started": "task equipment at attempt",
    "_Postponed": "task equipment at attempt reason until",
    "_Withheld": "task equipment at",
    "_Cancelled": "task equipment at",
    "_Finished": "task equipment at state reason",
    "_Active": "by at concurrency equipment",
    "_Marker": "id",
    "_AnyKind": "kind",
    "_StatusRequest": "tasks barrier",
    "_StatusReply": "states",
    "_Census": "id",
    "TaskQuery": "task equipment barrier",
    "Listing": "equipment before limit",
    "Watch": "tasks wait",
    "KeysAsked": "",
    "_Keys": "keys",
    "_Known": "tasks",
    "_Ended": "tasks",
    "SummaryAsked": "",
    "_Summary": "summary",
    "TaskSearch": "wanted before limit barrier",
    "_Found": "found",
    "ReasonsAsked": "wanted",
    "_Reasons": "counts whole",
    "EndsAsked": "follower wait",
    "_Ends": "tasks skipped",
    "TaskFilter": "",
    "Cursor": "at task_id",
    "FoundTask": "at details",
    "FoundTasks": "tasks",
    "ReplicaCoverage": "process covered",
    "HistoryCounts": "days",
    "EndedCounts": "",
    "ShardSummary": (
        "process now waiting calling retrying last_minute last_hour last_day oldest_waiting_at"
        " low_s high_s equipment equipment_since last_error typical_call_s active concurrency"
    ),
    "Details": (
        "task_id equipment_id state requested_at started_at finished_at reason attempt_count"
        " attempts waits_for ahead expected_at fingerprint"
    ),
    "Attempt": "number started_at",
    "Copied": "at place upto",
}
"""What the first version of each message has. Nothing may be added here, but for a new message."""

ID, DEVICE, AT = "0123456789abcdef" * 2, "ABC123456", 1_800_000_000.25
COPIED = Copied(AT, 7, 9)
DETAILS = Details(
    ID,
    DEVICE,
    State.RUNNING,
    AT,
    AT,
    None,
    None,
    2,
    (Attempt(1, AT, AT, "refused", AT), Attempt(2, AT)),
    Waiting.SERVICE,
    3,
    AT,
    "f" * 32,
    Phase.RETRYING,
    "token:billing",
    "b1",
    "k1",
)
EVENTS = (
    Requested(ID, DEVICE, AT, "f", caller="c", accepted_by="b", key="k", copied=COPIED),
    Started(ID, DEVICE, AT, 1, "w1"),
    Postponed(ID, DEVICE, AT, 1, "refused", AT),
    Withheld(ID, DEVICE, AT, "k", True),
    Cancelled(ID, DEVICE, AT, copied=COPIED),
    Finished(ID, DEVICE, AT, State.COMPLETED, "A answered 200"),
    Active("w1", AT, 500, EquipmentState.OPEN),
    Marker("m1"),
)
TASK = Task(ID, DEVICE, 14, AT, "gAAAAA", "f", caller="c", accepted_by="b", key="k")
FILTER = TaskFilter(
    states=("failed", "waiting"),
    callers=("token:billing",),
    campaigns=("may-1",),
    equipment_ids=(DEVICE,),
    reasons=("A answered 500",),
    task_ids=(ID,),
    accepted_after=AT,
    accepted_before=AT,
    ended_after=AT,
    ended_before=AT,
)
FOUND = FoundTask(AT, DETAILS)
REPLICA = ReplicaCoverage("w1", [(0.0, AT)], True)
SUMMARY = ShardSummary(
    process="w2",
    now=AT,
    waiting=1,
    calling=2,
    retrying=3,
    last_minute=EndedCounts(1, 2, 3, 4),
    last_hour=EndedCounts(1, 2, 3, 4),
    last_day=EndedCounts(1, 2, 3, 4),
    oldest_waiting_at=AT,
    low_s=1.5,
    high_s=2.5,
    equipment=EquipmentState.OPEN,
    equipment_since=AT,
    last_error="refused",
    typical_call_s=60.0,
    active="w1",
    concurrency=500,
)
QUESTIONS = (
    query_messages.TaskQuery(ID, DEVICE, True),
    query_messages.Listing(DEVICE, ID, 100),
    query_messages.Watch([(ID, DEVICE)], 10.0),
    query_messages.KeysAsked(),
    report_messages.SummaryAsked(),
    report_messages.TaskSearch(FILTER, Cursor(AT, ID), 10, True, history=True),
    report_messages.ReasonsAsked(FILTER, history=True),
    report_messages.EndsAsked("f1", 10.0),
)
Sample = tuple[bytes, Callable[[bytes], object], type]


def structs() -> dict[str, type]:
    """Return the structs of all messages, by name."""
    return {
        name: each
        for module in (event_messages, status_messages, query_messages, report_messages, markers)
        for name, each in vars(module).items()
        if isinstance(each, type)
        and issubclass(each, msgspec.Struct)
        and each.__module__ == module.__name__
    }


def samples() -> Iterator[Sample]:
    """Return a message of each kind with all its fields, its decoder, and its type."""
    types = structs()
    yield event_messages.encode_task(TASK), event_messages.decode_task, types["_Task"]
    for event in EVENTS:
        kind = types[f"_{type(event).__name__}"]
        yield event_messages.encode_event(event), event_messages.decode_event, kind
    status = status_messages
    asked = status.encode_status_request([(ID, DEVICE)], barrier=True)
    yield asked, status.decode_status_request, types["_StatusRequest"]
    states = status.encode_status_reply([State.CANCELLED, None])
    yield states, status.decode_status_reply, types["_StatusReply"]
    for question in QUESTIONS:
        yield query_messages.encode(question), query_messages.decode_question, type(question)
    yield query_messages.encode_known([DETAILS]), query_messages.decode_known, types["_Known"]
    yield query_messages.encode_keys(["k1"]), query_messages.decode_keys, types["_Keys"]
    ended = query_messages.encode_ended([(0, State.FAILED)])
    yield ended, query_messages.decode_ended, types["_Ended"]
    reports = report_messages
    yield reports.encode_summary(SUMMARY), reports.decode_summary, types["_Summary"]
    found = reports.encode_found(FoundTasks([FOUND], Cursor(AT, ID), [(0.0, AT)]), REPLICA)
    yield found, reports.decode_found, types["_Found"]
    history = HistoryCounts({"2026-11-29": {"A answered 500": 12}}, False)
    reasons = reports.encode_reasons(ReasonCounts({"A answered 500": 12}), REPLICA, history)
    yield reasons, reports.decode_reasons, types["_Reasons"]
    yield reports.encode_ends([FOUND], 3), reports.decode_ends, types["_Ends"]
    yield markers.encode_census("m1"), markers.decode_census, types["_Census"]


def objects(value: Any, kind: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Return the JSON objects in `value`, which has the type `kind`, with their own types."""
    if isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from objects(value, each)
    elif isinstance(kind, (inspect.ListType, inspect.VarTupleType)) and isinstance(value, list):
        for item in value:
            yield from objects(item, kind.item_type)
    elif isinstance(kind, (inspect.StructType, inspect.DataclassType)) and isinstance(value, dict):
        yield value, kind
        for field in kind.fields:
            if field.encode_name in value:
                yield from objects(value[field.encode_name], field.type)


class Compatibility(SynchronousTestCase):
    def test_required(self) -> None:
        """Each message requires the fields of its first version, and none that was added later."""
        values = (
            Details,
            Attempt,
            Copied,
            TaskFilter,
            Cursor,
            FoundTask,
            FoundTasks,
            ReplicaCoverage,
            HistoryCounts,
            EndedCounts,
            ShardSummary,
        )
        found = dict(structs(), **{each.__name__: each for each in values})
        self.assertEqual(set(found), set(REQUIRED))
        for name, each in found.items():
            fields = inspect.type_info(each).fields  # type: ignore[attr-defined] # of all structs
            required = {field.encode_name for field in fields if field.required}
            self.assertEqual(required, set(REQUIRED[name].split()), name)

    def test_every_message_has_a_sample(self) -> None:
        """The tests below use every message."""
        kinds = {kind.__name__ for _, _, kind in samples()}
        self.assertEqual(kinds | {"_AnyKind"}, set(structs()))

    def test_from_a_later_version(self) -> None:
        """A field that a later version added, at any depth, is ignored."""
        for body, decode, kind in samples():
            count = len(list(objects(json.loads(body), inspect.type_info(kind))))
            self.assertGreater(count, 0, kind)
            for index in range(count):
                message = json.loads(body)
                added, _ = list(objects(message, inspect.type_info(kind)))[index]
                added["addedLater"] = {"any": ["thing"]}
                later = decode(json.dumps(message).encode())
                self.assertEqual(later, decode(body), (kind, index))

    def test_from_an_earlier_version(self) -> None:
        """A message decodes without the fields that were added after its first version."""
        for body, decode, kind in samples():
            whole = json.loads(body)
            places = list(objects(whole, inspect.type_info(kind)))
            for index, (value, struct) in enumerate(places):
                for field in struct.fields:
                    if field.required or field.encode_name not in value:
                        continue
                    message = copy.deepcopy(whole)
                    earlier, _ = list(objects(message, inspect.type_info(kind)))[index]
                    del earlier[field.encode_name]
                    self.assertIsNotNone(decode(json.dumps(message).encode()), (kind, field))

    def test_answers_of_earlier_workers(self) -> None:
        """Workers of earlier versions do not say who they are, and keep no history."""
        found = json.loads(report_messages.encode_found(FoundTasks([FOUND]), REPLICA))
        reasons = json.loads(report_messages.encode_reasons(ReasonCounts({"lost": 1}), REPLICA))
        for message in (found, reasons):
            del message["replica"]
        self.assertEqual(
            report_messages.decode_found(json.dumps(found).encode()), (FoundTasks([FOUND]), None)
        )
        decoded = report_messages.decode_reasons(json.dumps(reasons).encode())
        self.assertEqual((decoded.replica, decoded.history), (None, None))

    def test_values_that_a_later_version_added(self) -> None:
        """If a later version sends an unknown phase, or reason for waiting, the nearest known one
        is shown.
        """
        body = json.loads(query_messages.encode_known([DETAILS]))
        body["tasks"][0].update(waits_for="weather", phase="dreaming")
        (known,) = query_messages.decode_known(json.dumps(body).encode())
        self.assertEqual((known.waits_for, known.phase), (Waiting.CONCURRENCY, Phase.WAITING))
