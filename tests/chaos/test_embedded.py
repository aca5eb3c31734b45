"""The embedded broker: each process is killed during its tasks."""

from __future__ import annotations

from tests.chaos.support import ANY_PORT, TASKS, ChaosTestCase, Site, kill
from tests.support.processes import Twistd


class OnEmbeddedBroker(ChaosTestCase):
    async def start_broker(self, state: str, listen: str = ANY_PORT) -> tuple[Twistd, int]:
        broker = self.twistd("rtprov-broker", "--listen", listen, "--state", state)
        return broker, await broker.port("the AMQP broker")

    async def site(self, state: str) -> tuple[Site, Twistd, int]:
        broker, port = await self.start_broker(state)
        site = Site(self, f"amqp://guest:guest@127.0.0.1:{port}/")
        return site, broker, port

    async def test_worker_and_front_end(self) -> None:
        """The active worker, its standby and a front end are killed: no task is lost, and only
        calls that were under way are repeated.
        """
        site, _, _ = await self.site("state")
        await site.start(workers=3, frontends=2)
        posting = site.post()
        broken = []
        for worker, calls in zip(site.workers, (TASKS // 10, TASKS * 2 // 5), strict=False):
            await site.a_is_busy(calls)
            broken.append(await site.kill(worker))
        await kill(site.frontends[0])
        await posting
        await site.check(broken=broken)
        self.assertGreater(site.repeated, 0)

    async def test_broker(self) -> None:
        """The broker is killed and restarted: no task is lost, and no call is repeated, since no
        worker died.
        """
        site, broker, port = await self.site("state")
        await site.start()
        posting = site.post()
        await site.a_is_busy()
        await kill(broker)
        await self.start_broker("state", f"tcp:{port}:interface=127.0.0.1")
        await posting
        await site.check()
        self.assertEqual(site.repeated, 0)
