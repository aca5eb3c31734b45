"""What the tasks of a day file have in common, by number: shard, state, reason and caller.

A filter for these selects whole kinds, as the groups of `rtprov.journal.indexes` do.
"""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING

import attrs

from rtprov.messaging.topology import Shard
from rtprov.model import shard_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rtprov.reports import TaskFilter


@attrs.frozen
class Kind:
    """One kind of tasks in a day file. `number` is its row, `tasks` how many tasks it has."""

    number: int
    index: int
    count: int
    state: str
    reason: str | None
    caller: str | None
    tasks: int = attrs.field(eq=False)


@attrs.frozen
class Selection:
    """The kinds whose tasks a search examines.

    `all` says that these are all kinds of the file. If `of_shard` is not None, some of the tasks
    belong to other shards, because the number of shards was another one; only those of this shard
    are wanted.
    """

    numbers: Sequence[int]
    all: bool
    of_shard: Shard | None


def select(kinds: Sequence[Kind], shard: Shard, wanted: TaskFilter) -> Selection:
    """Return the kinds of `kinds` that may have tasks of `shard` that `wanted` selects."""
    chosen = [each for each in kinds if _may_have(each, shard) and _fits(each, wanted)]
    mixed = any(each.count % shard.count for each in chosen)
    return Selection(
        [each.number for each in chosen], len(chosen) == len(kinds), shard if mixed else None
    )


def in_shard(equipment_id: str, count: int) -> int:
    """Return the shard of a device, for SQL."""
    return shard_of(equipment_id, count)


def _may_have(kind: Kind, shard: Shard) -> bool:
    """Whether a device can be both in the kind's shard and in `shard`.

    A shard is a CRC modulo the number of shards (`rtprov.model.shard_of`), so the indexes must
    agree modulo the greatest common divisor of both numbers.
    """
    return (kind.index - shard.index) % gcd(kind.count, shard.count) == 0


def _fits(kind: Kind, wanted: TaskFilter) -> bool:
    return (
        (not wanted.states or kind.state in wanted.states)
        and (not wanted.reasons or kind.reason in wanted.reasons)
        and (not wanted.callers or kind.caller in wanted.callers)
    )
