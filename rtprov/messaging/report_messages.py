"""Encode and decode the questions that operators ask through a front end, and the answers.

They come to the same queues as those of `rtprov.messaging.query_messages`. Workers of earlier
versions do not know them and do not answer. The rules for versions are those of
`rtprov.messaging.event_messages`.
"""

from __future__ import annotations

import attrs
import msgspec
from msgspec import UNSET, UnsetType

from rtprov.errors import UndecodableMessage
from rtprov.messaging.format import MALFORMED, VERSION
from rtprov.reports import (
    Cursor,
    FoundTask,
    FoundTasks,
    HistoryCounts,
    ReasonCounts,
    ReplicaCoverage,
    ShardSummary,
    TaskFilter,
)


class SummaryAsked(msgspec.Struct, tag_field="kind", tag="summary", frozen=True):
    """Asks each replica of a shard for its summary."""

    v: int = VERSION


class TaskSearch(msgspec.Struct, tag_field="kind", tag="search", frozen=True):
    """Asks for at most `limit` of the tasks that `wanted` selects, newest first.

    With `before`, only tasks before this position are returned. With `barrier` the replica passes
    its barrier before it answers. With `history` it searches in its history, too. Earlier versions
    ignore that.
    """

    wanted: TaskFilter
    before: Cursor | None
    limit: int
    barrier: bool
    v: int = VERSION
    history: bool = False


class ReasonsAsked(msgspec.Struct, tag_field="kind", tag="reasons", frozen=True):
    """Asks how many of the tasks that `wanted` selects ended with which reason.

    `history` is that of `TaskSearch`.
    """

    wanted: TaskFilter
    v: int = VERSION
    history: bool = False


class EndsAsked(msgspec.Struct, tag_field="kind", tag="ends", frozen=True):
    """Asks to be told of all ends of tasks, for `wait` seconds.

    A question with the same `follower` replaces the earlier one. So a front end asks again in time,
    and misses no end.
    """

    follower: str
    wait: float
    v: int = VERSION


ReportQuestion = SummaryAsked | TaskSearch | ReasonsAsked | EndsAsked


class _Summary(msgspec.Struct, tag_field="kind", tag="summary"):
    """The answer to `SummaryAsked`."""

    summary: ShardSummary
    v: int = VERSION


class _Found(msgspec.Struct, tag_field="kind", tag="found"):
    """The answer to a `TaskSearch`. Earlier versions do not say which `replica` they are."""

    found: FoundTasks
    v: int = VERSION
    replica: ReplicaCoverage | UnsetType = UNSET


class _Reasons(msgspec.Struct, tag_field="kind", tag="reasons"):
    """The answer to `ReasonsAsked`. `whole` is false if time was over before all were counted.

    `counts` are the tasks in memory. `history` counts the same tasks and older ones.
    """

    counts: dict[str, int]
    whole: bool
    v: int = VERSION
    replica: ReplicaCoverage | UnsetType = UNSET
    history: HistoryCounts | UnsetType = UNSET


class _Ends(msgspec.Struct, tag_field="kind", tag="ends"):
    """An answer to `EndsAsked`: tasks that have ended, and how many others did."""

    tasks: list[FoundTask]
    skipped: int
    v: int = VERSION


encode = msgspec.json.Encoder().encode
_decode_summary = msgspec.json.Decoder(_Summary).decode
_decode_found = msgspec.json.Decoder(_Found).decode
_decode_reasons = msgspec.json.Decoder(_Reasons).decode
_decode_ends = msgspec.json.Decoder(_Ends).decode


def encode_summary(summary: ShardSummary) -> bytes:
    """Return the answer to `SummaryAsked`."""
    return encode(_Summary(summary))


def decode_summary(body: bytes) -> ShardSummary:
    """Return the summary in an answer. Raises `UndecodableMessage`."""
    try:
        return _decode_summary(body).summary
    except MALFORMED:
        raise UndecodableMessage("not a summary of a shard") from None


def encode_found(found: FoundTasks, replica: ReplicaCoverage | None = None) -> bytes:
    """Return the answer of `replica` to a `TaskSearch`."""
    return encode(_Found(found, replica=UNSET if replica is None else replica))


def decode_found(body: bytes) -> tuple[FoundTasks, ReplicaCoverage | None]:
    """Return the tasks in an answer, and the worker that answers; None if it is of an earlier
    version. Raises `UndecodableMessage`.
    """
    try:
        found = _decode_found(body)
    except MALFORMED:
        raise UndecodableMessage("not an answer to a search") from None
    return found.found, None if isinstance(found.replica, UnsetType) else found.replica


def encode_reasons(
    counts: ReasonCounts,
    replica: ReplicaCoverage | None = None,
    history: HistoryCounts | None = None,
) -> bytes:
    """Return the answer of `replica` to `ReasonsAsked`."""
    return encode(
        _Reasons(
            counts.counts,
            counts.upto is None,
            replica=UNSET if replica is None else replica,
            history=UNSET if history is None else history,
        )
    )


@attrs.frozen
class Reasons:
    """The answer of one worker to `ReasonsAsked`; `replica` and `history` may be None."""

    counts: dict[str, int]
    whole: bool
    replica: ReplicaCoverage | None
    history: HistoryCounts | None


def decode_reasons(body: bytes) -> Reasons:
    """Return an answer to `ReasonsAsked`. Raises `UndecodableMessage`."""
    try:
        reasons = _decode_reasons(body)
    except MALFORMED:
        raise UndecodableMessage("not an answer about reasons") from None
    return Reasons(
        reasons.counts,
        reasons.whole,
        None if isinstance(reasons.replica, UnsetType) else reasons.replica,
        None if isinstance(reasons.history, UnsetType) else reasons.history,
    )


def encode_ends(tasks: list[FoundTask], skipped: int) -> bytes:
    """Return one answer to `EndsAsked`."""
    return encode(_Ends(tasks, skipped))


def decode_ends(body: bytes) -> tuple[list[FoundTask], int]:
    """Return the tasks in an answer, and the number of others. Raises `UndecodableMessage`."""
    try:
        ends = _decode_ends(body)
    except MALFORMED:
        raise UndecodableMessage("not a report of ends of tasks") from None
    return ends.tasks, ends.skipped
