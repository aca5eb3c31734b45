"""What front ends ask replicas beyond a plain status: all about tasks, and to be told when they
end. JSON ⇄ model, as in `rtprov.messaging.event_messages`.

An `TaskQuery` or a `Listing` is answered once, with the tasks that are known; a `Watch` with any
number of messages that tell which of its tasks have ended; `KeysAsked` by each worker, with the ids
of its sealing keys."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from attrs import evolve
from msgspec import UNSET, UnsetType

from rtprov.errors import UndecodableMessage
from rtprov.messaging.format import MALFORMED, VERSION
from rtprov.model import Details, State, Waiting


class TaskQuery(msgspec.Struct, tag_field="kind", tag="inquiry", frozen=True):
    """About one task, of this equipment where it is given. With `barrier` the replica is to pass
    its barrier first.
    """

    task: str
    equipment: str | None
    barrier: bool
    v: int = VERSION


class Listing(msgspec.Struct, tag_field="kind", tag="listing", frozen=True):
    """About a device's tasks: at most `limit`, newest first, those before the task `before` if it
    is given. Always behind the barrier.
    """

    equipment: str
    before: str | None
    limit: int
    v: int = VERSION


class Watch(msgspec.Struct, tag_field="kind", tag="watch", frozen=True):
    """About the end of these (task id, equipment id) pairs, for `wait` seconds."""

    tasks: list[tuple[str, str]]
    wait: float
    v: int = VERSION


class KeysAsked(msgspec.Struct, tag_field="kind", tag="keys_asked", frozen=True):
    """Which sealing keys the worker has. Earlier versions do not answer."""

    v: int = VERSION


class _Keys(msgspec.Struct, tag_field="kind", tag="keys"):
    """The ids of a worker's keys: the answer to `KeysAsked`."""

    keys: list[str]
    v: int = VERSION


class _Known(msgspec.Struct, tag_field="kind", tag="known"):
    """A task that waits for its key waits for a free slot as earlier versions know it, and its
    place is in `withheld`.
    """

    tasks: list[Details]
    v: int = VERSION
    withheld: list[int] | UnsetType = UNSET


class _Ended(msgspec.Struct, tag_field="kind", tag="ended"):
    """Places in the watch's batch, and the final states."""

    tasks: list[tuple[int, State]]
    v: int = VERSION


encode = msgspec.json.Encoder().encode
_decode_question = msgspec.json.Decoder(TaskQuery | Listing | Watch | KeysAsked).decode
_decode_keys = msgspec.json.Decoder(_Keys).decode
_decode_known = msgspec.json.Decoder(_Known).decode
_decode_ended = msgspec.json.Decoder(_Ended).decode


def decode_question(body: bytes) -> TaskQuery | Listing | Watch | KeysAsked:
    """Raises `UndecodableMessage`."""
    try:
        question: TaskQuery | Listing | Watch | KeysAsked = _decode_question(body)
    except MALFORMED:
        raise UndecodableMessage("not a question about tasks") from None
    return question


def encode_known(tasks: Sequence[Details]) -> bytes:
    """The answer to an `TaskQuery`, of one task or none, and to a `Listing`."""
    known = _Known(list(tasks))
    withheld = [index for index, task in enumerate(tasks) if task.waits_for is Waiting.KEY]
    if withheld:
        known.withheld = withheld
        for index in withheld:
            known.tasks[index] = evolve(known.tasks[index], waits_for=Waiting.CONCURRENCY)
    return encode(known)


def decode_known(body: bytes) -> list[Details]:
    """Raises `UndecodableMessage`."""
    try:
        known = _decode_known(body)
    except MALFORMED:
        raise UndecodableMessage("not an answer about tasks") from None
    for index in known.withheld or ():
        if not 0 <= index < len(known.tasks):
            raise UndecodableMessage("not an answer about tasks: wrong at `$.withheld`")
        known.tasks[index] = evolve(known.tasks[index], waits_for=Waiting.KEY)
    return known.tasks


def encode_keys(key_ids: Sequence[str]) -> bytes:
    """The answer to `KeysAsked`."""
    return encode(_Keys(list(key_ids)))


def decode_keys(body: bytes) -> list[str]:
    """Raises `UndecodableMessage`."""
    try:
        return _decode_keys(body).keys
    except MALFORMED:
        raise UndecodableMessage("not a worker's keys") from None


def encode_ended(tasks: Sequence[tuple[int, State]]) -> bytes:
    """One answer to a `Watch`."""
    return encode(_Ended(list(tasks)))


def decode_ended(body: bytes) -> list[tuple[int, State]]:
    """Raises `UndecodableMessage`."""
    try:
        tasks = _decode_ended(body).tasks
    except MALFORMED:
        raise UndecodableMessage("not a report of ended tasks") from None
    if any(not state.final for _, state in tasks):
        raise UndecodableMessage("not a report of ended tasks: a state is not final")
    return tasks
