"""Mutations of the code that handles a changed number of shards and a restored backup. See
`mutations`.
"""

from __future__ import annotations

from typing import Any

from rtprov.journal.shard_journal import ShardJournal
from rtprov.messaging.moving import Move
from rtprov.messaging.shard_count import ShardCount
from tests.simulation.mutation import mutation

# A changed number of shards.


_run = Move.run


@mutation("journals stay behind when the number of shards changes", Move, "run")
async def _move_queues_only(self: Any, marker: str) -> int:
    return await _run(self, marker) if self._next_offset is None else 0


@mutation("a front end without workers does not ask for the number of shards", ShardCount, "verify")
def _not_verified(self: Any) -> None:
    pass


# A restored backup.


@mutation("a journal that began anew goes unnoticed", ShardJournal, "_begin_anew")
def _unnoticed(self: Any) -> None:
    pass
