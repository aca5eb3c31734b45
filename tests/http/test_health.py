"""``/livez`` and ``/readyz`` of a front end, and of processes that serve nothing else."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from rtprov.errors import NotReady
from rtprov.http.health import Health
from rtprov.metrics.families import number
from rtprov.metrics.registry import Registry
from rtprov.readiness import Readiness, always_ready
from tests.support.front import NO_METHOD, NO_ROUTE, FrontendTestCase
from tests.support.raw_http import WebTestCase, request

ALIVE = {"code": 200, "message": "Alive"}
READY = {"code": 200, "message": "Ready"}


class OfAFrontend(FrontendTestCase):
    def test_alive(self) -> None:
        """A process that answers is alive, ready or not."""
        self.unready = NotReady("Not ready: no broker")
        answer = self.ask("GET", "/livez")
        self.assertEqual((answer.status, answer.json, self.probes), (200, ALIVE, 0))

    def test_ready(self) -> None:
        """If the probe succeeds the answer is a 200, otherwise a 503 with the reason and
        Retry-After.
        """
        self.assertEqual(self.ask("GET", "/readyz").json, READY)
        self.unready = NotReady("Not ready: no broker")
        self.clock.advance(1.0)
        answer = self.ask("GET", "/readyz")
        self.assertError(answer, 503, "Not ready: no broker")
        self.assertEqual(answer.header("Retry-After"), "2")

    def test_methods(self) -> None:
        """Only GET and HEAD are allowed."""
        for path in ("/livez", "/readyz"):
            self.assertError(self.ask("POST", path), 405, NO_METHOD)
            self.assertEqual(self.ask("HEAD", path).status, 200)

    def test_asked_often(self) -> None:
        """The probe runs at most once a second, however many requests there are."""
        for _ in range(30):
            self.ask("GET", "/readyz")
            self.clock.advance(0.1)
        self.assertEqual(self.probes, 3)

    def test_clock_set_back(self) -> None:
        """If the clock is set back, the cached result is not used."""
        self.ask("GET", "/readyz")
        self.clock.rightNow -= 3600.0
        self.ask("GET", "/readyz")
        self.assertEqual(self.probes, 2)

    def test_stopping(self) -> None:
        """A process that stops is not ready from that moment on, whatever was found before."""
        self.assertEqual(self.ask("GET", "/readyz").status, 200)
        self.readiness.stop()
        self.assertError(self.ask("GET", "/readyz"), 503, "Not ready: this process is stopping")
        self.assertEqual((self.ask("GET", "/livez").status, self.probes), (200, 1))

    def test_an_error_of_ours(self) -> None:
        """If the probe raises an unexpected error, the process is not ready. The error is logged
        once, and the answer does not contain it.
        """
        self.unready = ZeroDivisionError("secret")
        for _ in range(3):
            self.assertError(self.ask("GET", "/readyz"), 503, "Not ready: an unexpected error")
            self.clock.advance(1.0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class Alone(WebTestCase):
    def test_stub(self) -> None:
        """A process without a probe is ready. It serves no other path."""
        self.serve(Health(always_ready(self.reactor), Registry()).resource())
        self.assertEqual(
            [self.ask("GET", path).json for path in ("/livez", "/readyz")], [ALIVE, READY]
        )
        self.assertError(self.ask("GET", "/"), 404, NO_ROUTE)

    def test_metrics(self) -> None:
        """The metrics are plain text. Other methods are not allowed."""
        registry = Registry()
        registry.add(lambda: [number("rtprov_call_slots", "Slots.", 500)])
        self.serve(Health(always_ready(self.reactor), registry).resource())
        answer = self.ask("GET", "/metrics")
        self.assertEqual(answer.status, 200)
        self.assertIn(b"\nrtprov_call_slots 500.0\n", answer.body)
        media_type = answer.header("Content-Type") or ""
        self.assertTrue(media_type.startswith("text/plain; version="), media_type)
        openmetrics = ["Accept: application/openmetrics-text; version=1.0.0"]
        self.assertTrue(self.ask("GET", "/metrics", headers=openmetrics).body.endswith(b"# EOF\n"))
        self.assertError(self.ask("POST", "/metrics"), 405, NO_METHOD)

    def test_hang_ups(self) -> None:
        """A client that hangs up during a probe affects neither the probe nor other clients."""
        under_way: Deferred[None] = Deferred()

        async def probe() -> None:
            await under_way

        self.serve(Health(Readiness(probe, self.reactor), Registry()).resource())
        clients = [self.connect() for _ in range(3)]
        for client in clients:
            client.send(request("GET", "/readyz"))
        clients[0].hang_up()
        under_way.callback(None)
        self.network.settle()
        self.assertEqual([client.answers()[0].json for client in clients[1:]], [READY, READY])
