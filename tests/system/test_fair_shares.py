"""Callers share the slots of A, whatever the order of their tasks in the work queue."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from rtprov.worker import service as assembly
from rtprov.worker.read_ahead import LOOK_AFTER_S
from tests.support.system import System
from tests.support.system_case import COMPLETED, SystemTestCase

BODY = b'{"timeoutInSeconds": 14, "parameters": [{"vlan": 534}]}'
MANY = 30


class FairShares(SystemTestCase):
    """A worker with two slots and a window of four tasks. A call takes a minute."""

    def make(self) -> System:
        self.patch(assembly, "WAITING_ROOM", 0)
        return System(concurrency=2)

    def order(self, caller: str, equipment_id: str, urgency: int = 3) -> str:
        """Accept a task for a caller; return its id."""
        submission = self.system.frontends["b"].frontend._submission
        ordering = Deferred.fromCoroutine(
            submission.submit(
                equipment_id, 14, BODY, caller, urgency, deadline=self.system.clock.seconds() + 5
            )
        )
        self.system.network.settle()
        return self.successResultOf(ordering)

    def order_many(self, caller: str = "many", count: int = MANY) -> list[str]:
        return [self.order(caller, f"{caller.upper()}{number:03}") for number in range(count)]

    def calls(self) -> list[str]:
        """Return the devices of the tasks for which A was called, in this order. Check that A was
        called once for each.
        """
        records = self.system.workers[-1].stores[0].records()
        called = [record for record in records if record.attempts]
        self.assertEqual({record.attempts for record in called}, {1})
        called.sort(key=lambda record: record.first_started_at or 0.0)
        return [record.equipment_id for record in called]

    def finish(self, count: int = MANY) -> None:
        """Let that many tasks end, and their messages leave the queue."""
        self.system.network.advance(60.0 * (count / 2 + 3))
        worker = self.system.workers[-1].workers[0]
        queue = self.system.broker.virtual_host.queues["rtprov.work.0of1"]
        self.assertEqual((worker.held, queue.message_count), (0, 0))

    def test_a_single_order(self) -> None:
        """It gets the next free slot, although its message is far behind the window. All other
        tasks are done, too, each with one call.
        """
        self.order_many()
        single = self.order("single", "SINGLE1")
        self.system.network.advance(121.0)
        self.assertEqual(self.status("SINGLE1", single), COMPLETED)
        self.finish()
        self.assertEqual(len(self.calls()), MANY + 1)

    def test_shares(self) -> None:
        """Two callers with many tasks share the slots, as soon as the second one has come."""
        self.order_many("first")
        self.order_many("second", 10)
        self.finish(MANY + 10)
        order = [device.rstrip("0123456789") for device in self.calls()]
        self.assertEqual((order[:2], order[2:22].count("SECOND")), (["FIRST"] * 2, 10))

    def test_priority(self) -> None:
        """Within a caller, urgent tasks are first, also if their messages are behind the window."""
        self.order_many(count=10)
        urgent = self.order("many", "URGENT1", urgency=0)
        self.finish()
        self.assertLess(self.calls().index("URGENT1"), 9)
        self.assertEqual(self.status("URGENT1", urgent), COMPLETED)

    def test_one_device(self) -> None:
        """Tasks of one device keep their order, whoever ordered them."""
        self.order_many()
        first, second = self.order("many", "DEVICE1"), self.order("single", "DEVICE1", urgency=0)
        self.finish()
        records = self.system.workers[0].stores[0]
        started = [records.first_started_at(each) or 0.0 for each in (first, second)]
        self.assertGreaterEqual(started[1] - started[0], 60.0)

    def test_many_tasks_of_one_device(self) -> None:
        """If they fill the window, other devices' tasks are called all the same."""
        for _ in range(10):
            self.order("many", "DEVICE1")
        self.order("many", "DEVICE2")
        self.system.network.advance(2 * LOOK_AFTER_S)
        self.assertEqual(self.calls(), ["DEVICE1", "DEVICE2"])

    def test_cancelled(self) -> None:
        """A task that is cancelled is not called when its message is delivered."""
        self.order_many()
        single = self.order("single", "SINGLE1")
        path = f"/api/v1/equipment/cpe/SINGLE1/task/{single}"
        self.assertEqual(self.system.request("DELETE", path).status, 200)
        self.finish()
        self.assertNotIn("SINGLE1", self.calls())

    def test_reconnected(self) -> None:
        """If the connection is lost during such a call, the call goes on, and its outcome
        counts.
        """
        self.order_many()
        single = self.order("single", "SINGLE1")
        self.system.network.advance(70.0)
        self.assertIn("SINGLE1", self.calls())
        self.system.network.cut("broker")
        self.system.network.advance(60.0)
        self.assertEqual(self.status("SINGLE1", single), COMPLETED)
        self.finish()
        self.assertEqual(len(self.calls()), MANY + 1)

    def test_taken_over(self) -> None:
        """Another worker that takes over does not call A again for a task whose message was never
        delivered to the first one.
        """
        self.order_many()
        single = self.order("single", "SINGLE1")
        self.system.start_worker()
        self.system.network.advance(125.0)
        self.assertEqual(self.status("SINGLE1", single), COMPLETED)
        stopped = self.system.workers[0].stopService()
        self.system.network.advance(61.0)
        self.successResultOf(stopped)
        del self.system.workers[0]
        self.finish()
        self.assertEqual(len(self.calls()), MANY + 1)
