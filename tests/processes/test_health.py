"""``--health-listen`` of the processes that have no HTTPS for everybody."""

from __future__ import annotations

from twisted.internet.task import deferLater
from twisted.web.client import Agent, readBody

from tests.processes.support import ANY_PORT, POLL_EVERY_S, ProcessTestCase, reactor


class HealthListen(ProcessTestCase):
    async def get(self, port: int, path: str) -> tuple[int, bytes]:
        response = await Agent(reactor).request(b"GET", f"http://127.0.0.1:{port}{path}".encode())
        return response.code, await readBody(response)

    async def test_stub_and_worker(self) -> None:
        """Both tell that they live; the stub is ready at once, the worker once it has its broker."""
        everything = self.twistd("rtprov", "--port", "0", "--stub-port", "0", "--broker-port", "0")
        broker = await everything.port("the AMQP broker")
        await everything.logged("ready; try")
        stub = self.twistd("rtprov-stub", "--listen", ANY_PORT, "--health-listen", ANY_PORT)
        url = f"amqp://guest:guest@127.0.0.1:{broker}/"
        worker = self.twistd("rtprov-worker", "--broker", url, "--health-listen", ANY_PORT)
        for process in (stub, worker):
            port = await process.port("health")
            self.assertEqual(await self.get(port, "/livez"), (200, b'{"code":200,"message":"Alive"}'))
            while (await self.get(port, "/readyz"))[0] == 503:
                await deferLater(reactor, POLL_EVERY_S)
            self.assertEqual(await self.get(port, "/readyz"), (200, b'{"code":200,"message":"Ready"}'))
        await self.stop(everything)
        while (await self.get(port, "/readyz"))[0] == 200:
            await deferLater(reactor, POLL_EVERY_S)
        for process in (stub, worker):
            await self.stop(process)
