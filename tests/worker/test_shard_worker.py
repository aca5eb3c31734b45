"""The worker's rules: order, adoption, judgement, retries, drain; with no broker and no A."""

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
        """The delivery is acknowledged once the outcome is in the journal, and not before."""
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
        """A's word becomes the task's final state."""
        for number, state in enumerate((State.COMPLETED, State.FAILED, State.NOT_FOUND), 1):
            self.deliver(number)
            self.equipment.calls[-1].end(state)
            self.assertIs(self.state(number), state)

    def test_a_message_that_is_no_task(self) -> None:
        """What cannot be decoded goes to the dead letters, and the rest goes on."""
        delivery = FakeDelivery(b"not ours")
        self.worker._on_delivery(delivery)
        self.assertEqual(delivery.settled, "dead")
        self.deliver(1)
        self.assertEqual(self.equipment.under_way, [task_id(1)])

    def test_tampered_with(self) -> None:
        """A body that its own key does not open ends its task as failed, without a call."""
        delivery = self.deliver(1, sealed="?")
        self.assertEqual(delivery.settled, "ack")
        self.assertIs(self.state(1), State.FAILED)
        self.assertEqual(self.equipment.calls, [])

    def test_a_message_that_is_our_undoing(self) -> None:
        """So does what decoding fails on in an unexpected way."""
        self.patch(worker, "decode_task", lambda body: 1 // 0)
        delivery = self.deliver(1)
        self.assertEqual((delivery.settled, self.worker.held), ("dead", 0))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class FailingJournal(FakeJournal):
    """Raises an error of ours on the next event of each kind in `fails`, in their order."""

    def __init__(self, apply: Callable[[Event], None]) -> None:
        super().__init__(apply)
        self.fails: list[type] = []

    def append(self, event: Event) -> Deferred[None]:
        if self.fails and isinstance(event, self.fails[0]):
            raise ZeroDivisionError(self.fails.pop(0))
        return super().append(event)


class Failures(WorkerTestCase):
    """The worker's own errors, in the run of a task."""

    journal: FailingJournal

    def new_journal(self) -> FailingJournal:
        return FailingJournal(self.apply)

    def fail_run(self) -> None:
        self.equipment.calls[-1].break_off(ZeroDivisionError())

    def test_tried_again(self) -> None:
        """A run that fails is repeated with the same delivery, and the task's device waits for it;
        others do not.
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
        """One that always fails goes to the dead letters after ten runs, in two minutes, with
        pauses that grow.
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
        """An error in front of the call, or behind it, is one of the run, too."""
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
        """What has ended meanwhile is not called again."""
        delivery = self.deliver(1)
        self.fail_run()
        self.journal.append(Finished(task_id(1), "DEVICE1", EPOCH, State.COMPLETED, ""))
        self.clock.advance(FIRST_FAILURE_PAUSE_S)
        self.assertEqual((delivery.settled, len(self.equipment.calls)), ("ack", 1))
        self.flushLoggedErrors(ZeroDivisionError)

    def test_connection_lost(self) -> None:
        """The count goes on with the next delivery of the same message."""
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
        """A worker that drains waits for no pause: the delivery goes back with the connection."""
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
        """A device's tasks are called one after the other, in order; other devices do not wait."""
        for number in (1, 2, 3):
            self.deliver(number)
        self.deliver(9, "DEVICE2")
        self.assertEqual(self.equipment.under_way, [task_id(1), task_id(9)])
        self.equipment.calls[0].end(State.FAILED)
        self.assertEqual(self.equipment.under_way, [task_id(9), task_id(2)])

    def test_the_next_task_waits_for_the_journal(self) -> None:
        """A device's next task starts only once the outcome of the one before is safe."""
        self.deliver(1)
        self.deliver(2)
        self.journal.up = False
        self.equipment.calls[0].end()
        self.assertEqual(self.equipment.under_way, [])
        self.journal.come_up()
        self.assertEqual(self.equipment.under_way, [task_id(2)])

    def test_slots(self) -> None:
        """No more calls than slots are under way; waiting tasks of one device hold none."""
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
        """A running call survives the loss of the connection, and its message, redelivered, only
        renews the delivery.
        """
        first = self.deliver(1)
        self.lose_connection(first)
        again = self.deliver(1, redelivered=True)
        self.assertEqual(len(self.equipment.calls), 1)
        self.equipment.calls[0].end()
        self.assertEqual((first.settled, again.settled), (None, "ack"))
        self.assertIs(self.state(1), State.COMPLETED)

    def test_finished_while_the_broker_was_away(self) -> None:
        """A call that ends meanwhile is journalled when the broker is back, and the redelivered
        message is acknowledged.
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
        """A redelivered task that the journal knows as finished is acknowledged, behind a barrier,
        without a call.
        """
        self.apply(Finished(task_id(1), "DEVICE1", EPOCH, State.COMPLETED, ""))
        delivery = self.deliver(1, redelivered=True)
        self.assertEqual(
            (delivery.settled, self.equipment.calls, self.journal.barriers), ("ack", [], 1)
        )

    def test_waiting_tasks_are_forgotten(self) -> None:
        """Tasks that wait in a lane are dropped with the connection, and come back in order."""
        deliveries = [self.deliver(number) for number in (1, 2, 3)]
        self.lose_connection(*deliveries)
        self.assertEqual(self.worker.held, 1)
        for number in (1, 2, 3):
            self.deliver(number, redelivered=True)
        for number in (1, 2, 3):
            self.assertEqual(self.equipment.under_way, [task_id(number)])
            self.equipment.calls[-1].end()

    def test_no_call_begins_without_a_delivery(self) -> None:
        """A task that pauses when the connection goes is let go at its next attempt; its message
        makes it a new job.
        """
        delivery = self.deliver(1)
        self.equipment.calls[0].break_off(EquipmentUnreachable("refused"))
        self.lose_connection(delivery)
        self.clock.advance(2.0)
        self.assertEqual((len(self.equipment.calls), self.worker.held), (1, 0))
        self.deliver(1, redelivered=True)
        self.assertEqual(len(self.equipment.calls), 2)

    def test_a_barrier_that_fails_is_asked_again(self) -> None:
        """Without a barrier no redelivered task is judged; it is asked for again."""
        self.journal.barrier_fails = True
        self.deliver(1, redelivered=True)
        self.clock.pump([0.5] * 10)
        self.assertEqual(self.equipment.calls, [])
        self.journal.barrier_fails = False
        self.clock.advance(1.0)
        self.assertEqual(self.equipment.under_way, [task_id(1)])

    def test_adopted_tasks_are_judged_again(self) -> None:
        """A paused task that was finished elsewhere while we were away is only acknowledged."""
        delivery = self.deliver(1)
        self.equipment.calls[0].break_off(EquipmentUnreachable("refused"))
        self.lose_connection(delivery)
        self.apply(Finished(task_id(1), "DEVICE1", EPOCH, State.COMPLETED, ""))
        again = self.deliver(1, redelivered=True)
        self.clock.advance(2.0)
        self.assertEqual((again.settled, len(self.equipment.calls)), ("ack", 1))


class Drain(WorkerTestCase):
    def test_running_calls_end_and_no_other_begins(self) -> None:
        """Drain waits for the running call, and leaves everything else unsettled for the broker to
        deliver elsewhere.
        """
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
        """An outage during drain leaves the task to the next worker at once."""
        delivery = self.deliver(1)
        drained = self.drain()
        self.equipment.calls[0].break_off(EquipmentUnreachable("refused"))
        self.assertIsNone(self.successResultOf(drained))
        self.assertIsNone(delivery.settled)

    def test_the_deadline(self) -> None:
        """Calls that outlive the deadline are cancelled, and their tasks left to the broker."""
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
        """An idle worker drains at once."""
        self.assertIsNone(self.successResultOf(self.drain()))
