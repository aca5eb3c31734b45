"""Attempts: calls that do not reach A, their patience, and calls that may kill the worker."""

from __future__ import annotations

import random

from rtprov.errors import EquipmentUnreachable, OutOfResources
from rtprov.model import Finished, Requested, Started, State
from rtprov.worker.attempts import SHORTAGE_PAUSE_S, retry_pause_s
from rtprov.worker.quarantine import GIVE_UP_AFTER
from tests.support.fakes import FakeDelivery
from tests.support.worker_case import EPOCH, WorkerTestCase, task_id


class Deadly(WorkerTestCase):
    """Tasks during whose calls other processes have died."""

    def crash_count(self, number: int, equipment_id: str, crash_count: int) -> FakeDelivery:
        """Deliver a task that was started, and not ended, in `crash_count` processes that have
        died.
        """
        self.apply(Requested(task_id(number), equipment_id, EPOCH, whole=True))
        for attempt in range(1, crash_count + 2):
            self.apply(Started(task_id(number), equipment_id, EPOCH, attempt, f"p0.{attempt}"))
        return self.deliver(number, equipment_id, redelivered=True)

    def test_suspects_run_alone_at_last(self) -> None:
        """Of several suspects, only one is called at a time. Other tasks are called beside it."""
        for number in range(3):
            self.crash_count(number, f"DEVICE{number}", 7)
        self.deliver(9, "DEVICE9")
        self.assertEqual(self.equipment.under_way, [task_id(0), task_id(9)])
        self.equipment.calls[0].end()
        self.assertEqual(self.equipment.under_way, [task_id(9), task_id(1)])

    def test_given_up(self) -> None:
        """A task that has killed too many processes goes to the dead letters without a call. The
        device's next task is called when the journal has its end.
        """
        delivery = self.crash_count(1, "DEVICE1", GIVE_UP_AFTER)
        self.assertEqual((delivery.settled, self.equipment.calls), ("dead", []))
        self.deliver(2)
        self.assertEqual(self.equipment.calls, [])
        self.apply(Finished(task_id(1), "DEVICE1", EPOCH, State.FAILED, "dead-lettered"))
        self.assertEqual(self.equipment.under_way, [task_id(2)])

    def test_ended_elsewhere(self) -> None:
        """A suspect that has ended is acknowledged at once, however many processes it has
        killed.
        """
        self.crash_count(1, "DEVICE1", 7)
        for number, crash_count in ((2, 7), (3, GIVE_UP_AFTER)):
            self.apply(Requested(task_id(number), f"DEVICE{number}", EPOCH, whole=True))
            for attempt in range(1, crash_count + 2):
                self.apply(
                    Started(task_id(number), f"DEVICE{number}", EPOCH, attempt, f"p0.{attempt}")
                )
            self.apply(Finished(task_id(number), f"DEVICE{number}", EPOCH, State.COMPLETED, ""))
            self.assertEqual(
                self.deliver(number, f"DEVICE{number}", redelivered=True).settled, "ack"
            )
        self.assertEqual(len(self.equipment.calls), 1)

    def test_drained(self) -> None:
        """A worker that is stopped does not wait for suspects that wait for each other."""
        for number in range(2):
            self.crash_count(number, f"DEVICE{number}", 7)
        drained = self.drain()
        self.equipment.calls[0].end()
        self.successResultOf(drained)
        self.assertEqual(len(self.equipment.calls), 1)


class Retries(WorkerTestCase):
    def fail_call(self, retry_after_s: float | None = None) -> None:
        self.equipment.calls[-1].break_off(EquipmentUnreachable("refused", retry_after_s))

    def test_an_outage_is_waited_out(self) -> None:
        """After an outage the task pauses without a slot, and is called again. Its attempts are
        journalled.
        """
        self.deliver(1)
        self.fail_call()
        self.assertEqual(self.equipment.under_way, [])
        self.assertIs(self.state(1), State.RUNNING)
        for number in range(2, 7):
            self.deliver(number, f"DEVICE{number}")
        self.assertEqual(len(self.equipment.under_way), 5)
        self.clock.advance(1.0)
        self.assertNotIn(task_id(1), self.equipment.under_way)
        self.equipment.calls[-1].end()
        self.assertIn(task_id(1), self.equipment.under_way)
        self.assertEqual(self.store.attempts(task_id(1)), 2)

    def test_patience(self) -> None:
        """The task is tried with growing pauses until its patience is over. Then it has failed."""
        delivery = self.deliver(1)
        while delivery.settled is None:
            self.fail_call()
            self.clock.advance(0)
            while not self.equipment.under_way and delivery.settled is None:
                self.clock.advance(0.5)
                self.assertLess(self.clock.seconds(), 700.0)
        self.assertGreaterEqual(self.clock.seconds(), 599.0)
        self.assertIs(self.state(1), State.FAILED)
        self.assertGreater(len(self.equipment.calls), 10)
        self.assertLess(len(self.equipment.calls), 40)

    def run_out(self, times: int) -> None:
        """Fail the next `times` attempts because this machine has no free file descriptor."""
        for _ in range(times):
            self.equipment.calls[-1].break_off(OutOfResources("no open file left"))
            self.clock.advance(SHORTAGE_PAUSE_S)

    def test_a_shortage_of_this_machine(self) -> None:
        """A call that lacks a file descriptor waits in its slot without limit. This does not count
        as an attempt.
        """
        delivery = self.deliver(1)
        self.run_out(2000)
        self.assertIsNone(delivery.settled)
        self.assertEqual(self.equipment.under_way, [task_id(1)])
        self.assertEqual(self.store.attempts(task_id(1)), 1)
        self.equipment.calls[-1].end()
        self.assertIs(self.state(1), State.COMPLETED)

    def test_a_shortage_costs_no_patience(self) -> None:
        """A shortage of file descriptors uses no patience."""
        delivery = self.deliver(1)
        self.run_out(2000)
        self.fail_call()
        self.assertIsNone(delivery.settled)
        self.clock.advance(1.0)
        self.assertEqual(self.store.attempts(task_id(1)), 2)
        for _ in range(10):
            self.clock.advance(600.0)
            if delivery.settled is None:
                self.fail_call()
        self.assertIs(self.state(1), State.FAILED)

    def test_a_shortage_is_no_trouble_of_a(self) -> None:
        """Calls that wait for file descriptors do not keep other calls from being made."""
        for number in range(4):
            self.deliver(number, f"DEVICE{number}")
            self.run_out(30)
        self.deliver(9, "DEVICE9")
        self.assertIn(task_id(9), self.equipment.under_way)

    def test_a_shortage_while_the_delivery_is_lost(self) -> None:
        """A call that waits for a file descriptor is not made if its delivery was lost, because
        another worker may have the task.
        """
        delivery = self.deliver(1)
        self.equipment.calls[-1].break_off(OutOfResources("no open file left"))
        delivery.lost = True
        self.clock.advance(SHORTAGE_PAUSE_S)
        self.assertEqual(len(self.equipment.calls), 1)

    def test_a_shortage_while_the_worker_stops(self) -> None:
        """A worker that is stopped does not wait for calls that could not begin."""
        self.deliver(1)
        self.equipment.calls[-1].break_off(OutOfResources("no open file left"))
        self.deliver(2, "DEVICE2")
        drained = self.drain()
        self.equipment.calls[-1].break_off(OutOfResources("no open file left"))
        self.successResultOf(drained)
        self.assertEqual(len(self.equipment.calls), 2)

    def test_patience_survives_a_failover(self) -> None:
        """Patience counts from the first attempt, whichever process made it."""
        self.apply(Started(task_id(1), "DEVICE1", EPOCH - 590.0, 7))
        delivery = self.deliver(1, redelivered=True)
        self.fail_call()
        self.clock.advance(11.0)
        self.assertEqual(self.store.attempts(task_id(1)), 9)
        self.fail_call()
        self.assertEqual(delivery.settled, "ack")
        self.assertIs(self.state(1), State.FAILED)

    def test_a_clock_that_is_set_ends_no_patience(self) -> None:
        """A step of the system's clock does not change the patience of a task that this process has
        called.
        """
        delivery = self.deliver(1)
        self.fail_call()
        self.set_clock(600.0)
        self.clock.advance(1.0)
        self.fail_call()
        self.set_clock(-1200.0)
        self.clock.advance(2.0)
        self.assertEqual(self.equipment.under_way, [task_id(1)])
        self.assertIsNone(delivery.settled)

    def test_a_clock_that_is_set_ends_no_patience_after_a_failover(self) -> None:
        """A step of the system's clock that this process has seen does not change the patience of a
        task that another process called before it.
        """
        self.store.apply(Started(task_id(1), "DEVICE1", EPOCH - 10.0, 1))
        self.clock.advance(1.0)
        self.set_clock(600.0)
        delivery = self.deliver(1, redelivered=True)
        self.fail_call()
        self.assertIsNone(delivery.settled)
        self.clock.advance(2.0)
        self.assertEqual(self.equipment.under_way, [task_id(1)])

    def test_retry_after_is_honoured(self) -> None:
        """The pause is at least as long as A's Retry-After."""
        self.deliver(1)
        self.fail_call(retry_after_s=100.0)
        self.clock.advance(99.9)
        self.assertEqual(self.equipment.under_way, [])
        self.clock.advance(0.2)
        self.assertEqual(self.equipment.under_way, [task_id(1)])

    def test_retry_after_beyond_patience(self) -> None:
        """If A's Retry-After exceeds the rest of the patience, the task has failed at once."""
        delivery = self.deliver(1)
        self.fail_call(retry_after_s=601.0)
        self.assertEqual(delivery.settled, "ack")
        self.assertIs(self.state(1), State.FAILED)

    def test_pauses(self) -> None:
        """Pauses double from 1 s to 60 s, jittered down to one half."""
        rng = random.Random(1)
        for attempt, longest in ((1, 1.0), (2, 2.0), (6, 32.0), (7, 60.0), (1000, 60.0)):
            pauses = [retry_pause_s(attempt, rng) for _ in range(50)]
            self.assertTrue(
                all(longest / 2 <= pause <= longest for pause in pauses), (attempt, pauses)
            )
            self.assertGreater(len(set(pauses)), 10)
