"""On real RabbitMQ: what dies, what is cut, what is blocked, nodes that are killed, and an A that
is down.

A's outage takes its time; all else happens meanwhile, in virtual hosts or on nodes of its own.
"""

from __future__ import annotations

import json
from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from tests.chaos.equipment import reactor
from tests.chaos.nodes import Nodes, start_nodes
from tests.chaos.support import TASKS, ChaosTestCase, Site, publish, seconds
from tests.support.rabbitmq import RabbitMQ, rabbitmq
from tests.support.scale import FULL

OUTAGE_S = 60.0 if FULL else 30.0
BLOCKED_S = 5.0
WORK = "rtprov.work.0of1"


class OnRabbitMQ(ChaosTestCase):
    async def site(self, node: RabbitMQ, *, workers: int = 1) -> Site:
        site = Site(self, await node.add_vhost())
        await site.start(workers=workers)
        return site

    timeout = 600.0

    async def nodes(self, count: int) -> Nodes:
        nodes = await start_nodes(count)
        self.addCleanup(nodes.stop)
        return nodes

    async def test_side_by_side(self) -> None:
        """Whatever breaks, nothing is lost, and only what a dying process had in its hands is
        called again.
        """
        node = await rabbitmq()
        await together(self.a_down(node), self.all_else(node))

    async def test_queues_touched_from_outside(self) -> None:
        """The work queue is deleted under load, and purged and deleted while no worker lives: all
        is done, and nothing is called twice."""
        node = await rabbitmq()
        site = await self.site(node)
        vhost = site.broker_url.rpartition("/")[2]
        posting = site.post(0, TASKS // 2)
        await site.a_is_busy(TASKS // 10)
        await node.ctl("delete_queue", "-p", vhost, WORK)
        await posting
        await site.all_called(TASKS // 2)  # so the queue is there again
        await self.stop(site.workers[0])
        await site.post(TASKS // 2, TASKS * 3 // 4)
        await node.ctl("purge_queue", "-p", vhost, WORK)
        await site.post(TASKS * 3 // 4, TASKS * 7 // 8)
        await node.ctl("delete_queue", "-p", vhost, WORK)
        await site.post(TASKS * 7 // 8, TASKS)
        await site.start_worker()
        await site.workers[1].logged("open tasks were in no queue")
        await site.check()
        self.assertEqual(site.repeated, 0)

    async def test_the_journal_is_deleted(self) -> None:
        """The journal is deleted under load: the worker tells the next one what it knows, so that
        even its successor does."""
        node = await rabbitmq()
        site = await self.site(node)
        vhost = site.broker_url.rpartition("/")[2]
        posting = site.post(0, TASKS // 5)
        await site.a_is_busy(TASKS // 10)
        await node.ctl("delete_queue", "-p", vhost, "rtprov.journal.0of1")
        await posting
        await site.workers[0].logged("the broker began a new journal")
        await site.check()
        self.assertEqual(site.repeated, 0)
        await self.stop(site.workers[0])
        await site.start_worker()
        await site.check()

    async def all_else(self, node: RabbitMQ) -> None:
        await together(
            self.killed(node),
            self.drained(node),
            self.connections_closed(node),
            self.poisoned(node),
        )
        await self.a_node_that_comes_back()
        await self.a_leader_that_stays_away()

    async def killed(self, node: RabbitMQ) -> None:
        """The active worker is killed, and the standby after it; the last one takes over."""
        site = await self.site(node, workers=3)
        posting = site.post()
        await site.a_is_busy(TASKS // 10)
        broken = [await site.kill(site.workers[0])]
        await site.a_is_busy(TASKS * 2 // 5)
        broken.append(await site.kill(site.workers[1]))
        await posting
        await site.check(broken=broken)
        self.assertGreater(site.repeated, 0)

    async def drained(self, node: RabbitMQ) -> None:
        """The active worker is told to stop: its calls end, none is repeated, and the standby does
        the rest.
        """
        site = await self.site(node, workers=2)
        posting = site.post()
        await site.a_is_busy()
        await self.stop(site.workers[0])
        self.assertIn("draining", site.workers[0].log)
        await posting
        await site.check()
        self.assertEqual(site.repeated, 0)

    async def connections_closed(self, node: RabbitMQ) -> None:
        """The operator closes all connections: they come back, and no call is repeated, since no
        worker died.
        """
        site = await self.site(node)
        posting = site.post()
        await site.a_is_busy()
        vhost = site.broker_url.rpartition("/")[2]
        await node.ctl("close_all_connections", "--vhost", vhost, "by the test")
        await posting
        await site.check()
        self.assertIn("not connected", site.workers[0].log)
        self.assertEqual(site.repeated, 0)

    async def poisoned(self, node: RabbitMQ) -> None:
        """What is no task, and a task that nobody here can do, are parked; the latter has failed,
        and all the rest goes on.
        """
        site = await self.site(node)
        await publish(
            site.broker_url, "", "rtprov.work.0of1", b"not ours", b'{"v": 9, "kind": "requested"}'
        )
        order = {
            "v": 9,
            "kind": "requested",
            "task": "ab" * 16,
            "equipment": "ABC123456",
            "at": 0.0,
            "body": "?",
        }
        await publish(site.broker_url, "rtprov.tasks", "requested.0of1", json.dumps(order).encode())
        await site.post(0, TASKS // 5)
        await site.check()
        final = await site.clients[0].final(f"/api/v1/equipment/cpe/ABC123456/task/{'ab' * 16}")
        self.assertEqual(final.status, 500)
        vhost, lengths = site.broker_url.rpartition("/")[2], ""
        # RabbitMQ counts a quorum queue's messages every five seconds
        while "rtprov.parked\t3\n" not in lengths:
            lengths = await node.ctl("list_queues", "--quiet", "-p", vhost, "name", "messages")

    async def a_down(self, node: RabbitMQ) -> None:
        """A is down for a while: it is asked little, said to be in trouble once, and all is done
        when it is back.

        It comes back with a certificate that has expired, which is no better, and then with a good
        one."""
        site = await self.site(node)
        posting = site.post()
        await site.a_is_busy()
        await site.a.stop()
        cut = site.broken(reactor.seconds())
        worker = site.workers[0]
        await worker.logged("A is in trouble")
        await posting
        await seconds(OUTAGE_S / 2)
        site.a.start("expired")
        await seconds(OUTAGE_S / 2)
        await worker.logged("certificate")
        await site.a.stop()
        site.a.start()
        await site.check(broken=[cut])
        self.assertEqual(worker.log.count("A is in trouble"), 1)
        await worker.logged("A has recovered")

    async def a_node_that_comes_back(self) -> None:
        """The only node is out of memory for a while, and then killed: POSTs are refused meanwhile,
        and no call is repeated.
        """
        nodes = await self.nodes(1)
        site = Site(self, nodes.url)
        await site.start()
        # RabbitMQ 3.10 writes which streams it has within three minutes only; a node killed before
        # has forgotten a new one.
        await nodes.ctl(0, "eval", "[dets:sync(Table) || Table <- dets:all()].")
        await site.post(0, TASKS // 2)
        await nodes.ctl(0, "set_vm_memory_high_watermark", "0.0000001")
        posting = site.post(TASKS // 2, TASKS)
        await seconds(BLOCKED_S)
        self.assertEqual((await site.clients[0].post("BLOCKED01")).status, 503)
        self.assertEqual(len(site.accepted), TASKS // 2)
        await nodes.ctl(0, "set_vm_memory_high_watermark", "0.4")
        await site.a_is_busy(TASKS // 2 + TASKS // 5)
        nodes.kill(0)
        nodes.start(0)
        await posting
        self.assertEqual(len(site.accepted), TASKS)
        await site.check()
        self.assertEqual(site.repeated, 0)
        await nodes.stop()

    async def a_leader_that_stays_away(self) -> None:
        """The node of a cluster that leads work queue and journal is killed for good, with
        everybody's connection: the others go on.

        The standby may be back before the worker that has calls under way: these, and no others,
        are called again then."""
        nodes = await self.nodes(3)
        site = Site(self, nodes.url)
        await site.start(workers=2, frontends=2)
        queues = await nodes.ctl(0, "list_queues", "--quiet", "name", "leader")
        (leader,) = (
            line.split()[1] for line in queues.splitlines() if line.startswith("rtprov.work.")
        )
        posting = site.post()
        await site.a_is_busy()
        nodes.kill(nodes.names.index(leader))
        broken = site.broken(reactor.seconds())
        await posting
        await site.check(broken=[broken])
        await nodes.stop()


def together(*scenarios: Coroutine[Any, Any, None]) -> Deferred[Any]:
    return gatherResults([Deferred.fromCoroutine(each) for each in scenarios], consumeErrors=True)
