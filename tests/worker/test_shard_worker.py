"""The worker's rules without broker and A: order, adoption, judgement, failures, drain."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from twisted.internet.defer import Deferred

from rtprov.errors import EquipmentUnreachable
from rtprov.model import Event, Finished, Started, State
from rtprov.worker import shard_worker as worker
from rtprov.worker.run_failures import FIRST_FAILURE_PAUSE_S, MAX_FAILURES, failure_pause_s
from tests.support.fakes import (
    FakeDelivery,
    FakeJournal,
)
from tests.support.worker_case import BODY, EPOCH, WorkerTestCase, task_id


class OneTask(WorkerTestCase):
    def test_finish_then_acknowledge(self) -> None:
        """The delivery is acknowledged only after the outcome is in the journal."""
        delivery = self.deliver(1)
        self.assertEqual(self.equipment.calls[0].body, BODY)
        self.journal.up = False
        self.equipment.calls[0].end()
        self.assertIsNone(delivery.settled)
        self.journal.come_up()
        self.assertEqual(delivery.settled, "ack")
        self.assertEqual(self.worker.held, 0)
        started, finished = self.journal.events
        self.assertEqual(started, Started(task_id(1), "DEVICE1", EPOCH, 1, "p1"))
        self.assertIsInstance(finished, Finished)
        self.assertIs(self.state(1), State.COMPLETED)

    def test_each_outcome_is_journalled(self) -> None:
        """A's answer becomes the final state of the task."""
        for number, state in enumerate((State.COMPLETED, State.FAILED, State.NOT_FOUND), 1):
            self.deliver(number)
            self.equipment.calls[-1].end(state)
            self.assertIs(self.state(number), state)

    def test_a_message_that_is_no_task(self) -> None:
        """A message that cannot be decoded goes to the dead letters. Other messages are
        processed.
        """
        delivery = FakeDelivery(b"not ours")
        self.worker._on_delivery(delivery)
        self.assertEqual(delivery.settled, "dead")
        self.deliver(1)
        self.assertEqual(self.equipment.under_way, [task_id(1)])

    def test_tampered_with(self) -> None:
        """If the task's own key cannot open the body, the task has failed without a call."""
        delivery = self.deliver(1, sealed="?")
        self.assertEqual(delivery.settled, "ack")
        self.assertIs(self.state(1), State.FAILED)
        self.assertEqual(self.equipment.calls, [])

    def test_a_message_that_is_our_undoing(self) -> None:
        """A message whose decoding raises an unexpected error goes to the dead letters."""
        self.patch(worker, "decode_task", lambda body: 1 // 0)
        delivery = self.deliver(1)
        self.assertEqual((delivery.settled, self.worker.held), ("dead", 0))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class FailingJournal(FakeJournal):
    """A journal that fails on the next event of each type in `fails`, in this order."""

    def __init__(self, apply: Callable[[Event], None]) -> None:
        super().__init__(apply)
        self.fails: list[type] = []

    def append(self, event: Event) -> Deferred[None]:
        if self.fails and isinstance(event, self.fails[0]):
            raise ZeroDivisionError(self.fails.pop(0))
        return super().append(event)


class Failures(WorkerTestCase):
    """Internal errors while a task is processed."""

    journal: FailingJournal

    def new_journal(self) -> FailingJournal:
        return FailingJournal(self.apply)

    def fail_run(self) -> None:
        self.equipment.calls[-1].break_off(ZeroDivisionError())

    def test_tried_again(self) -> None:
        """A failed run is repeated with the same delivery. The device's other tasks wait, those of
        other devices do not.
        """
        delivery = self.deliver(1)
        self.fail_run()
        self.deliver(2)
        self.deliver(9, "DEVICE2")
        self.assertEqual(self.equipment.under_way, [task_id(9)])
        self.clock.advance(FIRST_FAILURE_PAUSE_S)
        self.assertEqual(self.equipment.under_way, [task_id(9), task_id(1)])
        self.equipment.calls[-1].end()
        self.assertEqual((delivery.settled, self.state(1)), ("ack", State.COMPLETED))
        self.assertEqual(self.equipment.under_way, [task_id(9), task_id(2)])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_without_end(self) -> None:
        """A task that fails ten times, with growing pauses over two minutes, goes to the dead
        letters.
        """
        delivery = self.deliver(1)
        began = [self.clock.seconds()]
        self.fail_run()
        while delivery.settled is None:
            self.clock.advance(0.5)
            if len(self.equipment.calls) > len(began):
                began.append(self.clock.seconds())
                self.fail_run()
        pauses = [after - before for before, after in pairwise(began)]
        self.assertEqual(pauses, [0.5, 1, 2, 4, 8, 16, 30, 30, 30])
        self.assertEqual((delivery.settled, self.worker.held), ("dead", 0))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), MAX_FAILURES)

    def test_the_journal_fails(self) -> None:
        """An error of the journal before or after the call is also a failed run."""
        self.journal.fails = [Started, Finished]
        delivery = self.deliver(1)
        self.clock.advance(failure_pause_s(1))
        self.equipment.calls[-1].end()
        self.assertIsNone(delivery.settled)
        self.clock.advance(failure_pause_s(2))
        self.equipment.calls[-1].end()
        self.assertEqual(
            (delivery.settled, self.state(1), self.journal.fails), ("ack", State.COMPLETED, [])
        )
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_ended_elsewhere(self) -> None:
        """A task that has ended meanwhile is not called again."""
        delivery = self.deliver(1)
        self.fail_run()
        self.journal.append(Finished(task_id(1), "DEVICE1", EPOCH, State.COMPLETED, ""))
        self.clock.advance(FIRST_FAILURE_PAUSE_S)
        self.assertEqual((delivery.settled, len(self.equipment.calls)), ("ack", 1))
        self.flushLoggedErrors(ZeroDivisionError)

    def test_connection_lost(self) -> None:
        """Failures are counted across deliveries of the same message."""
        first = self.deliver(1)
        self.fail_run()
        first.lost = True
        self.worker.detach()
        again = self.deliver(1, redelivered=True)
        for failures in range(1, MAX_FAILURES):
            self.assertIsNone(again.settled)
            self.clock.advance(failure_pause_s(failures))
            self.fail_run()
        self.assertEqual(again.settled, "dead")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), MAX_FAILURES)

    def test_drained(self) -> None:
        """A worker that drains does not wait for a pause. The delivery stays unsettled."""
        for late in (False, True):
            delivery = self.deliver(1 + late, f"DEVICE{late}")
            if not late:
                self.fail_run()
        drained = self.drain()
        self.assertNoResult(drained)
        self.fail_run()
        self.successResultOf(drained)
        self.assertEqual((delivery.settled, self.worker.held), (None, 0))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)


class Order(WorkerTestCase):
    def test_one_call_a_device(self) -> None:
        """The tasks of a device are called one after the other, in order. Other devices do not
        wait.
        """
        for number in (1, 2, 3):
            self.deliver(number)
        self.deliver(9, "DEVICE2")
        self.assertEqual(self.equipment.under_way, [task_id(1), task_id(9)])
        self.equipment.calls[0].end(State.FAILED)
        self.assertEqual(self.equipment.under_way, [task_id(9), task_id(2)])

    def test_the_next_task_waits_for_the_journal(self) -> None:
        """A device's next task starts only after the outcome of the one before is in the
        journal.
        """
        self.deliver(1)
        self.deliver(2)
        self.journal.up = False
        self.equipment.calls[0].end()
        self.assertEqual(self.equipment.under_way, [])
        self.journal.come_up()
        self.assertEqual(self.equipment.under_way, [task_id(2)])

    def test_slots(self) -> None:
        """At most `concurrency` calls run. Tasks that wait for their device use no slot."""
        for number in range(20):
            self.deliver(number, "DEVICE1")
        for number in range(20, 30):
            self.deliver(number, f"DEVICE{number}")
        self.assertEqual(
            self.equipment.under_way, [task_id(number) for number in (0, 20, 21, 22, 23)]
        )
        self.equipment.calls[1].end()
        self.assertEqual(len(self.equipment.under_way), 5)


class Reconnection(WorkerTestCase):
    def test_adoption(self) -> None:
        """A running call survives the loss of the connection. Its redelivered message only renews
        the delivery.
        """
        first = self.deliver(1)
        self.lose_connection(first)
        again = self.deliver(1, redelivered=True)
        self.assertEqual(len(self.equipment.calls), 1)
        self.equipment.calls[0].end()
        self.assertEqual((first.settled, again.settled), (None, "ack"))
        self.assertIs(self.state(1), State.COMPLETED)

    def test_finished_while_the_broker_was_away(self) -> None:
        """If a call ends while the broker is unreachable, its outcome is journalled later and the
        redelivered message is acknowledged.
        """
        first = self.deliver(1)
        self.journal.up = False
        self.lose_connection(first)
        self.equipment.calls[0].end()
        again = self.deliver(1, redelivered=True)
        self.assertIsNone(again.settled)
        self.journal.come_up()
        self.assertEqual(again.settled, "ack")
        self.assertEqual(len(self.equipment.calls), 1)

    def test_finished_before_the_redelivery(self) -> None:
        """A redelivered task that has ended is acknowledged after a barrier, without a call."""
        self.apply(Finished(task_id(1), "DEVICE1", EPOCH, State.COMPLETED, ""))
        delivery = self.deliver(1, redelivered=True)
        self.assertEqual(
            (delivery.settled, self.equipment.calls, self.journal.barriers), ("ack", [], 1)
        )

    def test_waiting_tasks_are_forgotten(self) -> None:
        """Waiting tasks are dropped with the connection, and are delivered again in order."""
        deliveries = [self.deliver(number) for number in (1, 2, 3)]
        self.lose_connection(*deliveries)
        self.assertEqual(self.worker.held, 1)
        for number in (1, 2, 3):
            self.deliver(number, redelivered=True)
        for number in (1, 2, 3):
            self.assertEqual(self.equipment.under_way, [task_id(number)])
            self.equipment.calls[-1].end()

    def test_no_call_begins_without_a_delivery(self) -> None:
        """A task that pauses when the connection is lost is dropped at its next attempt. Its
        redelivered message starts a new job.
        """
        delivery = self.deliver(1)
        self.equipment.calls[0].break_off(EquipmentUnreachable("refused"))
        self.lose_connection(delivery)
        self.clock.advance(2.0)
        self.assertEqual((len(self.equipment.calls), self.worker.held), (1, 0))
        self.deliver(1, redelivered=True)
        self.assertEqual(len(self.equipment.calls), 2)

    def test_a_barrier_that_fails_is_asked_again(self) -> None:
        """A redelivered task is not judged without a barrier. If the barrier fails, the worker asks
        for another one.
        """
        self.journal.barrier_fails = True
        self.deliver(1, redelivered=True)
        self.clock.pump([0.5] * 10)
        self.assertEqual(self.equipment.calls, [])
        self.journal.barrier_fails = False
        self.clock.advance(1.0)
        self.assertEqual(self.equipment.under_way, [task_id(1)])

    def test_adopted_tasks_are_judged_again(self) -> None:
        """A paused task that has ended elsewhere while the connection was lost is only
        acknowledged.
        """
        delivery = self.deliver(1)
        self.equipment.calls[0].break_off(EquipmentUnreachable("refused"))
        self.lose_connection(delivery)
        self.apply(Finished(task_id(1), "DEVICE1", EPOCH, State.COMPLETED, ""))
        again = self.deliver(1, redelivered=True)
        self.clock.advance(2.0)
        self.assertEqual((again.settled, len(self.equipment.calls)), ("ack", 1))


class Drain(WorkerTestCase):
    def test_running_calls_end_and_no_other_begins(self) -> None:
        """Drain waits for running calls, and leaves all other messages unsettled."""
        running, waiting = self.deliver(1), self.deliver(2)
        paused = self.deliver(3, "DEVICE3")
        self.equipment.calls[1].break_off(EquipmentUnreachable("refused"))
        drained = self.drain()
        late = self.deliver(4, "DEVICE4")
        self.clock.advance(10.0)
        self.assertNoResult(drained)
        self.equipment.calls[0].end()
        self.assertIsNone(self.successResultOf(drained))
        self.assertEqual(
            [each.settled for each in (running, waiting, paused, late)], ["ack", None, None, None]
        )
        self.assertEqual(len(self.equipment.calls), 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_call_that_breaks_off_during_drain_is_not_repeated(self) -> None:
        """If a call has an outage during drain, it is not repeated and its message stays
        unsettled.
        """
        delivery = self.deliver(1)
        drained = self.drain()
        self.equipment.calls[0].break_off(EquipmentUnreachable("refused"))
        self.assertIsNone(self.successResultOf(drained))
        self.assertIsNone(delivery.settled)

    def test_the_deadline(self) -> None:
        """Calls that still run at the deadline are cancelled, and their messages stay unsettled."""
        delivery = self.deliver(1)
        drained = self.drain(120.0)
        self.clock.advance(119.0)
        self.assertNoResult(drained)
        self.clock.advance(1.0)
        self.assertIsNone(self.successResultOf(drained))
        self.assertTrue(self.equipment.calls[0].cancelled)
        self.assertIsNone(delivery.settled)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_to_drain(self) -> None:
        """Drain of an idle worker ends at once."""
        self.assertIsNone(self.successResultOf(self.drain()))
