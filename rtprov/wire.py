"""JSON on the wire: requests from clients, and the messages that front ends, workers and journals exchange.

AMQP bodies are objects with ``"v"`` (the format's version) and ``"kind"``. What a later version adds is carried, not fatal: unknown fields
are passed over, unknown kinds become `Unrecognised`. `rtprov.body` has the rules of a request's body.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from rtprov.errors import UndecodableMessage
from rtprov.model import Event, Finished, Marker, Requested, Started, State, Task, Unrecognised, is_equipment_id, is_task_id

VERSION = 1


class _Tagged(msgspec.Struct, tag_field="kind", gc=False):
    pass


class _Task(_Tagged, tag="requested"):
    task: str
    equipment: str
    at: float
    timeout: int
    sealed: str
    v: int = VERSION


class _Requested(_Tagged, tag="requested"):
    """The same message, read without its sealed body."""

    task: str
    equipment: str
    at: float


class _Started(_Tagged, tag="started"):
    task: str
    equipment: str
    at: float
    attempt: int
    v: int = VERSION


class _Finished(_Tagged, tag="finished"):
    task: str
    equipment: str
    at: float
    state: Literal["completed", "failed", "not_found"]
    reason: str
    v: int = VERSION


class _Marker(_Tagged, tag="marker"):
    id: str
    v: int = VERSION


class _StatusRequest(_Tagged, tag="status"):
    tasks: list[tuple[str, str]]
    barrier: bool
    v: int = VERSION


class _StatusReply(_Tagged, tag="states"):
    states: list[Literal["running", "completed", "failed", "not_found"] | None]
    v: int = VERSION


class _Kind(msgspec.Struct):
    kind: str


_encode = msgspec.json.Encoder().encode
_decode_task = msgspec.json.Decoder(_Task).decode
_decode_event = msgspec.json.Decoder(_Requested | _Started | _Finished | _Marker).decode
_decode_kind = msgspec.json.Decoder(_Kind).decode
_decode_request = msgspec.json.Decoder(_StatusRequest).decode
_decode_reply = msgspec.json.Decoder(_StatusReply).decode

# msgspec's messages name a place and a type, never a value, so they may be passed on.
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode_task(task: Task) -> bytes:
    """The message that is the worker's order and the journal's `Requested` at once."""
    return _encode(_Task(task.task_id, task.equipment_id, task.accepted_at, task.timeout_s, task.sealed))


def decode_task(body: bytes) -> Task:
    """Raises `UndecodableMessage`."""
    try:
        message = _decode_task(body)
    except _MALFORMED as error:
        raise UndecodableMessage(f"not a task: {error}") from None
    if not is_task_id(message.task) or not is_equipment_id(message.equipment):
        raise UndecodableMessage("not a task: an id is malformed")
    return Task(message.task, message.equipment, message.timeout, message.at, message.sealed)


def encode_event(event: Event) -> bytes:
    """A journal's message. Requests come from `encode_task`, so `Requested` has no encoding of its own: TypeError."""
    if isinstance(event, Started):
        return _encode(_Started(event.task_id, event.equipment_id, event.at, event.attempt))
    if isinstance(event, Finished):
        return _encode(_Finished(event.task_id, event.equipment_id, event.at, event.state.value, event.reason))  # type: ignore[arg-type]
    if isinstance(event, Marker):
        return _encode(_Marker(event.marker_id))
    raise TypeError(f"{type(event).__name__} is not for writing")


def decode_event(body: bytes) -> Event:
    """Raises `UndecodableMessage`; an event of a kind that we do not know is `Unrecognised`."""
    try:
        message = _decode_event(body)
    except _MALFORMED as error:
        return _unrecognised(body, error)
    if isinstance(message, _Requested):
        return Requested(message.task, message.equipment, message.at)
    if isinstance(message, _Started):
        return Started(message.task, message.equipment, message.at, message.attempt)
    if isinstance(message, _Finished):
        return Finished(message.task, message.equipment, message.at, State(message.state), message.reason)
    return Marker(message.id)


_KINDS = {"requested", "started", "finished", "marker"}


def _unrecognised(body: bytes, error: Exception) -> Event:
    try:
        kind = _decode_kind(body).kind
    except _MALFORMED:
        kind = "marker"
    if kind in _KINDS:
        raise UndecodableMessage(f"not an event: {error}") from None
    return Unrecognised(kind)


def encode_status_request(pairs: Sequence[tuple[str, str]], *, barrier: bool) -> bytes:
    """A batch of (task id, equipment id) pairs; with `barrier`, the replica is to pass its barrier before it answers."""
    return _encode(_StatusRequest(list(pairs), barrier))


def decode_status_request(body: bytes) -> tuple[list[tuple[str, str]], bool]:
    """The pairs, and whether a barrier comes first. Raises `UndecodableMessage`."""
    try:
        message = _decode_request(body)
    except _MALFORMED as error:
        raise UndecodableMessage(f"not a status request: {error}") from None
    return message.tasks, message.barrier


def encode_status_reply(states: Sequence[State | None]) -> bytes:
    """The answers to a batch, in its order; None for a task that is not known."""
    return _encode(_StatusReply([state.value if state is not None else None for state in states]))


def decode_status_reply(body: bytes) -> list[State | None]:
    """Raises `UndecodableMessage`."""
    try:
        message = _decode_reply(body)
    except _MALFORMED as error:
        raise UndecodableMessage(f"not a status reply: {error}") from None
    return [State(state) if state is not None else None for state in message.states]
