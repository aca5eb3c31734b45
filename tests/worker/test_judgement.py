"""Events that the worker's replica has not seen yet: cancellations, and keys that were used
twice.
"""

from __future__ import annotations

from rtprov.errors import BrokerUnavailable, EquipmentUnreachable
from rtprov.model import Cancelled, Finished, Postponed, Requested, Started, State
from rtprov.worker.redeliveries import BARRIER_RETRY_S, EXPECTED_WITHIN_S
from tests.support.late_worker_case import LateTestCase
from tests.support.worker_case import EPOCH, WorkerTestCase, task_id


class Cancellations(LateTestCase):
    def test_before_the_start(self) -> None:
        """A task whose cancellation precedes its start in the journal is not called, although the
        worker had seen neither.
        """
        delivery = self.deliver(1)
        self.assertEqual(self.equipment.calls, [])
        self.late.order.insert(0, Cancelled(task_id(1), "DEVICE1", EPOCH))
        self.late.land()
        self.assertEqual(
            (self.equipment.calls, delivery.settled, self.state(1)), ([], "ack", State.CANCELLED)
        )
        self.assertEqual(self.late.events, [Started(task_id(1), "DEVICE1", EPOCH, 1, "p1")])

    def test_behind_the_start(self) -> None:
        """A task whose cancellation follows its start in the journal is called."""
        self.deliver(1)
        self.late.order.append(Cancelled(task_id(1), "DEVICE1", EPOCH))
        self.late.land()
        self.assertEqual((self.equipment.under_way, self.state(1)), ([task_id(1)], State.RUNNING))

    def test_in_its_lane(self) -> None:
        """A task that was cancelled while it waited for its device is skipped, and nothing is
        journalled.
        """
        self.deliver(1)
        second, third = self.deliver(2), self.deliver(3)
        self.late.land()
        self.apply(Cancelled(task_id(2), "DEVICE1", EPOCH))
        self.equipment.calls[0].end()
        self.late.land()  # the end of the first, and the cancellation
        self.late.land()  # the start of the third
        self.assertEqual(
            (self.equipment.under_way, second.settled, third.settled), ([task_id(3)], "ack", None)
        )


class Returned(LateTestCase):
    def known(self, *numbers: int) -> None:
        for number in numbers:
            self.apply(Requested(task_id(number), "DEVICE1", EPOCH, whole=True))

    def test_in_the_order_of_the_journal(self) -> None:
        """Redelivered tasks, and new ones after them, are called in the order of their requests."""
        self.known(1, 2, 3)
        for number in (2, 1):
            self.deliver(number, redelivered=True)
        self.deliver(3)
        self.assertEqual(self.late.barriers, 1)
        order = []
        for _ in range(3):
            while not self.equipment.under_way:
                self.late.land()
            order += self.equipment.under_way
            self.equipment.calls[-1].end()
        self.assertEqual(order, [task_id(1), task_id(2), task_id(3)])

    def test_behind_what_is_there(self) -> None:
        """A task whose call is still running stays the first of its device and adopts its message
        at once.
        """
        first = self.deliver(1)
        self.late.land()
        self.known(2)
        self.lose_connection(first)
        self.deliver(2, redelivered=True)
        again = self.deliver(1, redelivered=True)
        self.late.land()
        self.assertEqual(self.equipment.under_way, [task_id(1)])
        self.equipment.calls[0].end()
        self.assertEqual(again.settled, "ack")
        self.late.land()  # the end of the first
        self.late.land()  # the start of the second
        self.assertEqual(self.equipment.under_way, [task_id(2)])

    def test_lost_again(self) -> None:
        """Redelivered tasks are forgotten if the connection is lost before the barrier, and are
        delivered again.
        """
        self.known(1, 2)
        deliveries = [self.deliver(number, redelivered=True) for number in (2, 1)]
        self.lose_connection(*deliveries)
        self.assertEqual(self.worker.held, 0)
        for number in (1, 2):
            self.deliver(number, redelivered=True)
        for _ in range(3):
            self.late.land()
        self.assertEqual(self.equipment.under_way, [task_id(1)])

    def test_a_barrier_that_fails(self) -> None:
        """If a barrier fails, the worker asks for another one. No task is called before that."""
        self.known(1)
        self.deliver(1, redelivered=True)
        self.late.landing.pop().errback(BrokerUnavailable("away"))
        self.clock.advance(BARRIER_RETRY_S)
        self.assertEqual((self.late.barriers, self.equipment.calls), (2, []))
        for _ in range(2):
            self.late.land()
        self.assertEqual(self.equipment.under_way, [task_id(1)])

    def test_drained(self) -> None:
        """A worker that is stopped before the barrier calls none of the redelivered tasks."""
        self.known(1)
        self.deliver(1, redelivered=True)
        self.successResultOf(self.drain())
        self.late.land()
        self.assertEqual((self.equipment.calls, self.worker.held), ([], 0))


class Keys(LateTestCase):
    def test_judged_first(self) -> None:
        """A task with a key is judged after the barrier, even on its first delivery."""
        self.deliver_keyed("f1")
        self.apply(self.requested("f1"))
        self.assertEqual((self.late.barriers, self.late.events), (1, []))
        self.late.land()
        self.late.land()
        self.assertEqual(self.equipment.under_way, [task_id(1)])

    def test_another_body(self) -> None:
        """The message of the second body is acknowledged, without a call and without an event."""
        delivery = self.deliver_keyed("f2")
        self.late.order += [self.requested("f1"), self.requested("f2")]
        self.late.land()
        self.assertEqual(
            (delivery.settled, self.equipment.calls, self.late.events, self.state(1)),
            ("ack", [], [], State.RUNNING),
        )

    def test_another_body_first(self) -> None:
        """If the second body's message is delivered first, it is skipped, and the first one's task
        is called.
        """
        second, first = self.deliver_keyed("f2"), self.deliver_keyed("f1")
        self.late.order += [self.requested("f1"), self.requested("f2")]
        for _ in range(3):
            self.late.land()
        self.assertEqual(
            (second.settled, first.settled, self.equipment.under_way), ("ack", None, [task_id(1)])
        )

    def test_the_same_order_twice(self) -> None:
        """The second message of an order is acknowledged at once while the first one is held. After
        the task has ended it causes no call.
        """
        self.late.order.append(self.requested("f1"))
        first, again = self.deliver_keyed("f1"), self.deliver_keyed("f1")
        self.assertEqual((first.settled, again.settled), (None, "ack"))
        self.late.land()
        self.late.land()
        self.equipment.calls[0].end()
        self.late.land()
        late = self.deliver_keyed("f1")
        self.late.land()
        self.assertEqual(
            (first.settled, late.settled, len(self.equipment.calls)), ("ack", "ack", 1)
        )

    def test_the_same_order_stands_in(self) -> None:
        """If the delivery of the first message is lost, the second message is adopted instead."""
        self.late.order.append(self.requested("f1"))
        first = self.deliver_keyed("f1")
        self.late.land()
        self.late.land()
        self.lose_connection(first)
        again = self.deliver_keyed("f1", redelivered=True)
        self.equipment.calls[0].end()
        self.assertEqual((again.settled, len(self.equipment.calls)), ("ack", 1))

    def test_a_journal_that_does_not_know(self) -> None:
        """A message that the journal lacks is appended, and is called only if it is then the first
        of its key.
        """
        delivery = self.deliver_keyed("f1")
        self.clock.advance(EXPECTED_WITHIN_S)
        self.late.land()
        self.assertEqual((self.late.events, self.equipment.calls), ([self.requested("f1")], []))
        self.late.order.insert(0, self.requested("f2"))
        self.late.land()
        self.assertEqual((delivery.settled, self.equipment.calls), ("ack", []))

    def test_forgotten_with_the_connection(self) -> None:
        """Two messages of one key that wait are forgotten with the connection, and both are
        delivered again.
        """
        self.late.order += [self.requested("f1")]
        deliveries = [self.deliver_keyed("f1"), self.deliver_keyed("f2")]
        self.lose_connection(*deliveries)
        self.assertEqual(self.worker.held, 0)
        again = [
            self.deliver_keyed("f1", redelivered=True),
            self.deliver_keyed("f2", redelivered=True),
        ]
        self.late.land()
        self.late.land()
        self.equipment.calls[0].end()
        self.late.land()
        self.late.land()
        self.assertEqual(
            ([each.settled for each in again], len(self.equipment.calls)), (["ack", "ack"], 1)
        )


class Postponements(WorkerTestCase):
    def test_postponed_event(self) -> None:
        """An attempt that did not reach A is journalled with its reason, cut to 200 characters, and
        the time of the next attempt.
        """
        self.deliver(1)
        self.equipment.calls[0].break_off(EquipmentUnreachable("x" * 300, 100.0))
        self.assertEqual(
            self.journal.events[-1],
            Postponed(task_id(1), "DEVICE1", EPOCH, 1, "x" * 200, EPOCH + 100.0),
        )

    def test_the_journal_is_away(self) -> None:
        """The pause runs while the journal cannot be written, and does not last longer for that."""
        self.deliver(1)
        self.journal.up = False
        self.equipment.calls[0].break_off(EquipmentUnreachable("refused", 100.0))
        self.clock.advance(60.0)
        self.journal.come_up()
        self.clock.advance(39.0)
        self.assertEqual(len(self.equipment.calls), 1)
        self.clock.advance(1.0)
        self.assertEqual(len(self.equipment.calls), 2)

    def test_out_of_patience(self) -> None:
        """After the last attempt no `Postponed` is written: the task has ended."""
        self.deliver(1)
        self.equipment.calls[0].break_off(EquipmentUnreachable("refused", 601.0))
        self.assertEqual([type(event) for event in self.journal.events], [Started, Finished])
