"""A test case with the whole system in memory, whose queues an operator purges, deletes or
unbinds.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from rtprov.messaging.topology import (
    DEAD_EXCHANGE,
    STATUS_EXCHANGE,
    TASKS_EXCHANGE,
    Shard,
)
from rtprov.worker import service as assembly
from tests.support.system import System
from tests.support.system_case import SystemTestCase

DONE, RUNNING, FAILED = 200, 204, 500
SHARD = Shard(0, 1)
EXCHANGES = (TASKS_EXCHANGE, DEAD_EXCHANGE, STATUS_EXCHANGE)
DEVICES = [f"DEVICE{number:04}" for number in range(12)]


class CensusTestCase(SystemTestCase):
    """A system whose calls to A take 10 s, three at a time. Its worker holds at most six
    deliveries.
    """

    def make(self) -> System:
        self.patch(assembly, "WAITING_ROOM", 0)
        return System(delay_s=10.0, concurrency=3)

    @property
    def virtual_host(self) -> Any:  # its queues are of either kind
        return self.system.broker.virtual_host

    def operator(self, act: str, queue: str = SHARD.work) -> None:
        """Do to the broker what an operator might do."""
        if act == "purge":
            self.virtual_host.queues[queue].purge()
        elif act == "delete":
            self.virtual_host.delete_queue(self.virtual_host.queues[queue])
        elif act == "unbind":
            self.virtual_host.unbind(queue, TASKS_EXCHANGE, SHARD.requested_key, None)
        self.system.broker.after_work()

    def stop_worker(self) -> None:
        stopped: Deferred[None] = self.system.workers.pop().stopService()
        self.system.network.until(lambda: bool(stopped.called))

    def assert_done(self, tasks: list[tuple[str, str]], *, within_s: float = 300.0) -> None:
        """Check that all tasks are completed, with one call each."""
        self.system.network.advance(within_s)
        self.assertEqual(
            (self.codes(tasks), self.system.stub.calls), ([DONE] * len(tasks), len(tasks))
        )
        self.assertEqual(self.virtual_host.queues[SHARD.work].message_count, 0)

    def codes(self, tasks: list[tuple[str, str]]) -> list[int]:
        """Return the status codes that clients get for these tasks."""
        return [self.system.get(device, task).json["code"] for device, task in tasks]

    def accepted(self, devices: list[str]) -> list[tuple[str, str]]:
        return [(device, self.system.accepted(device)) for device in devices]
