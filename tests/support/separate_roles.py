"""Stub, workers and front ends as separate processes, and tests that pass on any broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from rtprov.security.development import make_development_set
from tests.support.processes import ANY_PORT, POLL_EVERY_S, Client, ProcessTestCase, Twistd, reactor
from tests.support.system import REQUEST

if TYPE_CHECKING:
    _Base = ProcessTestCase
else:
    _Base = object

COMPLETED = {"code": 200, "message": "Completed"}
NO_WORKER = 503
CPE = "/api/v1/equipment/cpe/ABC123456"


class RolesStarter(_Base):
    """Starts the roles on the broker that a subclass starts in `start_broker`."""

    async def start_broker(self) -> tuple[str, str]:
        """Return the broker's URLs, for front ends and for workers."""
        raise NotImplementedError

    async def start(self, *, delay_s: float) -> None:
        """Start broker, stub and front end. Each test starts its workers."""
        make_development_set(self.folder / "certs")
        self.broker_url, self.worker_url = await self.start_broker()
        self.stub = self.twistd("rtprov-stub", "--listen", ANY_PORT, "--delay", str(delay_s))
        self.frontend = self.twistd(
            "rtprov-frontend", "--listen", ANY_PORT, environment={"RTPROV_BROKER": self.broker_url}
        )
        self.stub_port = await self.stub.port("service A (stub)")
        await self.frontend.logged("ready; try: curl ")

    async def start_worker(self, *arguments: str) -> Twistd:
        """Start a worker; return it once it is connected. The first one is active, further ones are
        standbys.
        """
        where = (
            "--broker",
            self.worker_url,
            "--equipment-url",
            f"https://localhost:{self.stub_port}",
        )
        worker = self.twistd("rtprov-worker", *where, *arguments)
        await worker.logged("worker: connected to amqps?://")
        return worker

    async def front_end(self) -> Client:
        return self.client(await self.frontend.port("service B (front end)"))


class RolesMixin(RolesStarter):
    """The tests, for either broker."""

    async def test_standby(self) -> None:
        """The active worker is killed during a call: its standby repeats the call, and the task is
        completed.
        """
        await self.start(delay_s=1)
        active, standby = await self.start_worker(), await self.start_worker()
        client = await self.front_end()
        location = await client.accepted("ABC123456")
        await self.stub.logged("call 1: ABC123456")
        active.signal("KILL")
        self.assertEqual(await active.ended, -9)
        self.assertEqual((await client.final(location)).json, COMPLETED)
        self.assertIn("call 2: ABC123456", self.stub.log)
        self.assertNotIn("call 3", self.stub.log)
        self.assert_clean(active)
        for process in (standby, self.frontend, self.stub):
            await self.stop(process)

    async def test_orders(self) -> None:
        """A key gives one task through two front ends. A waiting task is cancelled. A client that
        waits for the end is answered when it comes.
        """
        await self.start(delay_s=3)
        for _ in range(2):
            await self.start_worker()
        other = self.twistd(
            "rtprov-frontend", "--listen", ANY_PORT, environment={"RTPROV_BROKER": self.broker_url}
        )
        clients = [await self.front_end(), self.client(await other.port("service B (front end)"))]
        for client in clients:
            while (await client.request("GET", "/readyz")).status == NO_WORKER:
                await deferLater(reactor, POLL_EVERY_S)
        posts = [
            Deferred.fromCoroutine(client.request("POST", CPE, REQUEST, Idempotency_Key="k1"))
            for client in clients
        ]
        first, second = await gatherResults(posts)
        self.assertEqual((first.status, first.json), (200, second.json))
        self.assertEqual(
            (
                await clients[1].request(
                    "POST", CPE, {**REQUEST, "timeoutInSeconds": 15}, Idempotency_Key="k1"
                )
            ).status,
            422,
        )
        waiting = (await clients[1].request("POST", CPE, REQUEST, Idempotency_Key="k2")).header(
            "Location"
        )
        assert waiting is not None
        self.assertEqual(
            (await clients[0].request("DELETE", waiting)).json,
            {"code": 200, "message": "Cancelled"},
        )
        self.assertEqual((await clients[1].request("GET", waiting, Prefer="wait=60")).status, 500)
        task = f"{CPE}/task/{first.json['taskId']}"
        self.assertEqual((await clients[1].request("DELETE", task)).status, 409)
        waits = [
            Deferred.fromCoroutine(client.request("GET", task, Prefer="wait=25"))
            for client in (*clients, *clients)
        ]
        self.assertEqual([answer.json for answer in await gatherResults(waits)], [COMPLETED] * 4)
        listed = (await clients[0].request("GET", f"{CPE}/task")).json["tasks"]
        self.assertEqual([each["state"] for each in listed], ["cancelled", "completed"])
        self.assertIn("call 1: ABC123456", self.stub.log)
        self.assertNotIn("call 2", self.stub.log)

    async def test_drain(self) -> None:
        """After SIGTERM a worker lets its calls end and starts none. The next worker knows of them,
        and gets the other tasks.
        """
        await self.start(delay_s=1)
        worker = await self.start_worker("--concurrency", "1")
        client = await self.front_end()
        first, second = await client.accepted("ABC123456"), await client.accepted("XYZ123456")
        await self.stub.logged("call 1: ABC123456")
        await self.stop(worker)
        self.assertIn("draining 1 call", worker.log)
        self.assertNotIn("call 2", self.stub.log)
        self.assertEqual((await client.request("GET", first)).status, NO_WORKER)
        await self.start_worker()
        self.assertEqual((await client.final(first)).json, COMPLETED)
        self.assertEqual((await client.final(second)).json, COMPLETED)
        self.assertIn("call 2: XYZ123456", self.stub.log)
        self.assertNotIn("call 3", self.stub.log)
