"""The journal decides the order of a device's tasks, in whatever order messages arrive, and also if
some are lost.
"""

from __future__ import annotations

from rtprov.messaging.event_messages import encode_task
from rtprov.model import Cancelled, Finished, Requested, Started, State, Task
from rtprov.worker.redeliveries import EXPECTED_WITHIN_S
from tests.support.fakes import FakeDelivery, PlainSealer
from tests.support.late_worker_case import LateTestCase
from tests.support.worker_case import BODY, EPOCH, WorkerTestCase, task_id


class Turns(WorkerTestCase):
    def known(self, *numbers: int) -> None:
        self.apply(
            *(Requested(task_id(number), "DEVICE1", EPOCH, whole=True) for number in numbers)
        )

    def test_an_earlier_task_that_is_not_here(self) -> None:
        """A task waits for an earlier task of its device, even if that one's message has not
        arrived.
        """
        self.known(1, 2)
        self.deliver(2, redelivered=True)
        self.assertEqual(self.equipment.calls, [])
        self.deliver(1, redelivered=True)
        self.assertEqual(self.equipment.under_way, [task_id(1)])
        self.equipment.calls[0].end()
        self.assertEqual(self.equipment.under_way, [task_id(2)])

    def test_one_that_ends_elsewhere(self) -> None:
        """A task is called as soon as the journal says that all earlier ones have ended, in
        whatever way.
        """
        self.known(1, 2, 3)
        self.deliver(3, redelivered=True)
        self.apply(Cancelled(task_id(1), "DEVICE1", EPOCH))
        self.assertEqual(self.equipment.calls, [])
        self.apply(Finished(task_id(2), "DEVICE1", EPOCH, State.FAILED, "dead-lettered"))
        self.assertEqual(self.equipment.under_way, [task_id(3)])

    def test_other_devices(self) -> None:
        """Tasks of other devices do not wait."""
        self.known(1)
        self.deliver(2, "DEVICE2")
        self.assertEqual(self.equipment.under_way, [task_id(2)])

    def test_a_stopping_worker(self) -> None:
        """A worker that is stopped does not start a task whose turn comes."""
        self.known(1, 2)
        self.deliver(2, redelivered=True)
        self.successResultOf(self.drain())
        self.apply(Finished(task_id(1), "DEVICE1", EPOCH, State.COMPLETED, ""))
        self.assertEqual(self.equipment.calls, [])


class Expected(LateTestCase):
    """Messages that arrive before the replica has seen their requests."""

    def test_the_request_comes(self) -> None:
        """The task is called when the replica has seen its request, without a barrier."""
        delivery = self.fresh(1)
        self.assertEqual(self.equipment.calls, [])
        self.apply(Requested(task_id(1), "DEVICE1", EPOCH, whole=True))
        self.assertEqual(
            (self.late.events, delivery.settled),
            ([Started(task_id(1), "DEVICE1", EPOCH, 1, "p1")], None),
        )

    def test_it_does_not_come(self) -> None:
        """A message whose request is missing is appended to the journal. Then its task is
        called.
        """
        delivery = self.fresh(1)
        self.clock.advance(EXPECTED_WITHIN_S)
        self.late.land()
        self.assertEqual(self.late.events, [Requested(task_id(1), "DEVICE1", EPOCH)])
        for _ in range(3):
            self.late.land()
        self.assertEqual((self.equipment.under_way, delivery.settled), ([task_id(1)], None))

    def test_the_connection_goes(self) -> None:
        """Messages that wait for their request are forgotten with the connection. No timer is
        left.
        """
        self.lose_connection(self.fresh(1))
        self.assertEqual((self.worker.held, self.clock.getDelayedCalls()), (0, []))

    def fresh(self, number: int) -> FakeDelivery:
        delivery = FakeDelivery(
            encode_task(Task(task_id(number), "DEVICE1", 14, EPOCH, PlainSealer().seal(BODY)))
        )
        self.worker._on_delivery(delivery)
        return delivery
