"""RabbitMQ itself is killed: a single node that comes back, and the leader of a cluster of three."""

from __future__ import annotations

from tests.chaos.nodes import Nodes, start_nodes
from tests.chaos.support import ChaosTestCase, Site


class OnNodes(ChaosTestCase):
    async def nodes(self, count: int) -> Nodes:
        nodes = await start_nodes(count)
        self.addCleanup(nodes.stop)
        return nodes

    async def test_a_node_that_comes_back(self) -> None:
        """The only node is killed and comes back: nothing is lost, and no call is made twice, since no worker died."""
        nodes = await self.nodes(1)
        site = Site(self, nodes.url)
        await site.start()
        # RabbitMQ 3.10 writes which streams it has within three minutes only; a node killed before has forgotten a new one.
        await nodes.ctl(0, "eval", "[dets:sync(Table) || Table <- dets:all()].")
        posting = site.post()
        await site.a_is_busy()
        nodes.kill(0)
        nodes.start(0)
        await posting
        await site.check()
        self.assertEqual(site.repeated, 0)

    async def test_a_leader_that_stays_away(self) -> None:
        """The node that leads work queue and journal is killed for good: the others go on, nothing is lost, no call is made twice."""
        nodes = await self.nodes(3)
        site = Site(self, nodes.url)
        await site.start(workers=2, frontends=2)
        posting = site.post()
        await site.a_is_busy()
        (leader,) = (
            line.split()[1] for line in (await nodes.ctl(0, "list_queues", "--quiet", "name", "leader")).splitlines() if "work" in line
        )
        nodes.kill(nodes.names.index(leader))
        await posting
        await site.check()
        self.assertEqual(site.repeated, 0)
