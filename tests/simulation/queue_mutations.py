"""Mutations of the code that replaces lost messages and keeps the order of tasks. See
`mutations`.
"""

from __future__ import annotations

from typing import Any

from rtprov.worker.census import Census
from rtprov.worker.shard_worker import ShardWorker
from tests.simulation.mutation import mutation


@mutation("no census", Census, "_look")
def _no_look(self: Any) -> None:
    pass


@mutation("the order is that of the deliveries", ShardWorker, "_may_go")
def _first_come(self: Any, job: Any) -> bool:
    return True
