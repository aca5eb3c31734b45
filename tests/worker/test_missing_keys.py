"""Workers whose key file lacks keys: tasks wait in the worker, and continue when the file has the
key.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from twisted.logger import ILogObserver, formatEvent, globalLogPublisher

from rtprov.errors import EquipmentUnreachable
from rtprov.messaging.event_messages import encode_task
from rtprov.messaging.topology import TASKS_EXCHANGE, Shard, persistent
from rtprov.model import Finished, Requested, Started, State, Task, Withheld
from rtprov.security.sealer import FernetSealer
from rtprov.worker.missing_keys import FIRST_LOOK_S, LOOK_EVERY_S, REPEAT_AFTER_S
from rtprov.worker.renewals import RENEW_AFTER_S
from tests.support.fakes import FakeDelivery
from tests.support.sealing_keys import NEXT, OUR_ID, OURS, THEIR_ID, THEIRS, KeysTestCase
from tests.support.system import System
from tests.support.system_case import COMPLETED, FAILED, RUNNING
from tests.support.worker_case import BODY, EPOCH, WorkerTestCase, task_id

CANCELLED = {"code": 200, "message": "Cancelled"}
CALLED_OFF = (
    500,
    {"code": 500, "message": "The task was cancelled before it was sent to the equipment service"},
)
ADVICE = (
    "add it to the key file as another line, and they continue; if the key is lost, cancel them by"
    " DELETE, first task "
)
DAY_S = 86400.0
PATIENCE_S = 600.0  # of the worker


class MissingKeysTestCase(WorkerTestCase):
    """A worker without broker and A. The only key of its sealer is "plain"."""

    concurrency = 1

    @contextmanager
    def logged(self) -> Iterator[list[str]]:
        """Collect the log lines, with their levels."""
        lines: list[str] = []
        observer = cast(
            "ILogObserver",
            lambda event: lines.append(f"{event['log_level'].name}: {formatEvent(event)}"),
        )
        globalLogPublisher.addObserver(observer)
        try:
            yield lines
        finally:
            globalLogPublisher.removeObserver(observer)

    def withhold(
        self,
        number: int,
        equipment_id: str = "DEVICE1",
        *,
        redelivered: bool = False,
        key: str | None = "gone",
    ) -> FakeDelivery:
        """Deliver a task that is sealed with a missing key."""
        sealed = "sealed:" + BODY.decode() if key is not None else "with another key"
        task = Task(task_id(number), equipment_id, 14, EPOCH, sealed, key=key)
        if not redelivered:
            self.apply(Requested(task.task_id, equipment_id, EPOCH, key=key, whole=True))
        delivery = FakeDelivery(encode_task(task), redelivered)
        self.worker._on_delivery(delivery)
        return delivery


class Rules(MissingKeysTestCase):
    def test_waits(self) -> None:
        """The task is running and waits without a call. This is journalled every day. When the key
        is added, A is called at once.
        """
        delivery = self.withhold(1)
        self.clock.advance(0.9 * DAY_S)
        self.assertEqual(
            (delivery.settled, self.state(1), self.equipment.calls), (None, State.RUNNING, [])
        )
        self.assertEqual(self.journal.events, [Withheld(task_id(1), "DEVICE1", EPOCH, "gone")])
        self.clock.pump([DAY_S] * 30)
        self.assertEqual(
            (delivery.settled, self.state(1), len(self.journal.events)), (None, State.RUNNING, 31)
        )
        self.sealer.replace("plain", "gone")
        self.assertEqual(self.equipment.calls[0].body, BODY)
        self.equipment.calls[0].end()
        self.assertEqual((delivery.settled, self.state(1)), ("ack", State.COMPLETED))
        kinds = [type(event) for event in self.journal.events]
        self.assertEqual(kinds[30:], [Withheld, Withheld, Started, Finished])

    def test_another_key(self) -> None:
        """If the file changes and still lacks the key, the task waits."""
        self.withhold(1)
        self.sealer.replace("plain", "other")
        self.assertEqual((self.equipment.calls, self.missing_keys.waiting), ([], {"gone": 1}))

    def test_lane_and_slot(self) -> None:
        """Later tasks of the device wait too. Tasks of other devices are called: the task holds no
        slot.
        """
        self.withhold(1)
        self.deliver(2)
        self.deliver(3, "DEVICE2")
        self.assertEqual(self.equipment.under_way, [task_id(3)])
        self.sealer.replace("gone")
        self.equipment.calls[-1].end()
        self.assertEqual(self.equipment.under_way, [task_id(1)])

    def test_no_id(self) -> None:
        """A task without a key id that no key opens waits too."""
        delivery = self.withhold(1, key=None)
        self.assertEqual((delivery.settled, self.missing_keys.waiting), (None, {None: 1}))
        self.sealer.replace("plain", "other")
        self.assertEqual((delivery.settled, self.missing_keys.waiting), (None, {None: 1}))

    def test_tampered_with(self) -> None:
        """If the task's own key cannot open the body, the task has failed without a call. The
        reason is logged as an error.
        """
        with self.logged() as lines:
            delivery = self.deliver(1, sealed="?")
        self.assertEqual(
            (delivery.settled, self.state(1), self.equipment.calls), ("ack", State.FAILED, [])
        )
        self.assertEqual(
            lines[0],
            f"error: task {task_id(1)} has failed: its order cannot be opened: The body was"
            " tampered with",
        )

    def test_dropped_while_it_waits_for_a_slot(self) -> None:
        """If the key is removed while the task waits for a slot, the task waits for the key, and
        the slot is free.
        """
        self.deliver(1)
        self.deliver(2, "DEVICE2")
        self.sealer.replace("other")
        self.equipment.calls[0].end()
        self.assertEqual((self.equipment.under_way, self.missing_keys.waiting), ([], {"plain": 1}))
        self.sealer.replace("other", "plain")
        self.assertEqual(self.equipment.under_way, [task_id(2)])

    def test_ended_elsewhere(self) -> None:
        """A task that has ended is acknowledged without its key, whether it ended before its
        delivery or while it waited.
        """
        self.apply(Finished(task_id(1), "DEVICE1", EPOCH, State.COMPLETED, ""))
        self.assertEqual(self.withhold(1, redelivered=True).settled, "ack")
        delivery = self.withhold(2)
        finished = Finished(task_id(2), "DEVICE1", EPOCH, State.FAILED, "dead-lettered")
        self.apply(finished)
        self.missing_keys.on_event(finished)
        self.assertEqual(
            (delivery.settled, self.worker.held, self.missing_keys.waiting), ("ack", 0, {})
        )

    def test_lost(self) -> None:
        """The task is forgotten with the connection. When it is delivered again, it waits again,
        and nothing is journalled.
        """
        self.lose_connection(self.withhold(1))
        self.assertEqual((self.worker.held, self.missing_keys.waiting), (0, {}))
        self.withhold(1, redelivered=True)
        self.assertEqual((len(self.journal.events), self.missing_keys.waiting), (1, {"gone": 1}))

    def test_renewed(self) -> None:
        """A delivery that was held for long is replaced by a copy. The task adopts the copy and is
        called once.
        """
        first = self.withhold(1)
        self.worker.jobs[task_id(1)].released = True
        first.ack()
        second = self.withhold(1, redelivered=True)
        self.sealer.replace("gone")
        self.equipment.calls[0].end()
        self.assertEqual(
            (first.settled, second.settled, len(self.equipment.calls)), ("ack", "ack", 1)
        )

    def test_drained(self) -> None:
        """A worker that is stopped does not wait for keys."""
        delivery = self.withhold(1)
        self.successResultOf(self.drain())
        self.assertEqual((delivery.settled, self.missing_keys.waiting), (None, {}))

    def test_patience_stands_still(self) -> None:
        """While the key is missing no patience is used, also if another process takes over."""
        for other_process in (False, True):
            number = 2 if other_process else 1
            self.apply(Requested(task_id(number), "DEVICE1", EPOCH, key="gone", whole=True))
            self.apply(Started(task_id(number), "DEVICE1", EPOCH + self.clock.seconds() - 100.0, 1))
            if other_process:
                self.apply(
                    Withheld(task_id(number), "DEVICE1", EPOCH + self.clock.seconds(), "gone")
                )
                self.clock.advance(3 * DAY_S)
                self.sealer.replace("gone")
            delivery = self.withhold(number, redelivered=True)
            if not other_process:
                self.clock.advance(DAY_S)
                self.sealer.replace("gone")
            began = self.clock.seconds()
            while delivery.settled is None:
                if self.equipment.under_way:
                    self.equipment.calls[-1].break_off(EquipmentUnreachable("refused"))
                self.clock.advance(0.5)
                self.assertLess(self.clock.seconds() - began, 600.0)
            self.assertIs(self.state(number), State.FAILED)
            self.assertGreater(self.clock.seconds() - began, 490.0)
            self.sealer.replace("plain")

    def test_counted(self) -> None:
        """`unknown_total` counts the tasks that had to wait for a missing key."""
        for number in range(3):
            self.withhold(number, f"DEVICE{number}")
        self.assertEqual(self.missing_keys.unknown_total, 3)


class Log(MissingKeysTestCase):
    """The log reports missing keys as a state, and not for each task."""

    def test_states(self) -> None:
        """One line when tasks begin to wait, with their count; one when the count has doubled or
        halved, or after some minutes; one when the key was added.
        """
        with self.logged() as lines:
            for number in range(10):
                self.withhold(number, f"DEVICE{number}")
            self.clock.advance(FIRST_LOOK_S)
            self.assertEqual(len(lines), 1)
            self.assertEqual(
                lines[0],
                "error: sealing key gone is missing: 10 tasks wait for it; " + ADVICE + task_id(0),
            )
            for number in range(10, 19):
                self.withhold(number, f"DEVICE{number}")
            self.clock.advance(LOOK_EVERY_S)
            self.assertEqual(len(lines), 1)
            self.withhold(19, "DEVICE19")
            self.clock.advance(LOOK_EVERY_S)
            self.assertIn("20 tasks wait", lines[1])
            self.clock.pump([LOOK_EVERY_S] * int(REPEAT_AFTER_S / LOOK_EVERY_S))
            self.assertEqual(len(lines), 3)
            self.sealer.replace("gone")
            self.assertEqual(
                lines[3:],
                ["info: sealing key gone was added: 20 tasks that waited for it continue"],
            )

    def test_all_ended(self) -> None:
        """When no task waits any longer, one line says so, and no timer is left."""
        with self.logged() as lines:
            self.withhold(1)
            self.clock.advance(FIRST_LOOK_S)
            finished = Finished(task_id(1), "DEVICE1", EPOCH, State.FAILED, "")
            self.apply(finished)
            self.missing_keys.on_event(finished)
            self.clock.advance(LOOK_EVERY_S)
        self.assertEqual(lines[1:], ["info: no task waits for sealing key gone any longer"])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Backlog(KeysTestCase):
    """A worker that is started with another key file and a backlog."""

    def setUp(self) -> None:
        super().setUp()
        self.stop_worker()
        self.tasks = {
            f"DEVICE{number:04}": self.system.accepted(f"DEVICE{number:04}") for number in range(20)
        }
        self.second = self.system.accepted("DEVICE0000")
        self.replaced()

    def statuses(self) -> set[Any]:
        return {
            str(self.status(equipment_id, task_id)) for equipment_id, task_id in self.tasks.items()
        }

    def test_waits(self) -> None:
        """No task ends while the key is missing. When the file has the key, all tasks are called in
        order, each once.
        """
        self.system.network.advance(PATIENCE_S + 60)
        self.assertEqual(self.statuses(), {str(RUNNING)})
        self.file.replace([THEIRS, OURS])
        self.system.network.advance(2.5)
        self.assertEqual(self.statuses(), {str(COMPLETED)})
        self.assertEqual(self.status("DEVICE0000", self.second), RUNNING)
        self.system.network.advance(2.5)
        self.assertEqual(
            (self.status("DEVICE0000", self.second), self.system.stub.calls), (COMPLETED, 21)
        )

    def test_log_names_the_key(self) -> None:
        """The log says which key is missing and for how many tasks. It shows no key."""
        self.system.network.advance(60)
        missing = [line for line in self.errors if "is missing" in line]
        self.assertEqual(
            missing,
            [
                f"sealing key {OUR_ID} is missing: 20 tasks wait for it; "
                + ADVICE
                + self.tasks["DEVICE0000"]
            ],
        )
        self.assertTrue(
            any(
                f"the latest tasks are sealed with key {OUR_ID}" in line and THEIR_ID in line
                for line in self.errors
            )
        )
        for key in (OURS, THEIRS):
            self.assertEqual([event for event in self.events if key.decode() in event], [])

    def test_waits_for(self) -> None:
        """``waitsFor`` is ``key`` for these tasks and ``device`` for those behind them, on the
        active worker and on a standby that has the key.
        """
        self.system.network.advance(2)
        standby = self.system.start_worker()
        self.system.network.until(lambda: standby.connection.connected, 10.0)
        active = self.system.workers[0]
        for worker in (active, standby):
            now = self.system.wall_clock()
            details = worker.stores[0].details(self.tasks["DEVICE0001"], None, now)
            behind = worker.stores[0].details(self.second, None, now)
            assert (
                details is not None
                and behind is not None
                and details.waits_for is not None
                and behind.waits_for is not None
            )
            self.assertEqual(
                (details.state, details.waits_for.value, details.expected_at),
                (State.RUNNING, "key", None),
            )
            self.assertEqual(
                (behind.waits_for.value, behind.ahead, behind.expected_at), ("device", 1, None)
            )
        told = self.waits_for(self.tasks["DEVICE0001"])
        self.assertEqual(
            (told["state"], told["waitsFor"], told["expectedFinishAt"]),
            ("running", {"reason": "key", "tasksAhead": 0}, None),
        )
        self.file.replace([OURS])
        self.system.network.settle()
        self.assertIsNone(self.waits_for(self.tasks["DEVICE0001"])["waitsFor"])

    def test_cancelled(self) -> None:
        """A task that waits for its key can be cancelled. Then the next task of its device is the
        first.
        """
        path = f"/api/v1/equipment/cpe/DEVICE0000/task/{self.tasks['DEVICE0000']}"
        self.assertEqual(self.system.request("DELETE", path).json, CANCELLED)
        self.assertEqual(
            self.waits_for(self.second)["waitsFor"], {"reason": "key", "tasksAhead": 0}
        )
        self.file.replace([OURS])
        self.system.network.advance(2.5)
        self.assertEqual(
            (self.status("DEVICE0000", self.second), self.system.stub.calls), (COMPLETED, 20)
        )

    def test_another_worker_has_it(self) -> None:
        """The active worker stops at once although tasks wait. A standby that has the key completes
        them.
        """
        self.system.start_worker()
        self.system.network.advance(5)
        self.stop_worker()
        self.system.network.advance(2.5)
        self.assertEqual(self.statuses(), {str(COMPLETED)})

    def test_connections_break(self) -> None:
        """Waiting tasks survive lost connections and renewed deliveries."""
        for _ in range(2):
            self.system.network.cut("broker")
            self.system.network.advance(RENEW_AFTER_S + 60)
        self.assertEqual(self.statuses(), {str(RUNNING)})
        self.file.replace([OURS])
        self.system.network.advance(5)
        self.assertEqual((self.statuses(), self.system.stub.calls), ({str(COMPLETED)}, 21))


class SmallWindow(KeysTestCase):
    def make(self) -> System:
        from rtprov.worker import service as assembly

        self.patch(assembly, "WAITING_ROOM", 0)
        return System(delay_s=2.0, concurrency=1)

    def test_not_delivered_yet(self) -> None:
        """``waitsFor`` is also ``key`` for a task that the worker has not received yet, if other
        tasks wait for that key.
        """
        self.stop_worker()
        tasks = [self.system.accepted(f"DEVICE{number:04}") for number in range(5)]
        self.replaced()
        self.system.network.advance(1)
        self.assertEqual(self.system.workers[0].workers[0].held, 2)
        self.assertEqual(
            [self.waits_for(task)["waitsFor"]["reason"] for task in tasks], ["key"] * 5
        )
        self.file.replace([OURS])
        self.system.network.settle()
        self.assertEqual(self.waits_for(tasks[4])["waitsFor"]["reason"], "concurrency")


class Messages(KeysTestCase):
    """What messages of this version and of others say about their key."""

    theirs = (OURS,)

    def publish(self, task: Task) -> None:
        publisher = self.system.workers[0]._publisher
        publisher.publish(
            TASKS_EXCHANGE, Shard(0, 1).requested_key, encode_task(task), properties=persistent()
        )
        self.system.network.settle()

    def task(self, sealed: str, key: str | None) -> Task:
        return Task(task_id(1), "ABC123456", 14, self.system.wall_clock(), sealed, key=key)

    def test_earlier_version(self) -> None:
        """A message without a key id is opened with any key that fits."""
        self.publish(self.task(self.system.sealer.seal(BODY_OF_A), None))
        self.system.network.advance(3)
        self.assertEqual(self.status("ABC123456", task_id(1)), COMPLETED)

    def test_earlier_version_with_another_key(self) -> None:
        """A message without a key id that no key opens waits until the file has its key."""
        self.publish(self.task(FernetSealer([NEXT]).seal(BODY_OF_A), None))
        self.system.network.advance(PATIENCE_S + 60)
        self.assertEqual(self.status("ABC123456", task_id(1)), RUNNING)
        self.assertEqual(self.waits_for(task_id(1))["waitsFor"]["reason"], "key")
        self.file.replace([OURS, NEXT])
        self.system.network.advance(3)
        self.assertEqual(self.status("ABC123456", task_id(1)), COMPLETED)

    def test_tampered_with_and_no_id(self) -> None:
        """A damaged message without a key id cannot be told from one with a missing key, so it
        waits. The log says how to cancel it. Then the next task of its device is called.
        """
        sealed = self.system.sealer.seal(BODY_OF_A)
        self.publish(self.task(sealed[:-8] + "AAAAAA==", None))
        following = self.system.accepted("ABC123456")
        self.system.network.advance(3600)
        self.assertEqual(self.status("ABC123456", task_id(1)), RUNNING)
        nameless = "the key of tasks that do not name theirs (from an earlier version, or altered)"
        line = f"{nameless} is missing: 1 tasks wait for it; {ADVICE}{task_id(1)}"
        self.assertEqual(set(self.errors), {line})
        path = f"/api/v1/equipment/cpe/ABC123456/task/{task_id(1)}"
        self.assertEqual(self.system.request("DELETE", path).json, CANCELLED)
        self.system.network.advance(60)
        self.assertEqual(self.status("ABC123456", task_id(1)), CALLED_OFF)
        self.assertEqual(self.status("ABC123456", following), COMPLETED)
        self.assertEqual((self.system.workers[0].workers[0].held, self.system.stub.calls), (0, 1))
        over = [event for event in self.events if "no task waits for" in event]
        self.assertTrue(over and nameless in over[0])

    def test_tampered_with(self) -> None:
        """A task whose own key cannot open its body has failed. The log has the reason as an
        error.
        """
        sealed = self.system.sealer.seal(BODY_OF_A)
        self.publish(self.task(sealed[:-8] + "AAAAAA==", OUR_ID))
        self.system.network.advance(1)
        self.assertEqual(self.status("ABC123456", task_id(1)), FAILED)
        why = (
            f"The body cannot be opened with its sealing key {OUR_ID}: it was damaged or tampered"
            " with"
        )
        self.assertEqual(
            self.errors, [f"task {task_id(1)} has failed: its order cannot be opened: {why}"]
        )
        self.assertEqual(self.waits_for(task_id(1))["reason"], why)

    def test_the_id_travels(self) -> None:
        """The message of a front end has the id of its key, and not the key."""
        self.system.accepted("ABC123456")
        (body,) = [message for message in self.journal() if b'"requested"' in message]
        self.assertIn(b'"key":"%s"' % OUR_ID.encode(), body)
        self.assertNotIn(OURS, body)

    def journal(self) -> list[bytes]:
        stream = cast("Any", self.system.broker.virtual_host.queues[Shard(0, 1).journal])
        return [each.message.body for each in stream._tail]


BODY_OF_A = b'{"timeoutInSeconds": 14, "parameters": [{"vlan": 534}]}'
