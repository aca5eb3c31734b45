"""``twistd rtprov``, with everything in one process, is killed during its tasks and
started again.
"""

from __future__ import annotations

from tests.chaos.support import CONCURRENCY, ChaosTestCase, Site
from tests.support.processes import Twistd


class AllInOne(ChaosTestCase):
    async def test_killed(self) -> None:
        """The next process completes all accepted tasks: none is lost, and only calls that were
        under way are repeated.
        """
        site = Site(self)
        site.a.start()
        process = await self.start(site)
        posting = site.post()
        await site.a_is_busy()
        broken = await site.kill(process)
        await self.start(site)
        await posting
        await site.check(broken=[broken])
        self.assertGreater(site.repeated, 0)

    async def start(self, site: Site) -> Twistd:
        where = ("--port", "0", "--broker-port", "0", "--equipment-url", site.a_for_next())
        process = self.twistd("rtprov", *where, "--concurrency", str(CONCURRENCY))
        site.calls_a(process)
        await process.logged("ready; try: curl ")
        site.use(await process.port("service B (front end)"))
        return process
