"""``--health-listen`` of each command."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.web.client import Agent, ResponseNeverReceived, readBody

from tests.support.processes import ANY_PORT, POLL_EVERY_S, ProcessTestCase, reactor


class HealthListen(ProcessTestCase):
    async def get(self, port: int, path: str) -> tuple[int, bytes]:
        response = await Agent(reactor).request(b"GET", f"http://127.0.0.1:{port}{path}".encode())
        return response.code, await readBody(response)

    async def ready(self, port: int) -> None:
        """Wait until the process is ready. Until then the answer is a 503 in JSON."""
        while (answer := await self.get(port, "/readyz"))[0] == 503:
            self.assertIn(b'"code":503', answer[1])
            await deferLater(reactor, POLL_EVERY_S)
        self.assertEqual(answer, (200, b'{"code":200,"message":"Ready"}'))

    async def test_behind_client_certificates(self) -> None:
        """A front end that requires client certificates answers health probes without one. So does
        the all-in-one process.
        """
        ports = ("--port=0", "--stub-port=0", "--broker-port=0", "--health-listen", ANY_PORT)
        everything = self.twistd("rtprov", "--client-ca=certs/ca.pem", *ports)
        await self.ready(await everything.port("health"))
        url = f"amqp://guest:guest@127.0.0.1:{await everything.port('the AMQP broker')}/"
        where = ("--listen", ANY_PORT, "--health-listen", ANY_PORT)
        frontend = self.twistd(
            "rtprov-frontend", *where, "--broker", url, "--client-ca=certs/ca.pem"
        )
        port = await frontend.port("health")
        await self.ready(port)
        self.assertEqual((await self.get(port, "/docs"))[0], 404)
        client = self.client(await frontend.port("service B (front end)"))
        await self.assertFailure(
            Deferred.fromCoroutine(client.request("GET", "/livez")), ResponseNeverReceived
        )
        await self.stop(everything)
        while (await self.get(port, "/readyz"))[0] == 200:
            await deferLater(reactor, POLL_EVERY_S)
        self.assertEqual((await self.get(port, "/livez"))[0], 200)
        await self.stop(frontend)

    async def test_metrics(self) -> None:
        """Each command tells its version, its memory and what its role has. Names of devices and
        ids of tasks are in no metric.
        """
        where = ("--health-listen", ANY_PORT)
        ports = ("--port=0", "--stub-port=0", "--broker-port=0", "--stub-delay=0.1", *where)
        everything = self.twistd("rtprov", *ports)
        client = self.client(await everything.port("service B (front end)"))
        await self.ready(await everything.port("health"))
        task = await client.accepted("ABC123456")
        await client.final(task)
        url = f"amqp://guest:guest@127.0.0.1:{await everything.port('the AMQP broker')}/"
        listen = ("--listen", ANY_PORT, *where)
        others = {
            "rtprov_broker_commits_total": self.twistd("rtprov-broker", *listen, "--state=other"),
            "rtprov_http_requests_total": self.twistd("rtprov-stub", *listen),
            "rtprov_status_seconds_count": self.twistd("rtprov-frontend", *listen, "--broker", url),
            "rtprov_seal_key_unknown_total": self.twistd("rtprov-worker", "--broker", url, *where),
        }
        status, told = await self.get(await everything.port("health"), "/metrics")
        self.assertEqual(status, 200)
        self.assertIn(b'rtprov_tasks_ended_total{reason="answered_200",state="completed"} 1', told)
        posts = b'{route="/api/v1/equipment/cpe/{equipmentId}",status="200"} 1.0\n'
        self.assertIn(b"rtprov_http_requests_total" + posts, told)
        self.assertRegex(told, rb'rtprov_http_seconds_count\{route="[^"]+/task/\{taskId\}"\} [1-9]')
        for name, process in others.items():
            port = await process.port("health")
            if name != "rtprov_broker_commits_total":
                await self.ready(port)
            _, text = await self.get(port, "/metrics")
            for each in (name, "rtprov_build_info", "process_resident_memory_bytes"):
                self.assertIn(f"\n# TYPE {each.removesuffix('_count')} ".encode(), b"\n" + text)
                self.assertIn(f"\n# TYPE {each.removesuffix('_count')} ".encode(), b"\n" + told)
            told += text
        self.assertNotIn(b"ABC123456", told)
        self.assertNotIn(task.rpartition("/")[2].encode(), told)
        for process in (*others.values(), everything):
            await self.stop(process)

    async def test_broker(self) -> None:
        """A broker is ready while its state can be written."""
        broker = self.twistd("rtprov-broker", "--listen", ANY_PORT, "--health-listen", ANY_PORT)
        port = await broker.port("health")
        await self.ready(port)
        self.assertEqual((await self.get(port, "/livez"))[0], 200)
        await self.stop(broker)

    async def test_stub_and_worker(self) -> None:
        """Both are alive. The stub is ready at once, the worker once it is connected to its
        broker.
        """
        everything = self.twistd("rtprov", "--port", "0", "--stub-port", "0", "--broker-port", "0")
        broker = await everything.port("the AMQP broker")
        await everything.logged("ready; try")
        stub = self.twistd("rtprov-stub", "--listen", ANY_PORT, "--health-listen", ANY_PORT)
        url = f"amqp://guest:guest@127.0.0.1:{broker}/"
        worker = self.twistd("rtprov-worker", "--broker", url, "--health-listen", ANY_PORT)
        for process in (stub, worker):
            port = await process.port("health")
            self.assertEqual(
                await self.get(port, "/livez"), (200, b'{"code":200,"message":"Alive"}')
            )
            while (await self.get(port, "/readyz"))[0] == 503:
                await deferLater(reactor, POLL_EVERY_S)
            self.assertEqual(
                await self.get(port, "/readyz"), (200, b'{"code":200,"message":"Ready"}')
            )
        await self.stop(everything)
        while (await self.get(port, "/readyz"))[0] == 200:
            await deferLater(reactor, POLL_EVERY_S)
        for process in (stub, worker):
            await self.stop(process)
