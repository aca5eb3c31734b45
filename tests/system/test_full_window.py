"""A worker whose window is full of tasks that cannot begin."""

from __future__ import annotations

from rtprov.messaging.topology import Shard
from rtprov.worker import service as assembly
from tests.support.system import System
from tests.support.system_case import COMPLETED, SystemTestCase

DEVICE = "ABC123456"


class FullWindow(SystemTestCase):
    """A worker with a window of four tasks. A call takes a minute."""

    def make(self) -> System:
        self.patch(assembly, "WAITING_ROOM", 0)
        return System(concurrency=2)

    def test_the_first_task_is_lost(self) -> None:
        """The first task of a device was begun by another worker, and its message is lost. Later
        tasks of the device fill the window, so that no marker of the census can come back. All are
        completed.
        """
        tasks = [self.system.accepted(DEVICE)]
        self.system.network.advance(1)
        worker = self.system.workers.pop()
        stopped = worker.stopService()
        worker.stop_now()
        self.system.network.until(lambda: bool(stopped.called), 10.0)
        queue = self.system.broker.virtual_host.queues[Shard(0, 1).work]
        self.assertEqual(queue.purge(), 1)
        tasks += [self.system.accepted(DEVICE) for _ in range(6)]
        self.system.start_worker()
        self.system.network.advance(8 * 61.0)
        self.assertEqual([self.status(DEVICE, task) for task in tasks], [COMPLETED] * 7)
