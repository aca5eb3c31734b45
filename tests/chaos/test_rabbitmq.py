"""Chaos tests on a real RabbitMQ: killed processes, cut connections, blocked publishers, killed
nodes, and an outage of A.

The outage of A takes some time. The other tests run meanwhile, on virtual hosts or nodes of their
own.
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
        """Whatever breaks, no task is lost, and only calls that a dying process had under way are
        repeated.
        """
        node = await rabbitmq()
        await together(self.a_down(node), self.all_else(node))

    async def test_queues_touched_from_outside(self) -> None:
        """The work queue is deleted under load, and purged and deleted while no worker runs: all
        tasks are done, and no call is repeated.
        """
        node = await rabbitmq()
        site = await self.site(node)
        vhost = site.broker_url.rpartition("/")[2]
        posting = site.post(0, TASKS // 2)
        await site.a_is_busy(TASKS // 10)
        await node.ctl("delete_queue", "-p", vhost, WORK)
        await posting
        # The worker connects again, and declares the queue again.
        await site.workers[0].logged("(?s)worker: connected to .*worker: connected to ")
        await site.all_called(TASKS // 2)
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
        """The journal is deleted under load: the worker publishes what it knows again, so that the
        next worker and its successor know it.
        """
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
        """The active worker is killed, and then its standby. The last worker takes over."""
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
        the other tasks.
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
        """The operator closes all connections: they are made again, and no call is repeated, since
        no worker died.
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
        """A message that is not a task, and a task in an unknown format, are parked. That task
        fails, and all others continue.
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
        # RabbitMQ updates the message count of a quorum queue every five seconds.
        while "rtprov.parked\t3\n" not in lengths:
            lengths = await node.ctl("list_queues", "--quiet", "-p", vhost, "name", "messages")

    async def a_down(self, node: RabbitMQ) -> None:
        """A is down for a while: it gets few calls, the outage is logged once, and all tasks are
        done when it is back.

        It comes back with an expired certificate, which counts as an outage, and then with a valid
        one.
        """
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
        # RabbitMQ 3.10 saves its list of streams only within three minutes. A node that is killed
        # before that has lost a new stream.
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
        """The cluster node that leads work queue and journal is killed for good, and with it all
        connections. The other nodes take over.

        The standby may be connected before the worker with calls under way. Those calls, and no
        others, are then repeated.
        """
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
