"""Readiness of a front end and a worker in the whole system."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from rtprov.errors import NotReady
from tests.support.system import System
from tests.support.system_case import SystemTestCase


class Ready(SystemTestCase):
    def make(self) -> System:
        return System(shards=2)

    def frontend(self) -> tuple[int, str]:
        self.system.network.advance(1)
        answer = self.system.request("GET", "/readyz")
        return answer.status, answer.json["message"]

    def worker(self) -> str:
        self.system.network.advance(1)
        checked = Deferred.fromCoroutine(self.system.workers[0].readiness.check())
        self.system.network.until(lambda: bool(checked.called))
        if isinstance(getattr(checked.result, "value", None), NotReady):
            return str(self.failureResultOf(checked, NotReady).value)
        self.successResultOf(checked)
        return "Ready"

    def test_ready(self) -> None:
        """With a broker that confirms, and a worker for each shard, front end and worker
        are ready.
        """
        self.assertEqual((self.frontend(), self.worker()), ((200, "Ready"), "Ready"))

    def test_no_worker(self) -> None:
        """A front end is not ready while a shard has no worker; its message names the shard."""
        stopped = self.system.workers.pop().stopService()
        self.system.network.until(lambda: bool(stopped.called))
        self.system.start_worker(shards=[0])
        self.assertEqual(self.frontend(), (503, "Not ready: no worker answers on status.1of2"))
        self.system.start_worker(shards=[1])
        self.assertEqual(self.frontend(), (200, "Ready"))

    def test_no_broker(self) -> None:
        """Without a broker neither is ready. Both are ready again when the broker is back."""
        factory = self.system.network.factories.pop("broker")
        self.system.network.cut("broker")
        self.assertEqual(self.frontend(), (503, "Not ready: the broker does not confirm messages"))
        self.assertEqual(
            self.worker(),
            "Not ready: the worker is not connected to the broker, or still replays its journals",
        )
        self.system.network.factories["broker"] = factory
        self.system.network.advance(30)
        self.assertEqual((self.frontend(), self.worker()), ((200, "Ready"), "Ready"))

    def test_a_broker_that_is_silent(self) -> None:
        """If the broker does not confirm within 5 s, neither is ready."""
        for name, end in self.system.network.connections:
            if name == "broker":
                end.pauseProducing()
        self.assertEqual(self.frontend()[0], 503)
        self.assertEqual(self.worker(), "Not ready: the broker does not confirm messages")
        self.system.network.advance(40)  # until the heartbeat timeout

    def test_stopping(self) -> None:
        """A draining worker is not ready."""
        self.system.accepted("ABC123456")
        self.system.network.advance(1)
        self.system.workers[0].stopService()
        self.assertEqual(self.worker(), "Not ready: the worker is stopping")
        self.system.network.advance(70)
        self.system.workers.pop()
