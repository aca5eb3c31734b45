"""Encode and decode the questions of front ends about tasks, and the answers of workers.

A `TaskQuery` or `Listing` has one answer, the tasks that are known. A `Watch` has any number of
answers; each names tasks that have ended. `KeysAsked` is answered by each worker, with the ids of
its sealing keys. The rules for versions are those of `rtprov.messaging.event_messages`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from attrs import evolve
from msgspec import UNSET, UnsetType

from rtprov.errors import UndecodableMessage
from rtprov.messaging.format import MALFORMED, VERSION
from rtprov.messaging.report_messages import (
    EndsAsked,
    ReasonsAsked,
    ReportQuestion,
    SummaryAsked,
    TaskSearch,
)
from rtprov.model import Details, State, Waiting


class TaskQuery(msgspec.Struct, tag_field="kind", tag="inquiry", frozen=True):
    """Asks for one task; `equipment` is None if it is not known.

    With `barrier` the replica passes its barrier before it answers.
    """

    task: str
    equipment: str | None
    barrier: bool
    v: int = VERSION


class Listing(msgspec.Struct, tag_field="kind", tag="listing", frozen=True):
    """Asks for at most `limit` tasks of a device, newest first.

    If `before` is the id of a task, only older tasks are listed. The replica passes its barrier
    before it answers.
    """

    equipment: str
    before: str | None
    limit: int
    v: int = VERSION


class Watch(msgspec.Struct, tag_field="kind", tag="watch", frozen=True):
    """Asks for reports of the end of these (task id, equipment id) pairs, for `wait` seconds."""

    tasks: list[tuple[str, str]]
    wait: float
    v: int = VERSION


class KeysAsked(msgspec.Struct, tag_field="kind", tag="keys_asked", frozen=True):
    """Asks for the ids of a worker's sealing keys. Workers of earlier versions do not answer."""

    v: int = VERSION


Question = TaskQuery | Listing | Watch | KeysAsked | ReportQuestion


class _Keys(msgspec.Struct, tag_field="kind", tag="keys"):
    """The answer to `KeysAsked`: the ids of a worker's keys."""

    keys: list[str]
    v: int = VERSION


class _Known(msgspec.Struct, tag_field="kind", tag="known"):
    """The answer to a `TaskQuery` or `Listing`.

    `withheld` has the indexes of the tasks that wait for their keys. Earlier versions do not know
    this reason, so in `tasks` they wait for a free slot.
    """

    tasks: list[Details]
    v: int = VERSION
    withheld: list[int] | UnsetType = UNSET


class _Ended(msgspec.Struct, tag_field="kind", tag="ended"):
    """An answer to a `Watch`: indexes in its list of tasks, and the final states."""

    tasks: list[tuple[int, State]]
    v: int = VERSION


encode = msgspec.json.Encoder().encode
_decode_question = msgspec.json.Decoder(
    TaskQuery | Listing | Watch | KeysAsked | SummaryAsked | TaskSearch | ReasonsAsked | EndsAsked
).decode
_decode_keys = msgspec.json.Decoder(_Keys).decode
_decode_known = msgspec.json.Decoder(_Known).decode
_decode_ended = msgspec.json.Decoder(_Ended).decode


def decode_question(body: bytes) -> Question:
    """Return the question in a message. Raises `UndecodableMessage`."""
    try:
        question: Question = _decode_question(body)
    except MALFORMED:
        raise UndecodableMessage("not a question about tasks") from None
    return question


def encode_known(tasks: Sequence[Details]) -> bytes:
    """Return the answer to a `TaskQuery` (one task or none) or a `Listing`."""
    known = _Known(list(tasks))
    withheld = [index for index, task in enumerate(tasks) if task.waits_for is Waiting.KEY]
    if withheld:
        known.withheld = withheld
        for index in withheld:
            known.tasks[index] = evolve(known.tasks[index], waits_for=Waiting.CONCURRENCY)
    return encode(known)


def decode_known(body: bytes) -> list[Details]:
    """Return the tasks in an answer. Raises `UndecodableMessage`."""
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
    """Return the answer to `KeysAsked`."""
    return encode(_Keys(list(key_ids)))


def decode_keys(body: bytes) -> list[str]:
    """Return the ids of keys in an answer. Raises `UndecodableMessage`."""
    try:
        return _decode_keys(body).keys
    except MALFORMED:
        raise UndecodableMessage("not a list of sealing keys") from None


def encode_ended(tasks: Sequence[tuple[int, State]]) -> bytes:
    """Return one answer to a `Watch`."""
    return encode(_Ended(list(tasks)))


def decode_ended(body: bytes) -> list[tuple[int, State]]:
    """Return the indexes and final states in an answer. Raises `UndecodableMessage`."""
    try:
        tasks = _decode_ended(body).tasks
    except MALFORMED:
        raise UndecodableMessage("not a report of ended tasks") from None
    if any(not state.final for _, state in tasks):
        raise UndecodableMessage("not a report of ended tasks: a state is not final")
    return tasks
