"""Encode and decode tasks and journal events as JSON messages.

Each message is an object with ``"v"``, the version of the format, and ``"kind"``. Additions of
later versions are not an error. Unknown fields are ignored. An event of an unknown kind is decoded
as `Unrecognised`. A task that ended in an unknown state is decoded as failed.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from rtprov.errors import UndecodableMessage
from rtprov.messaging.format import (
    LATEST,
    MALFORMED,
    MAX_CALLER,
    VERSION,
    Tagged,
    Time,
    given,
    short_name,
    undecodable,
)
from rtprov.model import (
    DEFAULT_URGENCY,
    LEAST_URGENCY,
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
    is_equipment_id,
    is_task_id,
)

# Far more than there are. Numbers within these limits cost no memory and can be stored anywhere.
MAX_ATTEMPT = 10**9
MAX_OFFSET = 1 << 62
# For the estimates of ends; one slot costs 8 bytes, and greater numbers count as this one.
MAX_CONCURRENCY = 100_000
_Attempt = Annotated[int, Meta(ge=1, le=MAX_ATTEMPT)]


class _Task(Tagged, tag="requested"):
    task: str
    equipment: str
    at: Time
    timeout: Annotated[int, Meta(ge=1, le=1500)]
    sealed: str
    v: int = VERSION
    fingerprint: str | UnsetType = UNSET
    caller: str | UnsetType = UNSET
    by: str | UnsetType = UNSET
    key: str | UnsetType = UNSET
    urgency: int | UnsetType = UNSET


class _Requested(Tagged, tag="requested"):
    """The part of a `_Task` that a journal's readers need; the sealed body is not decoded."""

    task: str
    equipment: str
    at: Time
    v: int = VERSION
    fingerprint: str | UnsetType = UNSET
    caller: str | UnsetType = UNSET
    by: str | UnsetType = UNSET
    key: str | UnsetType = UNSET
    urgency: int | UnsetType = UNSET
    sealed: msgspec.Raw | UnsetType = UNSET
    copied: Copied | UnsetType = UNSET


class _Started(Tagged, tag="started"):
    task: str
    equipment: str
    at: Time
    attempt: _Attempt
    by: str | UnsetType = UNSET
    v: int = VERSION


class _Postponed(Tagged, tag="postponed"):
    task: str
    equipment: str
    at: Time
    attempt: _Attempt
    reason: str
    until: Time
    v: int = VERSION


class _Withheld(Tagged, tag="withheld"):
    task: str
    equipment: str
    at: Time
    key: str | UnsetType = UNSET
    over: bool = False
    v: int = VERSION


class _Cancelled(Tagged, tag="cancelled"):
    task: str
    equipment: str
    at: Time
    v: int = VERSION
    copied: Copied | UnsetType = UNSET


class _Finished(Tagged, tag="finished"):
    task: str
    equipment: str
    at: Time
    state: str
    reason: str
    v: int = VERSION


class _Active(Tagged, tag="active"):
    by: str
    at: Time
    concurrency: int
    equipment: str
    rate: float | UnsetType = UNSET
    v: int = VERSION


class _Marker(Tagged, tag="marker"):
    id: str
    v: int = VERSION


class _AnyKind(msgspec.Struct):
    kind: str


_STATES = {state.value: state for state in State}
_EQUIPMENT_STATES = {state.value: state for state in EquipmentState}
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_EVENT_KINDS = frozenset(
    {"requested", "started", "postponed", "withheld", "cancelled", "finished", "active", "marker"}
)

_encode = msgspec.json.Encoder().encode
_decode_task = msgspec.json.Decoder(_Task).decode
_decode_event = msgspec.json.Decoder(
    _Requested | _Started | _Postponed | _Withheld | _Cancelled | _Finished | _Active | _Marker
).decode
_decode_any_kind = msgspec.json.Decoder(_AnyKind).decode


def encode_task(task: Task) -> bytes:
    """Return the message of a task, for the work queue and, as `Requested`, for the journal."""
    message = _Task(task.task_id, task.equipment_id, task.accepted_at, task.timeout_s, task.sealed)
    message.fingerprint = given(task.fingerprint)
    message.caller, message.by, message.key = (
        given(task.caller),
        given(task.accepted_by),
        given(task.key),
    )
    message.urgency = _given_urgency(task.urgency)
    return _encode(message)


def decode_task(body: bytes) -> Task:
    """Return the task of a message from the work queue. Raises `UndecodableMessage`."""
    try:
        message = _decode_task(body)
    except MALFORMED as error:
        raise undecodable("a task", error) from None
    if not is_task_id(message.task) or not is_equipment_id(message.equipment):
        raise UndecodableMessage("not a task: an id is malformed")
    if message.key and not _KEY_ID.fullmatch(message.key):
        raise UndecodableMessage("not a task: the id of its key is malformed")
    origin = {
        "caller": short_name(message.caller),
        "accepted_by": short_name(message.by),
        "key": message.key or None,
    }
    return Task(
        message.task,
        message.equipment,
        message.timeout,
        message.at,
        message.sealed,
        message.fingerprint or None,
        **origin,
        urgency=_urgency(message.urgency),
    )


def _given_urgency(urgency: int) -> int | UnsetType:
    return UNSET if urgency == DEFAULT_URGENCY else urgency


def _urgency(given: int | UnsetType) -> int:
    """Return a message's urgency. Values that this version does not know count as the nearest."""
    return DEFAULT_URGENCY if given is UNSET else max(0, min(given, LEAST_URGENCY))


def _copied(given: Copied | UnsetType) -> Copied | None:
    """Return a message's mark of a copy. Raises `UndecodableMessage` if a number is too large."""
    if given is UNSET:
        return None
    offsets = max(abs(given.place), abs(given.upto))
    if not 0 <= given.at <= LATEST or offsets > MAX_OFFSET:
        raise UndecodableMessage("not an event: wrong at `$.copied`")
    return given


def _is_rate(per_second: float) -> bool:
    """Return whether this is a limit of calls per second that a worker can have."""
    return 0.001 <= per_second <= 1_000_000


def encode_event(event: Event) -> bytes:
    """Return the journal's message of an event.

    Raises TypeError for `Unrecognised`, which is never written.
    """
    if isinstance(event, Started):
        return _encode(
            _Started(event.task_id, event.equipment_id, event.at, event.attempt, given(event.by))
        )
    if isinstance(event, Finished):
        return _encode(
            _Finished(event.task_id, event.equipment_id, event.at, event.state.value, event.reason)
        )
    if isinstance(event, Marker):
        return _encode(_Marker(event.marker_id))
    if isinstance(event, Postponed):
        return _encode(
            _Postponed(
                event.task_id,
                event.equipment_id,
                event.at,
                event.attempt,
                event.reason,
                event.until,
            )
        )
    if isinstance(event, Withheld):
        return _encode(
            _Withheld(event.task_id, event.equipment_id, event.at, given(event.key), event.over)
        )
    if isinstance(event, Cancelled):
        return _encode(
            _Cancelled(event.task_id, event.equipment_id, event.at, copied=given(event.copied))
        )
    if isinstance(event, Requested):
        request = _Requested(
            event.task_id, event.equipment_id, event.at, fingerprint=given(event.fingerprint)
        )
        request.caller, request.by, request.key = (
            given(event.caller),
            given(event.accepted_by),
            given(event.key),
        )
        request.urgency = _given_urgency(event.urgency)
        request.copied = given(event.copied)
        return _encode(request)
    if isinstance(event, Active):
        rate = UNSET if event.per_second is None else event.per_second
        return _encode(_Active(event.by, event.at, event.concurrency, event.equipment.value, rate))
    raise TypeError(f"{type(event).__name__} is not for writing")


def decode_event(body: bytes) -> Event:
    """Return the event of a journal's message.

    A message of `encode_task` is a `Requested`. An unknown kind is `Unrecognised`. Raises
    `UndecodableMessage` if the message is damaged.
    """
    try:
        message = _decode_event(body)
    except MALFORMED as error:
        return _unrecognised(body, error)
    if isinstance(message, _Requested):
        return Requested(
            message.task,
            message.equipment,
            message.at,
            message.fingerprint or None,
            caller=short_name(message.caller),
            accepted_by=short_name(message.by),
            key=message.key or None,
            urgency=_urgency(message.urgency),
            whole=message.sealed is not UNSET,
            copied=_copied(message.copied),
        )
    if isinstance(message, _Started):
        return Started(
            message.task, message.equipment, message.at, message.attempt, message.by or None
        )
    if isinstance(message, _Marker):
        return Marker(message.id)
    if isinstance(message, _Postponed):
        return Postponed(
            message.task,
            message.equipment,
            message.at,
            message.attempt,
            message.reason,
            message.until,
        )
    if isinstance(message, _Withheld):
        return Withheld(
            message.task, message.equipment, message.at, message.key or None, message.over
        )
    if isinstance(message, _Cancelled):
        copied = _copied(message.copied)
        return Cancelled(message.task, message.equipment, message.at, copied=copied)
    if isinstance(message, _Active):
        # A state that this version does not know is treated as trouble.
        equipment = _EQUIPMENT_STATES.get(message.equipment, EquipmentState.OPEN)
        concurrency = max(1, min(message.concurrency, MAX_CONCURRENCY))
        rate = None if message.rate is UNSET or not _is_rate(message.rate) else message.rate
        return Active(message.by[:MAX_CALLER], message.at, concurrency, equipment, rate)
    state = _STATES.get(message.state)
    if state is None:
        return Finished(
            message.task,
            message.equipment,
            message.at,
            State.FAILED,
            "ended in a state that this version does not know",
        )
    if not state.final:
        raise UndecodableMessage("not an event: it finishes a task in a state that is not final")
    return Finished(message.task, message.equipment, message.at, state, message.reason)


def _unrecognised(body: bytes, error: Exception) -> Unrecognised:
    """Return `Unrecognised` if `body` is an event of an unknown kind.

    Otherwise raises `UndecodableMessage`; `error` says why the body could not be decoded.
    """
    try:
        kind = _decode_any_kind(body).kind
    except MALFORMED:
        raise undecodable("an event", error) from None
    if kind in _EVENT_KINDS:
        raise undecodable("an event", error) from None
    return Unrecognised(kind)
