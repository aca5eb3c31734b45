"""A test case with the whole system in memory, and the answers that clients get."""

from __future__ import annotations

from typing import cast

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.support.system import REQUEST, System

COMPLETED = (200, {"code": 200, "message": "Completed"})
RUNNING = (200, {"code": 204, "message": "Task is still running"})
FAILED = (500, {"code": 500, "message": "Internal provisioning exception"})
NO_EQUIPMENT = (404, {"code": 404, "message": "The requested equipment is not found"})
NO_TASK = (404, {"code": 404, "message": "The requested task is not found"})


class SystemTestCase(SynchronousTestCase):
    """Starts the `System` that `make` returns. At the end it checks that the system stops and
    leaves no timer.
    """

    def make(self) -> System:
        return System()

    def setUp(self) -> None:
        self.events: list[str] = []
        observer = cast("ILogObserver", self.observe)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.system = self.make()
        self.system.start()
        self.addCleanup(self.stop)

    def observe(self, event: LogEvent) -> None:
        self.events.append(repr(event))

    def stop(self) -> None:
        self.system.stop()
        self.system.network.advance(300)  # idle HTTP connections end
        self.assertEqual(self.system.clock.getDelayedCalls(), [], "timers are left behind")

    def status(self, equipment_id: str, task_id: str, frontend: str = "b") -> tuple[int, object]:
        answer = self.system.get(equipment_id, task_id, frontend)
        return answer.status, answer.json

    def final_status(
        self, equipment_id: str, body: object = REQUEST, within_s: float = 61.0
    ) -> tuple[int, object]:
        """POST a task, check that it is running until just before `within_s`, and return its status
        then.
        """
        task_id = self.system.accepted(equipment_id, body)
        self.system.network.advance(within_s - 2.0)
        self.assertEqual(self.status(equipment_id, task_id), RUNNING)
        self.system.network.advance(2.0)
        return self.status(equipment_id, task_id)
