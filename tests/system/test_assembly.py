"""The parts of a front end and a worker together: starting, stopping, and their periodic work."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtprov.model import State
from rtprov.worker.service import EXPIRE_EVERY_S, MAX_WINDOW, WAITING_ROOM
from tests.support.system import System

RETENTION_S = 120.0  # so that a virtual day does not take minutes


class WorkerServiceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.system = System(delay_s=10.0, shards=2, retention_s=RETENTION_S)
        self.system.start()
        self.addCleanup(self.system.stop)

    def test_finished_tasks_are_forgotten(self) -> None:
        """A task that finished longer than the retention ago is unknown to the store, and to a
        front end that does not remember it.
        """
        task_id = self.system.accepted("ABC123456")
        self.system.network.advance(11)
        (worker,) = self.system.workers
        self.assertEqual(sum(map(len, worker.stores)), 1)
        self.system.network.advance(RETENTION_S - 60)
        self.assertEqual(self.system.get("ABC123456", task_id).json["code"], 200)
        self.system.network.advance(60 + EXPIRE_EVERY_S)
        self.assertEqual(sum(map(len, worker.stores)), 0)
        self.system.start_frontend("b2")
        self.system.network.advance(1)
        self.assertEqual(self.system.get("ABC123456", task_id, "b2").status, 404)

    def test_stopping_without_expiry(self) -> None:
        """If the expiry of old tasks fails, the worker logs it, keeps working, and still stops."""
        (worker,) = self.system.workers
        worker.stores[0].expire = lambda *of: 1 // 0  # type: ignore[method-assign] # a fault is injected here
        self.system.network.advance(EXPIRE_EVERY_S)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        task_id = self.system.accepted("ABC123456")
        self.system.network.advance(11)
        self.assertEqual(self.system.get("ABC123456", task_id).json["code"], 200)
        stopped = self.system.workers.pop().stopService()
        self.system.network.advance(3)
        self.assertTrue(stopped.called)
        self.assertIsNone(self.successResultOf(stopped))

    def test_one_limit_for_all_shards(self) -> None:
        """The shards of a worker share its call slots. Each shard's prefetch leaves room for
        waiting tasks and stays within AMQP's limit.
        """
        (worker,) = self.system.workers
        limiters = {id(each._attempts._call_limiter) for each in worker.workers}
        self.assertEqual((len(worker.workers), len(limiters)), (2, 1))
        self.assertEqual({each._window for each in worker.workers}, {2 * 500 + WAITING_ROOM})
        large = self.system.start_worker(concurrency=40_000)
        self.assertEqual({each._window for each in large.workers}, {MAX_WINDOW})

    def test_a_worker_of_one_shard(self) -> None:
        """A worker that is given one shard serves only that one."""
        stopped = self.system.workers.pop().stopService()
        self.system.network.until(lambda: bool(stopped.called))
        self.system.start_worker(shards=[1])
        self.system.network.advance(1)
        for number in range(20):
            equipment_id = f"DEVICE{number}"
            self.system.accepted(equipment_id)
        self.system.network.advance(12)
        (worker,) = self.system.workers
        states = [record.state for record in worker.stores[0]._records.values()]
        self.assertEqual((len(worker.stores), set(states)), (1, {State.COMPLETED}))
        self.assertTrue(0 < len(states) < 20)


class Handover(SynchronousTestCase):
    """Two workers on one shard. The active one loses its connection during its calls."""

    def setUp(self) -> None:
        self.system = System()
        self.system.start()
        self.addCleanup(self.system.stop)

    def status(self, task_id: str) -> object:
        return self.system.get("ABC123456", task_id).json["code"]

    def test_the_old_worker_comes_back(self) -> None:
        """The standby repeats the calls of the tasks that it takes over. The two calls of a task
        give one final status, and the next task is called once.
        """
        tasks = [self.system.accepted("ABC123456") for _ in range(2)]
        self.system.start_worker()
        self.system.network.advance(10)
        old, new = self.system.workers
        for _, end in self.system.network.connections:
            if end.protocol is old._publisher._connection:
                end.cut()
        self.system.network.advance(5)
        self.assertTrue(old.connection.connected)
        self.assertEqual(
            (old.workers[0].held, new.workers[0].held, self.system.stub.calls), (1, 2, 2)
        )
        self.system.network.advance(50)
        self.assertEqual([self.status(task_id) for task_id in tasks], [200, 204])
        self.assertEqual((old.workers[0].held, self.system.stub.calls), (0, 2))
        self.system.network.advance(60)
        self.assertEqual([self.status(task_id) for task_id in tasks], [200, 204])
        self.system.network.advance(10)
        self.assertEqual([self.status(task_id) for task_id in tasks], [200, 200])
        self.assertEqual((new.workers[0].held, self.system.stub.calls), (0, 3))
