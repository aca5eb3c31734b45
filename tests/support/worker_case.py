"""A test case with the worker of one shard, its queues and its store, on a virtual clock."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.trial.unittest import SynchronousTestCase

from rtprov.clocks import WallClock
from rtprov.journal.store import Store
from rtprov.messaging.event_messages import encode_task
from rtprov.messaging.topology import Shard
from rtprov.model import Event, Requested, State, Task
from rtprov.worker.attempts import Attempts
from rtprov.worker.call_limiter import CallLimiter
from rtprov.worker.circuit_breaker import CircuitBreaker
from rtprov.worker.copies import WorkQueue
from rtprov.worker.missing_keys import MissingKeys
from rtprov.worker.pace import Pace
from rtprov.worker.quarantine import Quarantine
from rtprov.worker.shard_worker import ShardWorker
from tests.support.fakes import (
    FakeDelivery,
    FakeEquipment,
    FakeJournal,
    FakeQueue,
    FakeReplica,
    NoPace,
    PlainSealer,
)
from tests.support.turns import TurnClock

EPOCH = 1_800_000_000.0
BODY = b'{"timeoutInSeconds": 14}'
NO_HEADERS: Mapping[str, object] = {}


def task_id(number: int) -> str:
    return f"{number:032x}"


class WorkerTestCase(SynchronousTestCase):
    concurrency = 5
    patience_s = 600.0

    def setUp(self) -> None:
        self.clock = TurnClock()
        self.store = Store(86400.0)
        self.sealer = PlainSealer()
        self.missing_keys = MissingKeys(sealer=self.sealer, clock=cast("IReactorTime", self.clock))
        self.addCleanup(self.missing_keys.stop)
        self.replica = FakeReplica(self.store)
        self.journal = self.new_journal()
        self.queue = FakeQueue()
        self.markers: list[str] = []
        self.equipment = FakeEquipment()
        self.offset_s = 0.0
        self.wall_clock = WallClock(
            lambda: EPOCH + self.offset_s + self.clock.seconds(), self.clock.seconds
        )
        breaker = CircuitBreaker(concurrency=self.concurrency, rng=random.Random(7))
        self.gate = CallLimiter(
            concurrency=self.concurrency,
            breaker=breaker,
            pace=self.new_pace(),
            clock=cast("IReactorTime", self.clock),
        )
        attempts = Attempts(
            store=self.store,
            journal=self.journal,
            equipment=self.equipment,
            sealer=self.sealer,
            missing_keys=self.missing_keys,
            call_limiter=self.gate,
            quarantine=Quarantine(),
            pace=self.new_pace(),
            process_id="p1",
            patience_s=self.patience_s,
            clock=cast("IReactorTime", self.clock),
            wall_clock=self.wall_clock,
            rng=random.Random(7),
        )
        self.worker = ShardWorker(
            shard=Shard(0, 1),
            store=self.store,
            open_tasks=self.replica.open_tasks,
            journal=self.journal,
            queue=cast("WorkQueue", self.queue),
            attempts=attempts,
            window=100,
            on_marker=self.markers.append,
            clock=cast("IReactorTime", self.clock),
            wall_clock=self.wall_clock,
        )
        self.replica.after = self.worker.on_event
        self.addCleanup(self.cut_short)

    def set_clock(self, seconds: float) -> None:
        """Step the system clock, and let the process notice it."""
        self.offset_s += seconds
        self.wall_clock()

    def new_pace(self) -> Pace:
        return NoPace()

    def new_journal(self) -> FakeJournal:
        return FakeJournal(self.apply)

    def apply(self, *events: Event) -> None:
        """Apply events to the replica, as if the journal had them."""
        for event in events:
            self.replica.apply(event)

    def cut_short(self) -> None:
        """Finish pending work now. Otherwise its failures would be logged during another test, when
        it is collected.
        """
        self.journal.come_up()
        drained = self.drain(0.0)
        self.clock.advance(0.0)
        self.successResultOf(drained)

    def deliver(
        self,
        number: int,
        equipment_id: str = "DEVICE1",
        *,
        redelivered: bool = False,
        sealed: str | None = None,
        headers: Mapping[str, object] = NO_HEADERS,
    ) -> FakeDelivery:
        task = Task(
            task_id(number),
            equipment_id,
            14,
            EPOCH,
            PlainSealer().seal(BODY) if sealed is None else sealed,
            key="plain",
        )
        if not (redelivered or headers):
            self.apply(Requested(task.task_id, equipment_id, EPOCH, whole=True))
        delivery = FakeDelivery(encode_task(task), redelivered, headers=headers)
        self.worker._on_delivery(delivery)
        return delivery

    def lose_connection(self, *deliveries: FakeDelivery) -> None:
        for delivery in deliveries:
            delivery.lost = True
        self.worker.detach()

    def state(self, number: int, equipment_id: str = "DEVICE1") -> State | None:
        return self.store.lookup(task_id(number), equipment_id)

    def drain(self, deadline_s: float = 120.0) -> Deferred[None]:
        return Deferred.fromCoroutine(self.worker.drain(deadline_s))
