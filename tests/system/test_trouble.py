"""Tasks during an outage of A: by the worker's rules alone, and in the whole system in memory."""

from __future__ import annotations

import re

from rtprov.equipment.scenario import Rule
from rtprov.errors import EquipmentSilent, EquipmentUnreachable
from rtprov.model import Finished, Started, State
from rtprov.worker.circuit_breaker import FAILURE_THRESHOLD, LONGEST_PROBE_S
from tests.support.fakes import FakeDelivery
from tests.support.scale import slow
from tests.support.system import REQUEST, System
from tests.support.system_case import COMPLETED, FAILED, RUNNING, SystemTestCase
from tests.support.worker_case import EPOCH, WorkerTestCase, task_id


class WorkerInTrouble(WorkerTestCase):
    concurrency = 50

    def bring_trouble(self) -> list[FakeDelivery]:
        """Let tasks 0 to 9 find that A cannot be reached."""
        deliveries = [
            self.deliver(number, f"DEVICE{number}") for number in range(FAILURE_THRESHOLD)
        ]
        for call in self.equipment.calls:
            call.break_off(EquipmentUnreachable("refused"))
        return deliveries

    def test_no_call_is_made(self) -> None:
        """After several outages in a row new tasks wait without an attempt. Only one task at a time
        is called, as a probe.
        """
        self.bring_trouble()
        for number in range(10, 110):
            self.deliver(number, f"DEVICE{number}")
        self.assertEqual(len(self.equipment.calls), FAILURE_THRESHOLD)
        for calls in range(1, 6):
            self.clock.pump([0.1] * 310)
            self.assertEqual(len(self.equipment.calls), FAILURE_THRESHOLD + calls)
            self.equipment.calls[-1].break_off(EquipmentUnreachable("refused"))
        self.assertEqual(self.store.attempts(task_id(109)), 0)

    def test_back_again(self) -> None:
        """When A answers a probe, all tasks are called, a few at first."""
        self.bring_trouble()
        deliveries = [self.deliver(number, f"DEVICE{number}") for number in range(10, 60)]
        self.clock.pump([0.1] * 11)
        self.assertEqual(self.equipment.under_way, [task_id(10)])
        self.equipment.calls[-1].end()
        self.assertEqual(len(self.equipment.under_way), 5)
        self.clock.pump([0.1] * 100)
        self.assertEqual(len(self.equipment.under_way), 50)
        while self.equipment.under_way:
            for call in self.equipment.calls:
                if not call.outcome.called:
                    call.end()
        self.assertEqual({delivery.settled for delivery in deliveries}, {"ack"})

    def test_patience_of_a_task_that_was_never_called(self) -> None:
        """A task that arrives during an outage waits for its patience, and then fails without a
        call.
        """
        self.bring_trouble()
        deliveries = [self.deliver(number, f"DEVICE{number}") for number in range(100, 110)]
        self.clock.pump([1.0] * 599)
        called = len(self.equipment.calls) - FAILURE_THRESHOLD
        self.assertLess(called, 9)  # a probe that hangs is joined by another one after 90 s
        self.assertEqual([delivery.settled for delivery in deliveries], [None] * 10)
        self.clock.pump([1.0] * 2)
        self.assertEqual(
            [delivery.settled for delivery in deliveries], [None] * called + ["ack"] * (10 - called)
        )
        self.assertEqual(
            (self.state(109, "DEVICE109"), self.store.attempts(task_id(109))), (State.FAILED, 0)
        )

    def test_patience_of_a_task_that_was_called(self) -> None:
        """A task that was called during an outage fails when its patience, counted from its first
        attempt, is over.
        """
        deliveries = self.bring_trouble()
        while any(delivery.settled is None for delivery in deliveries):
            self.clock.advance(1.0)
            for call in self.equipment.calls:
                if not call.outcome.called:
                    call.break_off(EquipmentUnreachable("refused"))
            self.assertLess(self.clock.seconds(), 603.0)
        self.assertGreaterEqual(self.clock.seconds(), 599.0)
        self.assertEqual(
            {self.state(number, f"DEVICE{number}") for number in range(FAILURE_THRESHOLD)},
            {State.FAILED},
        )
        self.assertLess(
            len(self.equipment.calls),
            FAILURE_THRESHOLD + 2 * self.patience_s / LONGEST_PROBE_S + 10,
        )

    def test_silence(self) -> None:
        """No answer in time is final for the task. Several in a row count as an outage of A."""
        deliveries = [
            self.deliver(number, f"DEVICE{number}") for number in range(FAILURE_THRESHOLD)
        ]
        for call in self.equipment.calls:
            call.break_off(EquipmentSilent("A gave no answer within 90 s"))
        self.assertEqual({delivery.settled for delivery in deliveries}, {"ack"})
        self.assertIs(self.state(0, "DEVICE0"), State.FAILED)
        self.deliver(99, "DEVICE99")
        self.assertEqual(self.equipment.under_way, [])

    def test_busy_devices_among_others(self) -> None:
        """Busy devices, each with Retry-After, delay no other task as long as A answers other calls
        in between.
        """
        for number in range(0, 200, 2):
            self.deliver(number, f"BUSY{number:06}")
            self.equipment.calls[-1].break_off(EquipmentUnreachable("A answered HTTP 503", 1000.0))
            well = self.deliver(number + 1, f"DEVICE{number}")
            self.equipment.calls[-1].end()
            self.assertEqual(well.settled, "ack")

    def test_drain(self) -> None:
        """A worker that stops during an outage starts no call, and leaves all tasks to the
        broker.
        """
        deliveries = [*self.bring_trouble(), self.deliver(99, "DEVICE99")]
        drained = self.drain()
        self.assertIsNone(self.successResultOf(drained))
        self.clock.advance(1000.0)
        self.assertEqual({delivery.settled for delivery in deliveries}, {None})
        self.assertEqual(len(self.equipment.calls), FAILURE_THRESHOLD)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_broker_goes(self) -> None:
        """A task that waits for A's recovery is forgotten when the connection is lost, and waits
        again when it is redelivered.
        """
        self.bring_trouble()
        delivery = self.deliver(99, "DEVICE99")
        self.lose_connection(delivery)
        self.assertEqual(self.store.attempts(task_id(99)), 0)
        self.deliver(99, "DEVICE99", redelivered=True)
        self.clock.advance(1.1)
        self.assertEqual(self.equipment.under_way, [task_id(99)])

    def test_finished_elsewhere(self) -> None:
        """A task that was redelivered, has finished on another worker, and runs out of patience
        here is only acknowledged.
        """
        self.bring_trouble()
        self.store.apply(Started(task_id(99), "DEVICE99", EPOCH - 600.0, 1))
        delivery = self.deliver(99, "DEVICE99", redelivered=True)
        self.store.apply(Finished(task_id(99), "DEVICE99", EPOCH, State.COMPLETED, ""))
        self.clock.advance(0.1)
        self.clock.advance(1.0)
        self.assertEqual(delivery.settled, "ack")
        self.assertFalse(
            any(
                isinstance(event, Finished) and event.task_id == task_id(99)
                for event in self.journal.events
            )
        )


class SystemInTroubleTestCase(SystemTestCase):
    """The whole system in memory, with many devices at once."""

    def make(self) -> System:
        return System(delay_s=2.0, concurrency=20)

    def submit(self, count: int, word: str = "DEVICE") -> list[tuple[str, str]]:
        names = [f"{word}{number:04}" for number in range(count)]
        posts = [
            self.system.send("POST", f"/api/v1/equipment/cpe/{name}", REQUEST) for name in names
        ]
        self.system.network.until(lambda: all(post.called for post in posts))
        return [
            (name, self.successResultOf(post).json["taskId"])
            for name, post in zip(names, posts, strict=True)
        ]

    def count(self, tasks: list[tuple[str, str]], status: tuple[int, object]) -> int:
        return sum(self.status(*task) == status for task in tasks)

    def said(self, text: str) -> int:
        return sum(bool(re.search(text, event)) for event in self.events)


class Away(SystemInTroubleTestCase):
    """A refuses all connections."""

    @slow
    def test_a_is_down_for_a_minute(self) -> None:
        """A hundred tasks wait while A refuses connections. A gets few attempts. When it is back,
        all tasks are completed with one call each.
        """
        factory = self.system.network.factories.pop("a")
        tasks = self.submit(100)
        self.system.network.advance(60)
        self.assertEqual(self.count(tasks, RUNNING), 100)
        attempts = sum(self.system.workers[0].stores[0].attempts(task_id) for _, task_id in tasks)
        self.assertLess(attempts, 20 + FAILURE_THRESHOLD + 10)
        self.system.network.factories["a"] = factory
        self.system.network.advance(120)
        self.assertEqual(self.count(tasks, COMPLETED), 100)
        self.assertEqual(self.system.stub.calls, 100)
        self.assertEqual(
            (self.said("one call at a time probes it"), self.said("A has recovered")), (1, 1)
        )

    @slow
    def test_a_stays_away(self) -> None:
        """If A does not come back, every task fails when its patience is over, without a call for
        each.
        """
        self.system.network.factories.pop("a")
        tasks = self.submit(100)
        self.system.network.advance(595)
        self.assertEqual(self.count(tasks, RUNNING), 100)
        self.system.network.advance(10)
        self.assertEqual(self.count(tasks, FAILED), 100)
        self.assertEqual(self.said("one call at a time probes it"), 1)


class AllBusy(SystemInTroubleTestCase):
    def make(self) -> System:
        busy = Rule(re.compile("SWAMPED.*"), 503, retry_after=5, times=1)
        return System(delay_s=2.0, concurrency=20, rules=[busy])

    @slow
    def test_everybody_is_busy_once(self) -> None:
        """If A answers 503 once for every device, all tasks are completed within their patience,
        also later ones.
        """
        swamped, others = self.submit(100, "SWAMPED"), self.submit(20)
        self.system.network.advance(300)
        self.assertEqual((self.count(swamped, COMPLETED), self.count(others, COMPLETED)), (100, 20))
        self.assertEqual(self.system.stub.calls, 220)
