"""Stopping a worker of the system in memory."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.support.system import System

COMPLETED = {"code": 200, "message": "Completed"}


class Stopping(SynchronousTestCase):
    def setUp(self) -> None:
        self.system = System(delay_s=60)
        self.system.start()
        self.addCleanup(self.system.stop)
        self.task_id = self.system.accepted("ABC123456")
        self.system.network.advance(1)
        self.assertEqual(self.system.stub.calls, 1)

    def assert_completed(self, calls: int) -> None:
        """Check that the task is completed in time, after `calls` calls."""
        self.system.network.advance(65)
        self.assertEqual(self.system.get("ABC123456", self.task_id).json, COMPLETED)
        self.assertEqual(self.system.stub.calls, calls)

    def test_drain(self) -> None:
        """A worker that is stopped ends when its calls have ended."""
        stopped = self.system.workers.pop().stopService()
        self.system.network.advance(50)
        self.assertNoResult(stopped)
        self.system.network.advance(10)
        self.successResultOf(stopped)
        self.system.start_worker()
        self.assert_completed(calls=1)

    def test_stop_now(self) -> None:
        """`stop_now` ends a stop at once. The next worker makes the same call again."""
        worker = self.system.workers.pop()
        stopped = worker.stopService()
        self.system.network.advance(10)
        self.assertNoResult(stopped)
        worker.stop_now()
        self.system.network.advance(0)
        self.successResultOf(stopped)
        self.system.start_worker()
        self.assert_completed(calls=2)

    def test_hurry_before_the_stop(self) -> None:
        """`stop_now` before the stop does not stop the worker. Its later stop ends at once."""
        worker = self.system.workers.pop()
        worker.stop_now()
        self.system.network.advance(10)
        self.assertEqual(self.system.stub.calls, 1)
        stopped = worker.stopService()
        self.system.network.advance(0)
        self.successResultOf(stopped)
        self.system.start_worker()
        self.assert_completed(calls=2)
