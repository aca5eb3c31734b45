"""Changing the number of shards as docs/operations.md describes; the same test on the embedded
broker and on RabbitMQ.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from rtprov.security.development import make_development_set
from tests.chaos.equipment import Call, RecordingA
from tests.support.processes import ANY_PORT, POLL_EVERY_S, Client, ProcessTestCase, Twistd, reactor
from tests.support.rabbitmq import rabbitmq
from tests.support.system import REQUEST, Answer

COMPLETED = {"code": 200, "message": "Completed"}


if TYPE_CHECKING:
    _Base = ProcessTestCase
else:
    _Base = object

DEVICES = [f"DEVICE{number:04}" for number in range(4)]
ORDERS = [(device, f"key-{number}") for number in range(3) for device in DEVICES]
CALL_S = 1.0


class Questions:
    """Polls all accepted tasks and posts one more task, again and again until it is stopped.

    `answers` are the HTTP statuses of the polls of `accepted` tasks, `ordered` those of the POSTs.
    """

    def __init__(self, client: Client, accepted: list[str]) -> None:
        self._client = client
        self.accepted = accepted
        self.answers: list[int] = []
        self.ordered: list[int] = []
        self._stopped = False
        self._running = Deferred.fromCoroutine(self._run())

    async def _run(self) -> None:
        while not self._stopped:
            order = await self._client.post(f"LATE{len(self.ordered):06}")
            self.ordered.append(order.status)
            if order.status == 200:
                self.accepted.append(order.header("Location") or "")
            for location in list(self.accepted):
                self.answers.append((await self._client.request("GET", location)).status)
            await deferLater(reactor, POLL_EVERY_S)

    def stop(self) -> Deferred[None]:
        """Stop. Fires after the last answer."""
        self._stopped = True
        return self._running


class ReshardingMixin(_Base):
    """The tests, for either broker. A subclass starts the broker in `start_broker`."""

    async def start_broker(self) -> tuple[str, str]:
        """Return the broker's URLs, for front ends and for workers."""
        raise NotImplementedError

    async def start(self) -> Client:
        """Start broker, A and front end."""
        make_development_set(self.folder / "certs")
        self.broker_url, self.worker_url = await self.start_broker()
        self.a = RecordingA(self.folder / "certs", delay_s=CALL_S)
        self.a.start()
        self.addCleanup(self.a.stop)
        where = {"RTPROV_BROKER": self.broker_url}
        self.frontend = self.twistd("rtprov-frontend", "--listen", ANY_PORT, environment=where)
        await self.frontend.logged("ready; try: curl ")
        return self.client(await self.frontend.port("service B (front end)"))

    async def start_worker(self, *arguments: str) -> Twistd:
        where = ("--broker", self.worker_url, "--equipment-url", self.a.url)
        worker = self.twistd("rtprov-worker", *where, *arguments)
        await worker.logged("worker: connected to amqp://")
        return worker

    async def order(self, client: Client, device: str, key: str) -> Answer:
        """POST until the task is accepted. The only refusal allowed is a 503."""
        path = f"/api/v1/equipment/cpe/{device}"
        while True:
            answer = await client.request("POST", path, REQUEST, Idempotency_Key=key)
            if answer.status == 200:
                return answer
            self.assertEqual(answer.status, 503, answer)
            await deferLater(reactor, POLL_EVERY_S)

    async def change(self, count: int) -> None:
        """Change the number of shards as the documentation says."""
        command = [sys.executable, "-m", "rtprov.shards", str(count)]
        change = self.spawn(command, {"RTPROV_BROKER": self.worker_url})
        await change.logged("Changing from")
        if change.status is None:
            change.signal("HUP")  # as if the operator's connection to the machine were lost
        self.assertEqual(await change.ended, 0, change.errors)
        self.assertRegex(change.log, rf"\AChanging from 1 to {count} shards\n")
        self.assertRegex(change.log, rf"\nThe broker now has {count} shards; start the workers\n\Z")

    async def test_more_shards(self) -> None:
        """From 1 to 4 shards while the front end runs: keys, tasks and the order of each device's
        tasks are kept.
        """
        client = await self.start()
        worker = await self.start_worker("--concurrency", "2")
        orders = [await self.order(client, device, key) for device, key in ORDERS]
        await worker.logged("completed: task ")
        await self.stop(worker)
        self.assertLess(len(self.a.calls), len(ORDERS))

        questions = Questions(client, [order.header("Location") or "" for order in orders])
        await self.change(4)
        self.assertEqual(set(questions.answers), {503})
        refusal = Deferred.fromCoroutine(self.assert_one_shard_is_refused())
        worker = await self.start_worker()
        again = [await self.order(client, device, key) for device, key in ORDERS]
        self.assertEqual([each.json for each in again], [each.json for each in orders])
        await questions.stop()
        self.assertLessEqual(set(questions.answers), {200, 503})
        self.assertLessEqual(set(questions.ordered), {200, 503})
        for location in questions.accepted:
            self.assertEqual((await client.final(location)).json, COMPLETED)
        self.check_calls(questions.accepted)
        await refusal
        for process in (worker, self.frontend):
            await self.stop(process)

    def check_calls(self, accepted: list[str]) -> None:
        """Check that A was called once for each task, and for each device in the order of its
        tasks, one call at a time.
        """
        called: dict[str, list[Call]] = {}
        for location in accepted:
            *_, device, _, task_id = location.split("/")
            (call,) = self.a.calls.pop(task_id)
            called.setdefault(device, []).append(call)
        self.assertEqual(self.a.calls, {})
        for device, calls in called.items():
            for earlier, later in pairwise(calls):
                assert earlier.ended is not None
                self.assertLessEqual(earlier.ended, later.began, device)

    async def assert_one_shard_is_refused(self) -> None:
        """Check that a command that is given the former number ends with status 78."""
        old = self.twistd("rtprov-worker", "--shards", "1", "--broker", self.worker_url)
        line = "rtprov-worker: --shards 1: the broker has 4 shards; .*"
        await self.assert_refused(old, line)


class OnEmbeddedBroker(ReshardingMixin, ProcessTestCase):
    timeout = 300.0

    async def start_broker(self) -> tuple[str, str]:
        broker = self.twistd("rtprov-broker", "--listen", ANY_PORT)
        url = f"amqp://guest:guest@127.0.0.1:{await broker.port('the AMQP broker')}/"
        return url, url


class OnRabbitMQ(ReshardingMixin, ProcessTestCase):
    """RabbitMQ, with users who have exactly the permissions in docs/operations.md."""

    timeout = 300.0

    async def start_broker(self) -> tuple[str, str]:
        _, frontend, worker = await (await rabbitmq()).add_roles()
        return frontend, worker
