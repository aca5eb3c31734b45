"""What a worker does with its tasks when the connection is lost, or when another worker may have
had them meanwhile.
"""

from __future__ import annotations

import tracemalloc
from typing import cast

from attrs import define

from rtprov.amqp.client.channel import AmqpChannel
from rtprov.errors import EquipmentUnreachable
from rtprov.messaging.event_messages import encode_task
from rtprov.model import Finished, Requested, Started, State, Task
from tests.support.fakes import FakeDelivery, PlainSealer
from tests.support.worker_case import BODY, EPOCH, WorkerTestCase, task_id


@define
class FakeChannel:
    closed: bool = False


class NotBegun(WorkerTestCase):
    """Tasks whose call has not begun when the connection is lost."""

    concurrency = 1

    def test_a_task_that_waits_for_a_slot(self) -> None:
        """A task that waits for a slot is forgotten with the connection. No attempt is journalled
        for it.
        """
        first, second = self.deliver(1, "DEVICE1"), self.deliver(2, "DEVICE2")
        self.lose_connection(first, second)
        self.assertEqual(self.worker.held, 1)
        self.equipment.calls[0].end()
        self.assertEqual(self.store.attempts(task_id(2)), 0)
        self.deliver(2, "DEVICE2", redelivered=True)
        self.assertEqual(self.equipment.under_way, [task_id(2)])
        self.assertEqual(self.store.attempts(task_id(2)), 1)

    def test_an_attempt_that_waits_for_the_journal(self) -> None:
        """Patience does not count from an attempt that was not made because the broker was
        unreachable.
        """
        self.journal.up = False
        delivery = self.deliver(1)
        self.lose_connection(delivery)
        self.clock.advance(self.patience_s + 100.0)
        self.journal.come_up()
        again = self.deliver(1, redelivered=True)
        self.equipment.calls[0].break_off(EquipmentUnreachable("refused"))
        self.assertEqual(
            (again.settled, self.store.first_started_at(task_id(1))), (None, EPOCH + 700.0)
        )

    def test_an_attempt_that_waits_with_its_connection(self) -> None:
        """Patience counts from the first call, however long the broker took to confirm its
        `Started`.
        """
        self.journal.up = False
        delivery = self.deliver(1)
        self.clock.advance(self.patience_s + 100.0)
        self.journal.come_up()
        self.equipment.calls[0].break_off(EquipmentUnreachable("refused"))
        self.assertEqual((delivery.settled, self.worker.held), (None, 1))
        self.clock.advance(1.0)
        self.assertEqual(len(self.equipment.calls), 2)
        self.clock.advance(self.patience_s)
        self.equipment.calls[1].break_off(EquipmentUnreachable("refused"))
        self.assertEqual((delivery.settled, self.state(1)), ("ack", State.FAILED))

    def test_a_slot_is_free_again(self) -> None:
        """A forgotten task frees its slot."""
        self.journal.up = False
        self.lose_connection(self.deliver(1))
        self.journal.come_up()
        self.deliver(2, "DEVICE2")
        self.assertEqual(self.equipment.under_way, [task_id(2)])

    def test_a_pause_ends_without_a_delivery(self) -> None:
        """A task whose delivery is lost when its pause ends is forgotten at once, even if no slot
        is free.
        """
        delivery = self.deliver(1, "DEVICE1")
        self.equipment.calls[0].break_off(EquipmentUnreachable("refused"))
        self.deliver(2, "DEVICE2")
        self.lose_connection(delivery)
        self.clock.advance(1.0)
        self.assertEqual(self.worker.held, 1)
        self.assertEqual(self.store.attempts(task_id(1)), 1)

    def test_a_pause_of_a_task_without_a_delivery(self) -> None:
        """A task that was read from the journal is not called again if the connection is lost
        during its pause: another worker may have its message.
        """
        channel = FakeChannel()
        self.worker._channel = cast("AmqpChannel", channel)
        task = Task(task_id(1), "DEVICE1", 14, EPOCH, PlainSealer().seal(BODY), key="plain")
        self.apply(Requested(task.task_id, "DEVICE1", EPOCH, whole=True))
        self.worker.take(FakeDelivery(encode_task(task)))
        self.equipment.calls[0].break_off(EquipmentUnreachable("refused"))
        channel.closed = True
        self.worker.detach()
        self.clock.advance(10.0)
        self.assertEqual((self.equipment.under_way, self.worker.held), ([], 0))


class JudgedAgain(WorkerTestCase):
    patience_s = 7200.0

    def test_adopted_right_before_its_call(self) -> None:
        """A task that adopts a delivery while its attempt is journalled is judged again before its
        call.
        """
        self.journal.up = False
        first = self.deliver(1)
        first.lost = True
        again = self.deliver(1, redelivered=True)
        self.apply(Finished(task_id(1), "DEVICE1", EPOCH, State.COMPLETED, ""))
        self.journal.come_up()
        self.assertEqual((self.equipment.calls, again.settled), ([], "ack"))

    def test_the_delivery_dies_behind_the_barrier(self) -> None:
        """A task whose delivery is lost while it waits for the barrier is not called."""
        self.apply(Started(task_id(1), "DEVICE1", EPOCH, 1))
        self.journal.barrier_fails = True
        delivery = self.deliver(1, redelivered=True)
        delivery.lost = True
        self.journal.barrier_fails = False
        self.clock.advance(1.0)
        self.assertEqual((self.equipment.calls, self.worker.held), ([], 0))


class DrainingWithoutBroker(WorkerTestCase):
    """A worker that is stopped while the broker is unreachable."""

    def test_an_outcome_that_waits(self) -> None:
        """Drain waits until the broker has confirmed the outcome of a call that has ended. Then the
        task is acknowledged.
        """
        delivery = self.deliver(1)
        self.journal.up = False
        self.equipment.calls[0].end()
        drained = self.drain()
        self.clock.advance(100.0)
        self.assertNoResult(drained)
        self.journal.come_up()
        self.assertIsNone(self.successResultOf(drained))
        self.assertEqual((delivery.settled, self.state(1)), ("ack", State.COMPLETED))

    def test_an_outcome_that_waits_too_long(self) -> None:
        """At the deadline the worker gives up the outcome and leaves the task unsettled. The next
        worker calls A again.
        """
        delivery = self.deliver(1)
        self.journal.up = False
        self.equipment.calls[0].end()
        drained = self.drain(120.0)
        self.clock.advance(120.0)
        self.assertIsNone(self.successResultOf(drained))
        self.journal.come_up()
        self.assertEqual((delivery.settled, self.state(1)), (None, State.RUNNING))

    def test_an_attempt_that_waits(self) -> None:
        """Drain does not wait for a call that has not begun."""
        self.journal.up = False
        delivery = self.deliver(1)
        self.assertIsNone(self.successResultOf(self.drain()))
        self.journal.come_up()
        self.assertEqual((delivery.settled, self.equipment.calls), (None, []))

    def test_a_call_that_is_delivered_again(self) -> None:
        """A call whose message is delivered again during the drain ends as usual. Its outcome is
        journalled, and the message stays unsettled.
        """
        first = self.deliver(1)
        drained = self.drain()
        self.lose_connection(first)
        again = self.deliver(1, redelivered=True)
        self.equipment.calls[0].end()
        self.assertIsNone(self.successResultOf(drained))
        self.assertEqual(
            (again.settled, self.state(1), len(self.equipment.calls)), (None, State.COMPLETED, 1)
        )


class ManyAtOnce(WorkerTestCase):
    concurrency = 1

    def test_a_slot_that_passes_through_many_hands(self) -> None:
        """If thousands of waiting tasks cannot be opened, each of them has failed, and the slot is
        free for the next task.
        """
        self.deliver(0, "DEVICE0")
        bad = [self.deliver(number, f"DEVICE{number}", sealed="?") for number in range(1, 3001)]
        last = self.deliver(3001, "DEVICE3001")
        self.equipment.calls[0].end()
        self.assertEqual({each.settled for each in bad}, {"ack"})
        self.assertEqual(self.equipment.under_way, [task_id(3001)])
        self.assertIsNone(last.settled)

    def test_a_large_body_is_held_once(self) -> None:
        """A task that waits or is called holds its sealed body only once, in its delivery."""
        tasks = [
            Task(task_id(number), "DEVICE1", 14, EPOCH, "sealed:" + "x" * 65536)
            for number in range(50)
        ]
        deliveries = [FakeDelivery(encode_task(task)) for task in tasks]
        self.apply(*(Requested(task.task_id, "DEVICE1", EPOCH, whole=True) for task in tasks))
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for delivery in deliveries:
            self.worker._on_delivery(delivery)
        held, _ = tracemalloc.get_traced_memory()
        self.assertEqual((self.worker.held, len(self.equipment.calls)), (50, 1))
        self.assertLess(held, 50 * 65536 / 4)
