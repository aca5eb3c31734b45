"""Two versions of rtprov at the same time, which read one another's journal and tasks; and messages
that neither can read.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pamqp.commands import Basic

from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.client.service import BrokerConnection
from rtprov.amqp.client.url import BrokerUrl
from rtprov.errors import UndecodableMessage
from rtprov.journal import shard_journal
from rtprov.messaging.topology import PARKED_QUEUE, STATUS_EXCHANGE, TASKS_EXCHANGE, Shard
from rtprov.worker.quarantine import GIVE_UP_AFTER
from tests.support.brokered import _Taker
from tests.support.scale import slow
from tests.support.system import EPOCH, REQUEST, System
from tests.support.system_case import COMPLETED, FAILED, RUNNING, SystemTestCase

SHARD = Shard(0, 1)
DEVICE = "ABC123456"


def task_id(number: int) -> str:
    return f"{number:032x}"


def message(kind: str, number: int, **fields: Any) -> bytes:
    """Return an event as the next version might write it: with all present fields, and more."""
    body = {
        "v": 2,
        "kind": kind,
        "task": task_id(number),
        "equipment": DEVICE,
        "at": EPOCH,
        "region": {"name": "north"},
        **fields,
    }
    return json.dumps(body).encode()


class VersionsTestCase(SystemTestCase):
    """A system, and `publish` for messages of another version or another program."""

    def make(self) -> System:
        return System(delay_s=1.0)

    def setUp(self) -> None:
        super().setUp()
        self.publisher = Publisher(clock=self.system.clock)
        self.outside = self.connect(self.publisher)

    def connect(self, session: Any) -> BrokerConnection:
        connection = BrokerConnection(
            name="outside",
            endpoint=self.system.network.connect("broker"),
            url=BrokerUrl.parse("amqp://guest:guest@broker/"),
            clock=self.system.clock,
            rng=self.system._rng,
            sessions=[session],
        )
        connection.startService()
        self.addCleanup(self.disconnect, connection)
        self.system.network.until(lambda: connection.connected, 10.0)
        return connection

    def disconnect(self, connection: BrokerConnection) -> None:
        stopped = connection.stopService()
        self.system.network.until(lambda: bool(stopped.called), 10.0)

    def publish(
        self, exchange: str, key: str, body: bytes, headers: dict[str, Any] | None = None
    ) -> None:
        published = self.publisher.publish(
            exchange, key, body, properties=Basic.Properties(delivery_mode=2, headers=headers)
        )
        self.system.network.settle()
        self.successResultOf(published)

    def write(self, *events: bytes) -> None:
        for event in events:
            self.publish(TASKS_EXCHANGE, SHARD.event_key, event)

    def parked(self) -> list[tuple[bytes, str]]:
        """The messages in the parked queue: body, and the broker's reason."""
        taken: list[Any] = []
        self.disconnect(self.connect(_Taker(PARKED_QUEUE, taken)))
        return [(each.body, each.properties.headers["x-death"][0]["reason"]) for each in taken]

    def assert_alive(self) -> None:
        """Check that a new task is completed as usual."""
        done = self.system.accepted("OTHER12345")
        self.system.network.advance(2)
        self.assertEqual(self.status("OTHER12345", done), COMPLETED)


class NextVersion(VersionsTestCase):
    """A worker of this version beside one of the next version."""

    def test_its_journal(self) -> None:
        """Tasks that the next version started and ended have their states here, now and after a
        replay, whatever other events are in its journal.
        """
        self.write(
            message("requested", 1, deadline=5),
            message("priority", 1, value=[1]),
            message("started", 1, attempt=1, by="worker-7"),
            message("finished", 1, state="completed", reason="", took=1.5),
            b'{"v": 2, "kind": "checkpoint"}',
            message("requested", 2),
            message("started", 2, attempt=4),
            message("finished", 3, state="failed", reason=""),
        )
        for _ in range(2):
            self.assertEqual(self.status(DEVICE, task_id(1)), COMPLETED)
            self.assertEqual(self.status(DEVICE, task_id(2)), RUNNING)
            self.assertEqual(self.status(DEVICE, task_id(3)), FAILED)
            store = self.system.workers[0].stores[0]
            self.assertEqual(store.attempts(task_id(2)), 4)
            stopped = self.system.workers.pop().stopService()
            self.system.network.until(lambda stopped=stopped: bool(stopped.called))  # type: ignore[misc] # mypy cannot infer the default's type
            self.system.start_worker()
            self.system.network.advance(1)
        self.assert_alive()

    def test_its_tasks(self) -> None:
        """A task with fields of the next version is completed."""
        sealed = self.system.sealer.seal(b'{"timeoutInSeconds": 14, "parameters": [{"vlan": 1}]}')
        self.publish(
            TASKS_EXCHANGE,
            SHARD.requested_key,
            message("requested", 1, timeout=14, sealed=sealed, priority=3),
        )
        self.system.network.advance(1.1)
        self.assertEqual(self.status(DEVICE, task_id(1)), COMPLETED)

    def test_a_state_that_we_do_not_know(self) -> None:
        """A task that ended in an unknown state has ended: it counts as failed, and A is not called
        again.
        """
        sealed = self.system.sealer.seal(b'{"timeoutInSeconds": 14, "parameters": [{"vlan": 1}]}')
        self.write(message("finished", 1, state="superseded", reason="by a later task"))
        self.publish(
            TASKS_EXCHANGE, SHARD.requested_key, message("requested", 1, timeout=14, sealed=sealed)
        )
        self.assertEqual(self.status(DEVICE, task_id(1)), FAILED)
        self.system.network.cut("broker")
        self.system.network.advance(10)
        self.assertEqual(self.status(DEVICE, task_id(1)), FAILED)

    def test_a_task_that_we_cannot_do(self) -> None:
        """A task in an unknown format fails. The message is parked with the reason, and other tasks
        continue.
        """
        order = message("requested", 1, body={"cipher": "other"})
        self.publish(TASKS_EXCHANGE, SHARD.requested_key, order)
        self.system.network.advance(1)
        self.assertEqual(self.status(DEVICE, task_id(1)), FAILED)
        self.assertEqual(self.parked(), [(order, "rejected")])
        self.assert_alive()


class Batches(VersionsTestCase):
    """Workers that write several events as one message (``--batch-events``), and others."""

    def many(self, count: int = 40) -> dict[str, str]:
        """POST many tasks at the same time; return their ids by device."""
        answers = {
            f"BATCH{number:05}": self.system.send(
                "POST", f"/api/v1/equipment/cpe/BATCH{number:05}", REQUEST
            )
            for number in range(count)
        }
        self.system.network.advance(0.5)
        return {
            device: json.loads(self.successResultOf(answer).body)["taskId"]
            for device, answer in answers.items()
        }

    def assert_completed(self, tasks: dict[str, str]) -> None:
        for device, task in tasks.items():
            self.assertEqual(self.status(device, task), COMPLETED)

    def stop_first(self) -> None:
        stopped = self.system.workers.pop(0).stopService()
        self.system.network.until(lambda: bool(stopped.called), 10.0)

    def test_with_and_without(self) -> None:
        """A worker with the option takes over from one without it, and the other way round. Each
        task is called once.
        """
        tasks = self.many()
        for batch_events in (True, False, True):
            self.system.batch_events = batch_events
            self.system.start_worker()
            self.system.network.advance(0.3)
            self.stop_first()
            self.system.network.advance(2)
            self.assert_completed(tasks)
            tasks = self.many()
        self.system.network.advance(2)
        self.assert_completed(tasks)
        self.assertEqual(self.system.stub.calls, 160)

    def test_fewer_messages(self) -> None:
        """The events of many tasks are few messages."""
        self.system.batch_events = True
        self.system.start_worker()
        self.system.network.advance(0.3)
        self.stop_first()
        before = self.journalled()
        tasks = self.many(100)
        self.system.network.advance(2)
        self.assert_completed(tasks)
        self.assertLess(self.journalled() - before, 250)  # 300 events and some markers

    def journalled(self) -> int:
        return self.system.broker.virtual_host.queues[SHARD.journal].message_count

    def test_an_earlier_version(self) -> None:
        """A worker that passes over batches, as one of 0.2.0 does, follows a worker of this
        version: by default it writes none.
        """
        tasks = self.many()
        self.patch(shard_journal, "events_in", lambda body: (body,))
        self.system.start_worker()
        self.system.network.advance(2)
        self.stop_first()
        self.system.network.advance(2)
        self.assert_completed(tasks)
        self.assertEqual(self.system.stub.calls, len(tasks))


class NotOurs(VersionsTestCase):
    """Messages that are not rtprov's."""

    BODIES = (
        b"",
        b"\xff\x00",
        b"null",
        b"[" * 10_000,
        b'{"kind": "requested"}',
        b'{"kind": 1}',
        b"<event/>",
    )

    def test_in_the_work_queue(self) -> None:
        """A message in the work queue that is not a task is parked unchanged, with the reason.
        Tasks before and after it are completed.
        """
        before = self.system.accepted(DEVICE)
        for body in self.BODIES:
            self.publish("", SHARD.work, body)
        self.system.network.advance(2)
        self.assertEqual(self.status(DEVICE, before), COMPLETED)
        self.assertEqual(sorted(self.parked()), sorted((body, "rejected") for body in self.BODIES))
        self.assert_alive()

    def test_in_the_journal(self) -> None:
        """A message in the journal that is not an event is skipped, also when the journal is
        replayed.
        """
        self.write(*self.BODIES)
        self.assert_alive()
        self.system.start_worker()
        self.system.network.advance(2)
        self.assertEqual(
            sum("ignoring the message at offset" in event for event in self.events),
            2 * len(self.BODIES),
        )
        self.assert_alive()

    def test_in_the_status_queue(self) -> None:
        """A message in the status queue that is not a question gets no answer. The next question
        gets one.
        """
        done = self.system.accepted(DEVICE)
        for body in self.BODIES:
            self.publish(STATUS_EXCHANGE, SHARD.status, body)
        self.assertEqual(self.status(DEVICE, done), RUNNING)
        self.assertEqual(len(self.flushLoggedErrors(UndecodableMessage)), len(self.BODIES))
        self.assert_alive()

    def test_among_the_dead_letters(self) -> None:
        """A message in the dead-letter queue that is not a task is parked."""
        for body in self.BODIES:
            self.publish("", SHARD.dead, body, {"x-death": [{"reason": "mine"}]})
        self.system.network.settle()
        self.assertEqual(sorted(self.parked()), sorted((body, "mine") for body in self.BODIES))
        self.assert_alive()

    def test_wrong_numbers(self) -> None:
        """A task with a number out of range is parked, and such an event is ignored. If its time
        is right, the task fails. All other tasks are shown and completed, and the event stream goes
        on.
        """
        done = self.system.accepted("OTHER12345")
        self.system.network.advance(2)
        stream = self.system.send("GET", "/api/v1/events")
        self.system.network.advance(1)
        millis = EPOCH * 1000
        orders = [
            message("requested", 1, at=millis, timeout=60, sealed="x"),
            message("requested", 2, timeout=10**12, sealed="x"),
            message("requested", 3, timeout=10**400, sealed="x"),
        ]
        for order in orders:
            self.publish("", SHARD.work, order)
        self.write(
            message("requested", 4, at=millis),
            message("finished", 4, at=millis, state="completed", reason=""),
            message("started", 5, attempt=10**400),
            message("postponed", 5, attempt=1, reason="", until=millis),
            message("active", 6, by="x", concurrency=10**13, equipment="closed"),
            message("active", 6, by="x", concurrency=10**13, equipment="closed", rate=1e308),
        )
        self.system.network.advance(2)
        self.assertEqual(sorted(body for body, _ in self.parked()), sorted(orders))
        self.assertEqual(sum("ignoring the message at offset" in each for each in self.events), 4)
        listed = self.system.request("GET", "/api/v1/tasks")
        self.assertEqual(
            {each["taskId"]: each["state"] for each in listed.json["tasks"]},
            {done: "completed", task_id(2): "failed", task_id(3): "failed"},
        )
        for path in (
            f"/api/v1/tasks/{done}",
            "/api/v1/summary",
            f"/api/v1/equipment/cpe/{DEVICE}/task",
        ):
            self.assertEqual(self.system.request("GET", path).status, 200, path)
        self.assert_alive()
        self.assertNoResult(stream)

    def test_nothing_is_repeated(self) -> None:
        """No content of a message that is not rtprov's is logged."""
        for exchange, key in (("", SHARD.work), ("", SHARD.dead), (STATUS_EXCHANGE, SHARD.status)):
            self.publish(exchange, key, b'{"kind": "s3cr3t", "s3cr3t": "s3cr3t"}')
        self.write(b"s3cr3t", b'{"kind": "finished", "state": "s3cr3t"}')
        self.assert_alive()
        self.flushLoggedErrors(UndecodableMessage)
        self.assertEqual([event for event in self.events if re.search("s3cr3t", event)], [])


class KillsItsWorker(VersionsTestCase):
    @slow
    def test_every_time(self) -> None:
        """A task whose worker dies in each call fails after some calls and is parked. Tasks that
        run beside it are completed.
        """
        others = {
            f"BESIDE{number:04}": self.system.accepted(f"BESIDE{number:04}") for number in range(20)
        }
        killer = self.system.accepted(DEVICE)
        crash_count = 0
        while self.status(DEVICE, killer) == RUNNING:
            if self.called(killer):
                self.die(self.system.workers.pop())
                crash_count += 1
                self.assertLessEqual(crash_count, GIVE_UP_AFTER + 1)
                self.system.start_worker()
                self.system.network.until(lambda: self.system.workers[0].connection.connected, 30.0)
            else:
                self.system.network.advance(1)
        self.assertEqual(self.status(DEVICE, killer), FAILED)
        self.assertEqual([reason for _, reason in self.parked()], ["rejected"])
        self.system.network.advance(30 * 60)
        for device, task in others.items():
            self.assertEqual(self.status(device, task), COMPLETED)
        self.assert_alive()

    def called(self, task: str) -> bool:
        jobs = self.system.workers[0].workers[0].jobs.values()
        return any(job.calling for job in jobs if job.task.task_id == task)

    def die(self, worker: Any) -> None:
        """End without closing the connection in the regular way."""
        stopped = worker.connection.stopService()
        self.system.network.until(lambda: bool(stopped.called), 30.0)
        for job in list(worker.workers[0].jobs.values()):
            job.running.cancel()
        stopped = worker.stopService()
        self.system.network.until(lambda: bool(stopped.called), 30.0)
