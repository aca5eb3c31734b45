"""Deliveries that are held for long: a copy goes to the queue's end, and stands in for them."""

from __future__ import annotations

from rtprov.errors import EquipmentUnreachable, Unconfirmed
from rtprov.model import Finished, Requested, State
from rtprov.worker.copies import COPY_HEADER
from rtprov.worker.redeliveries import CLOCKS_DIFFER_S
from rtprov.worker.renewals import MOST_HELD, NEXT_TASKS, RENEW_AFTER_S, RENEW_LOOK_S
from tests.support.fakes import FakeDelivery
from tests.support.late_worker_case import LateTestCase
from tests.support.worker_case import EPOCH, WorkerTestCase, task_id

COPY = {COPY_HEADER: int(EPOCH)}


class RenewalTestCase(WorkerTestCase):
    patience_s = 7200.0

    def setUp(self) -> None:
        super().setUp()
        self.worker._renewals.start()
        self.addCleanup(self.worker.detach)

    def hold(self) -> None:
        """Time passes, until deliveries that were taken now are renewed."""
        self.clock.pump([RENEW_LOOK_S] * int(RENEW_AFTER_S / RENEW_LOOK_S))

    def copied(self) -> list[str]:
        return [each for each, _ in self.queue.put_back]


class Renewed(RenewalTestCase):
    def test_a_call_under_way(self) -> None:
        """A delivery held for 20 minutes is acknowledged once a copy is in the queue; the call goes
        on, and adopts the copy."""
        delivery = self.deliver(1)
        self.clock.pump([RENEW_LOOK_S] * int(RENEW_AFTER_S / RENEW_LOOK_S - 1))
        self.assertEqual(self.copied(), [])
        self.clock.advance(RENEW_LOOK_S)
        self.assertEqual(
            (delivery.settled, self.queue.put_back), ("ack", [(task_id(1), delivery.body)])
        )
        copy = self.deliver(1, headers=COPY)
        self.equipment.calls[0].end()
        self.assertEqual((copy.settled, len(self.equipment.calls), self.worker.held), ("ack", 1, 0))

    def test_not_before_the_copy_is_safe(self) -> None:
        """Until the copy is confirmed the delivery is kept; where it is not, the next look tries
        again.
        """
        delivery = self.deliver(1)
        self.queue.up = False
        self.hold()
        self.assertEqual((delivery.settled, len(self.copied())), (None, 1))
        self.queue._waiting.pop().errback(Unconfirmed("lost"))
        self.assertIsNone(delivery.settled)
        self.clock.advance(RENEW_LOOK_S)
        self.queue.confirm()
        self.assertEqual((delivery.settled, len(self.copied())), ("ack", 2))

    def test_the_copy_comes_before_its_confirm(self) -> None:
        """One of the two messages stays unsettled, whichever of copy and confirm comes first."""
        delivery = self.deliver(1)
        self.queue.up = False
        self.hold()
        copy = self.deliver(1, headers=COPY)
        self.assertEqual((delivery.settled, copy.settled), ("ack", None))
        self.queue.confirm()
        self.assertEqual((copy.settled, len(self.equipment.calls)), (None, 1))

    def test_ended_before_the_confirm(self) -> None:
        """A task that ends meanwhile leaves a copy, which is only acknowledged."""
        delivery = self.deliver(1)
        self.queue.up = False
        self.hold()
        self.equipment.calls[0].end()
        self.queue.confirm()
        copy = self.deliver(1, headers=COPY)
        self.assertEqual(
            (delivery.settled, copy.settled, len(self.equipment.calls)), ("ack", "ack", 1)
        )

    def test_called_while_its_copy_is_far(self) -> None:
        """However far back in the queue its copy is, a task is called when its turn comes; the copy
        is acknowledged when it comes."""
        self.deliver(1)
        self.deliver(2)
        self.hold()
        self.equipment.calls[0].end()
        self.assertEqual(self.equipment.under_way, [task_id(2)])
        self.equipment.calls[1].end()
        copies = [self.deliver(number, headers=COPY) for number in (1, 2)]
        self.assertEqual(
            ([each.settled for each in copies], len(self.equipment.calls), self.worker.held),
            (["ack", "ack"], 2, 0),
        )

    def test_the_connection_goes(self) -> None:
        """Once the connection is lost, another worker may be the active one: a task whose copy is
        in the queue is not called before it comes."""
        first, second = self.deliver(1), self.deliver(2)
        self.hold()
        self.equipment.calls[0].break_off(EquipmentUnreachable("refused"))
        self.lose_connection(first, second)
        self.clock.advance(60.0)
        self.assertEqual(
            (second.settled, self.worker.held, len(self.equipment.calls)), ("ack", 0, 1)
        )
        self.deliver(2, headers=COPY)
        self.assertEqual(len(self.equipment.calls), 1)  # the first comes first
        self.deliver(1, headers=COPY)
        self.assertEqual(self.equipment.under_way, [task_id(1)])

    def test_held_for_long_again_and_again(self) -> None:
        """Three days of waiting: a copy every 20 minutes, one call, and the task is as alive as on
        its first day.
        """
        self.deliver(1)
        self.deliver(2)
        for _ in range(3 * 72):
            self.hold()
            for number in (1, 2):
                self.deliver(number, headers=COPY)
        self.equipment.calls[0].end()
        self.assertEqual(self.equipment.under_way, [task_id(2)])
        self.assertEqual(len(self.copied()), 2 * 3 * 72)

    def test_a_crowd(self) -> None:
        """Where very many tasks wait, those far from their turn are forgotten with their delivery,
        and come again with their message."""
        many = (MOST_HELD + 1) * 100
        for number in range(many):
            self.deliver(number, "DEVICE1")
        self.hold()
        self.assertEqual(self.worker.held, MOST_HELD * 100)
        self.assertIn(task_id(NEXT_TASKS - 1), self.worker.held_tasks())
        again = many - 1
        self.assertNotIn(task_id(NEXT_TASKS), self.worker.held_tasks())
        self.deliver(again, headers=COPY)
        self.deliver(NEXT_TASKS, headers=COPY)
        for number in range(NEXT_TASKS + 1):
            self.assertEqual(self.equipment.under_way, [task_id(number)])
            self.equipment.calls[-1].end()


class Copies(RenewalTestCase):
    def test_forgotten(self) -> None:
        """A copy of a task that the journal, which goes back to before the copy, does not know any
        more, is only acknowledged."""
        self.apply(Requested(task_id(9), "DEVICE9", EPOCH))
        copy = self.deliver(1, headers={COPY_HEADER: int(EPOCH + CLOCKS_DIFFER_S + 1)})
        self.assertEqual((copy.settled, self.equipment.calls, self.worker.held), ("ack", [], 0))

    def test_of_before_the_journal(self) -> None:
        """Where the journal is younger than the copy it knows nothing of that time: the task is
        told to it, and called."""
        self.apply(Requested(task_id(9), "DEVICE9", EPOCH))
        copy = self.deliver(1, headers=COPY)
        self.assertEqual((copy.settled, self.equipment.under_way), (None, [task_id(1)]))
        self.assertEqual(
            self.journal.events[0], Requested(task_id(1), "DEVICE1", EPOCH, key="plain")
        )


class LateCopies(LateTestCase):
    def test_judged(self) -> None:
        """A copy is judged behind the barrier: the replica may not have seen yet that the task has
        ended.
        """
        self.apply(Requested(task_id(1), "DEVICE1", EPOCH, whole=True))
        self.late.order.append(Finished(task_id(1), "DEVICE1", EPOCH, State.COMPLETED, ""))
        copy: FakeDelivery = self.deliver(1, headers=COPY)
        self.assertEqual((copy.settled, self.late.barriers), (None, 1))
        self.late.land()
        self.assertEqual((copy.settled, self.equipment.calls), ("ack", []))
