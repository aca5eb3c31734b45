"""Deliveries that are held for long: a copy at the end of the queue replaces them."""

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
        """Let time pass until the deliveries of now are renewed."""
        self.clock.pump([RENEW_LOOK_S] * int(RENEW_AFTER_S / RENEW_LOOK_S))

    def copied(self) -> list[str]:
        return [each for each, _ in self.queue.put_back]


class Renewed(RenewalTestCase):
    def test_a_call_under_way(self) -> None:
        """A delivery that was held for 20 minutes is acknowledged after a copy was published. The
        running call adopts the copy.
        """
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
        """The delivery is kept until the copy is confirmed. If that fails, the next look tries
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
        """One of the two messages stays unsettled, whether the copy or its confirm comes first."""
        delivery = self.deliver(1)
        self.queue.up = False
        self.hold()
        copy = self.deliver(1, headers=COPY)
        self.assertEqual((delivery.settled, copy.settled), ("ack", None))
        self.queue.confirm()
        self.assertEqual((copy.settled, len(self.equipment.calls)), (None, 1))

    def test_ended_before_the_confirm(self) -> None:
        """If the task ends before the confirm, the copy is only acknowledged."""
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
        """A task is called in its turn although its copy is far back in the queue. The copy is
        acknowledged when it is delivered.
        """
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
        """After the connection was lost another worker may be active: a task is not called before
        its copy is delivered.
        """
        first, second = self.deliver(1), self.deliver(2)
        self.hold()
        self.equipment.calls[0].break_off(EquipmentUnreachable("refused"))
        self.lose_connection(first, second)
        self.clock.advance(60.0)
        self.assertEqual(
            (second.settled, self.worker.held, len(self.equipment.calls)), ("ack", 0, 1)
        )
        self.deliver(2, headers=COPY)
        self.assertEqual(len(self.equipment.calls), 1)  # task 1 precedes it
        self.deliver(1, headers=COPY)
        self.assertEqual(self.equipment.under_way, [task_id(1)])

    def test_held_for_long_again_and_again(self) -> None:
        """In three days of waiting there is a copy every 20 minutes and one call, and the task
        stays open.
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
        """If very many tasks wait, those far from their turn are forgotten with their delivery, and
        are delivered again.
        """
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
        """A copy of a task that the journal no longer knows is only acknowledged, if the journal is
        older than the copy.
        """
        self.apply(Requested(task_id(9), "DEVICE9", EPOCH))
        copy = self.deliver(1, headers={COPY_HEADER: int(EPOCH + CLOCKS_DIFFER_S + 1)})
        self.assertEqual((copy.settled, self.equipment.calls, self.worker.held), ("ack", [], 0))

    def test_of_before_the_journal(self) -> None:
        """If the journal is younger than the copy, the task is appended to the journal and
        called.
        """
        self.apply(Requested(task_id(9), "DEVICE9", EPOCH))
        copy = self.deliver(1, headers=COPY)
        self.assertEqual((copy.settled, self.equipment.under_way), (None, [task_id(1)]))
        self.assertEqual(
            self.journal.events[0], Requested(task_id(1), "DEVICE1", EPOCH, key="plain")
        )


class LateCopies(LateTestCase):
    def test_judged(self) -> None:
        """A copy is judged after the barrier, because the replica may not have seen yet that the
        task has ended.
        """
        self.apply(Requested(task_id(1), "DEVICE1", EPOCH, whole=True))
        self.late.order.append(Finished(task_id(1), "DEVICE1", EPOCH, State.COMPLETED, ""))
        copy: FakeDelivery = self.deliver(1, headers=COPY)
        self.assertEqual((copy.settled, self.late.barriers), (None, 1))
        self.late.land()
        self.assertEqual((copy.settled, self.equipment.calls), ("ack", []))
