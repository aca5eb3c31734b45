"""Mutations of the code that reads batches of events, replaces lost messages, and keeps the order
of tasks. See `mutations`.
"""

from __future__ import annotations

from typing import Any

from rtprov.journal import shard_journal
from rtprov.messaging.event_batches import events_in
from rtprov.worker.census import Census
from rtprov.worker.shard_worker import ShardWorker
from tests.simulation.mutation import mutation


@mutation("no census", Census, "_look")
def _no_look(self: Any) -> None:
    pass


@mutation("the order is that of the deliveries", ShardWorker, "_may_become_head")
def _first_come(self: Any, job: Any) -> bool:
    return True


_add_job = ShardWorker._add_job


@mutation("the first deliveries of a worker are not judged", ShardWorker, "_add_job")
def _add_at_once(self: Any, task: Any, delivery: Any) -> None:
    self._fresh = False
    _add_job(self, task, delivery)


@mutation("only the first event of a batch is read", shard_journal, "events_in")
def _first_only(body: Any) -> Any:
    return events_in(body)[:1]
