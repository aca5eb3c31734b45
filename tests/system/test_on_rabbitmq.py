"""A front end and a worker in this process, on a real RabbitMQ: behaviour that depends on how its
version counts deliveries.
"""

from __future__ import annotations

import random
import uuid
from typing import Any

from pamqp.commands import Exchange, Queue
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import deferLater

from rtprov.amqp.client.url import BrokerUrl
from rtprov.clocks import WallClock
from rtprov.frontend.service import FrontendService
from rtprov.messaging import topology, upkeep
from rtprov.messaging.environment import Environment
from rtprov.messaging.topology import PARKED_QUEUE, STATUS_EXCHANGE, TASKS_EXCHANGE, Shard
from rtprov.model import State, Task
from rtprov.worker import renewals
from rtprov.worker import run_failures as failures
from rtprov.worker.run_failures import MAX_FAILURES
from rtprov.worker.service import WorkerService
from rtprov.worker.settings import WorkerSettings
from tests.support.broker_cases import BrokerContract, RabbitMQTestCase
from tests.support.fakes import PlainSealer

BODY = b'{"timeoutInSeconds": 14, "parameters": []}'
POLL_EVERY_S = 0.05


class FailingEquipment:
    """Raises an internal error for the devices in `fails`; completes all other calls at once."""

    def __init__(self, *fails: str) -> None:
        self.calls: list[str] = []
        self._fails = fails

    async def configure(self, task: Task, body: bytes) -> tuple[State, str]:
        self.calls.append(task.equipment_id)
        if task.equipment_id in self._fails:
            raise ZeroDivisionError
        return State.COMPLETED, ""


class SlowEquipment:
    """A service A whose calls take two seconds."""

    def __init__(self, clock: Any) -> None:
        self.calls: list[str] = []
        self._clock = clock

    async def configure(self, task: Task, body: bytes) -> tuple[State, str]:
        self.calls.append(task.task_id)
        await deferLater(self._clock, 2.0)
        return State.COMPLETED, ""


class OnRabbitMQ(RabbitMQTestCase, BrokerContract):
    async def setUp(self) -> None:  # type: ignore[override] # trial awaits it
        await super().setUp()
        url, self.frontend_url, self.worker_url = await self.node.add_roles()
        self.url = BrokerUrl.parse(url)
        for name, value in (("FIRST_FAILURE_PAUSE_S", 0.01), ("LONGEST_FAILURE_PAUSE_S", 0.1)):
            self.patch(failures, name, value)

    def environment(self, url: str) -> Environment:
        where = BrokerUrl.parse(url)
        return Environment(
            clock=self.clock,
            wall_clock=WallClock(self.clock.seconds, self.clock.seconds),
            rng=random.Random(1),
            new_id=lambda: uuid.uuid4().hex,
            broker=TCP4ClientEndpoint(self.clock, where.host, where.port),
            broker_url=where,
        )

    async def start(self, equipment: Any) -> tuple[FrontendService, WorkerService]:
        """Start the front end and the worker; wait until both are connected."""
        frontend = FrontendService(
            self.environment(self.frontend_url), sealer=PlainSealer(), shards=1, running_status=200
        )
        settings = WorkerSettings(shards=[Shard(0, 1)])
        service = WorkerService(
            self.environment(self.worker_url), settings, equipment=equipment, sealer=PlainSealer()
        )
        for role in (frontend, service):
            role.startService()
            self.addCleanup(role.stopService)
            await role.connection.when_connected()
        return frontend, service

    async def test_a_run_that_fails(self) -> None:
        """If a task raises an error in the worker, it fails after ten runs and is parked. All other
        tasks continue meanwhile.
        """
        equipment = FailingEquipment("BAD000001")
        frontend, _ = await self.start(equipment)
        for device, state in (("BAD000001", State.FAILED), ("GOOD00001", State.COMPLETED)):
            task_id = await frontend.frontend._submission.submit(
                device, 14, BODY, "test", deadline=self.clock.seconds() + 5
            )
            while (
                now := await frontend.frontend._statuses.status(task_id, device)
            ) is State.RUNNING:
                await deferLater(self.clock, POLL_EVERY_S)
            self.assertIs(now, state)
        self.assertEqual(equipment.calls, ["BAD000001"] * MAX_FAILURES + ["GOOD00001"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), MAX_FAILURES)
        channel = await self.channel()
        while not (
            await self.ask(channel, Queue.Declare(queue=PARKED_QUEUE, passive=True))
        ).message_count:
            await deferLater(self.clock, POLL_EVERY_S)
        self.assertEqual(await self.count(channel, Shard(0, 1).work), 0)

    async def test_a_long_wait(self) -> None:
        """Deliveries may be renewed more often than the delivery limit: each task is called once,
        in its turn.
        """
        for module, name, value in (
            (topology, "DELIVERY_LIMIT", 3),
            (renewals, "RENEW_AFTER_S", 0.2),
            (renewals, "RENEW_LOOK_S", 0.1),
        ):
            self.patch(module, name, value)
        equipment = SlowEquipment(self.clock)
        frontend, _ = await self.start(equipment)
        tasks = [
            await frontend.frontend._submission.submit(
                "SLOW00001", 14, BODY, "test", deadline=self.clock.seconds() + 5
            )
            for _ in range(2)
        ]
        for task_id in tasks:
            while (
                now := await frontend.frontend._statuses.status(task_id, "SLOW00001")
            ) is State.RUNNING:
                await deferLater(self.clock, POLL_EVERY_S)
            self.assertIs(now, State.COMPLETED)
        self.assertEqual(equipment.calls, tasks)
        channel = await self.channel()
        for queue in (Shard(0, 1).work, Shard(0, 1).dead, PARKED_QUEUE):
            self.assertEqual(await self.count(channel, queue), 0)

    async def test_deleted_exchanges(self) -> None:
        """Exchanges that an operator deletes are declared again with all bindings, including that
        of the worker's own queue.
        """
        self.patch(upkeep, "EVERY_S", 0.2)
        frontend, worker = await self.start(FailingEquipment())
        connection = worker.connection._connection
        channel = await self.channel()
        for exchange in (TASKS_EXCHANGE, STATUS_EXCHANGE):
            await self.ask(channel, Exchange.Delete(exchange=exchange))
        await deferLater(self.clock, 1.0)
        await frontend.connection.when_connected()
        task_id = await frontend.frontend._submission.submit(
            "GOOD00001", 14, BODY, "test", deadline=self.clock.seconds() + 5
        )
        while (
            now := await frontend.frontend._statuses.status(task_id, "GOOD00001")
        ) is State.RUNNING:
            await deferLater(self.clock, POLL_EVERY_S)
        self.assertIs(now, State.COMPLETED)
        self.assertIs(worker.connection._connection, connection)
