"""Several events of a journal in one message, a *batch*.

A batch is ``{"kind":"events","v":1,"events":[…]}``; each event in it is what its own message would
be. It holds events of one shard, of several tasks, in order.

rtprov reads batches since version 0.3. An earlier worker passes over a batch, and so does not know
that its tasks have begun or ended. So workers write batches only with ``--batch-events``, which is
to be set once no earlier worker is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from rtprov.messaging.format import MALFORMED, VERSION, Tagged, undecodable

if TYPE_CHECKING:
    from collections.abc import Sequence

_START = b'{"kind":"events",'


class _Batch(Tagged, tag="events"):
    events: list[msgspec.Raw]
    v: int = VERSION


class _OfTask(msgspec.Struct):
    task: str


_decode = msgspec.json.Decoder(_Batch).decode
_decode_task = msgspec.json.Decoder(_OfTask).decode


def encode_batch(events: Sequence[bytes]) -> bytes:
    """Return the message of these events, each as `encode_event` returns it."""
    return b'%b"v":%d,"events":[%b]}' % (_START, VERSION, b",".join(events))


def events_in(body: bytes) -> Sequence[bytes]:
    """Return the messages of the events in a journal's message: those of a batch, or itself.

    Raises `UndecodableMessage` if a batch is damaged.
    """
    if not body.startswith(_START):
        return (body,)
    try:
        return [bytes(event) for event in _decode(body).events]
    except MALFORMED as error:
        raise undecodable("a batch of events", error) from None


def events_of_task(body: bytes, task_id: str) -> Sequence[bytes]:
    """Return the messages of a batch's events that are about a task. A message that is no batch is
    returned as it is.

    Raises `UndecodableMessage` if the batch is damaged.
    """
    if not body.startswith(_START):
        return (body,)
    return [event for event in events_in(body) if _task_of(event) == task_id]


def _task_of(event: bytes) -> str | None:
    try:
        return _decode_task(event).task
    except MALFORMED:
        return None  # an event of a later version may have no task
