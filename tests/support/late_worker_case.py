"""A test case with a worker whose journal lags behind its deliveries."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import Deferred, succeed

from rtprov.messaging.event_messages import encode_task
from rtprov.model import Event, Requested, Task
from tests.support.fakes import FakeDelivery, FakeJournal, PlainSealer
from tests.support.worker_case import BODY, EPOCH, WorkerTestCase, task_id


@define(eq=False)
class LateJournal(FakeJournal):
    """A journal whose replica gets events only at a barrier, which the test completes by `land`.
    `order` holds the events that the replica has not applied yet.
    """

    order: list[Event] = field(factory=list)
    landing: list[Deferred[None]] = field(factory=list)

    def append(self, event: Event) -> Deferred[None]:
        self.events.append(event)
        self.order.append(event)
        return succeed(None)

    def barrier(self) -> Deferred[None]:
        self.barriers += 1
        self.landing.append(Deferred())
        return self.landing[-1]

    def land(self) -> None:
        """Apply all events to the replica, and complete all barriers."""
        order, self.order = self.order, []
        for event in order:
            self.apply(event)
        landing, self.landing = self.landing, []
        for each in landing:
            if not each.called:
                each.callback(None)


class LateTestCase(WorkerTestCase):
    late: LateJournal

    def new_journal(self) -> FakeJournal:
        self.late = LateJournal(self.apply)
        return self.late

    def deliver_keyed(
        self, fingerprint: str, equipment_id: str = "DEVICE1", *, redelivered: bool = False
    ) -> FakeDelivery:
        task = Task(task_id(1), equipment_id, 14, EPOCH, PlainSealer().seal(BODY), fingerprint)
        delivery = FakeDelivery(encode_task(task), redelivered)
        self.worker._on_delivery(delivery)
        return delivery

    def requested(self, fingerprint: str) -> Requested:
        return Requested(task_id(1), "DEVICE1", EPOCH, fingerprint, whole=True)
