"""Broker, stub, workers and front ends as separate processes; the same tests on the embedded broker
and on RabbitMQ.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from tests.support.processes import ANY_PORT, ProcessTestCase
from tests.support.rabbitmq import rabbitmq
from tests.support.separate_roles import RolesMixin


class OnEmbeddedBroker(RolesMixin, ProcessTestCase):
    async def start_broker(self) -> tuple[str, str]:
        self.broker = self.twistd("rtprov-broker", "--listen", ANY_PORT)
        url = f"amqp://guest:guest@127.0.0.1:{await self.broker.port('the AMQP broker')}/"
        return url, url

    async def test_stop_in_any_order(self) -> None:
        """If the broker stops first, the others log that once, and still stop cleanly."""
        await self.start(delay_s=0)
        worker = await self.start_worker()
        await self.stop(self.broker)
        for process, name in ((worker, "worker"), (self.frontend, "frontend")):
            await process.logged(f"{name}: not connected to amqp://guest@")
            await self.stop(process, "INT")
        await self.stop(self.stub)

    async def test_stop_in_the_middle_of_a_post(self) -> None:
        """A front end that is stopped during a POST still waits for the broker's confirm, however
        late, and answers.
        """
        await self.start(delay_s=0)
        client = await self.front_end()
        await client.accepted("ABC123456")
        self.broker.signal("STOP")
        post = Deferred.fromCoroutine(client.post("ABC123456"))  # on the existing connection
        # On a new connection. When it is answered, the front end has got the POST.
        self.assertEqual((await client.request("GET", "/nothing")).status, 404)
        stopping = Deferred.fromCoroutine(self.stop(self.frontend))
        await self.frontend.logged("Received SIGTERM, shutting down")
        await self.frontend.logged(r"service B \(front end\) no longer listens")
        self.broker.signal("CONT")
        self.assertEqual((await post).status, 200)
        await stopping


class OnRabbitMQ(RolesMixin, ProcessTestCase):
    """RabbitMQ, with users who have exactly the permissions in docs/operations.md."""

    timeout = 300.0  # includes the start of RabbitMQ in the first test

    async def start_broker(self) -> tuple[str, str]:
        _, frontend_url, worker_url = await (await rabbitmq()).add_roles()
        return frontend_url, worker_url
