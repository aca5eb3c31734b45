"""The estimated end of a task, which clients get when a task is accepted, compared with its actual
end, on a worker with its call limiter and lanes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, cast

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from rtprov.journal.backlog import Backlog
from rtprov.journal.store import Store
from rtprov.model import (
    Active,
    Details,
    EquipmentState,
    Postponed,
    Requested,
    Started,
    State,
    Task,
    Waiting,
    Withheld,
)
from tests.support.scale import FULL, slow
from tests.support.system import System
from tests.support.system_case import SystemTestCase
from tests.support.worker_case import EPOCH, WorkerTestCase, task_id

TASKS = 1000 if FULL else 300
WARM = 5


@define(eq=False)
class TimedEquipment:
    """A service A whose calls take the seconds that `takes` returns."""

    clock: Clock
    takes: Callable[[], float]
    calls: list[str] = field(factory=list)

    def configure(self, task: Task, body: bytes) -> Deferred[tuple[State, str]]:
        outcome: Deferred[tuple[State, str]] = Deferred()
        self.calls.append(task.equipment_id)
        self.clock.callLater(self.takes(), outcome.callback, (State.COMPLETED, "done"))
        return outcome


class Accepted(WorkerTestCase):
    """Many tasks, whose estimates are read when they are accepted."""

    def off_by(
        self, concurrency: int, call_s: float, spread: float, devices: Sequence[str]
    ) -> list[float]:
        """Return the relative errors of the estimates, as fractions of the tasks' durations."""
        self.concurrency = concurrency
        self.setUp()
        self.store.backlog.active = Active("p1", EPOCH, concurrency, EquipmentState.CLOSED)
        rng = random.Random(3)
        self.worker._attempts._equipment = TimedEquipment(
            self.clock, lambda: call_s * (1 + spread * (2 * rng.random() - 1))
        )
        self.worker._attempts._patience_s = 1e9
        for number in range(WARM):  # otherwise a call is assumed to take a minute
            self.deliver(TASKS + number, f"WARM{number:03}")
        self.clock.pump([call_s / 20] * 40)
        began = EPOCH + self.clock.seconds()
        expected = []
        for number, device in enumerate(devices):
            self.deliver(number, device)
            expected.append((self.told(number).expected_at or 0.0) - began)
        while self.store.backlog.open:
            self.clock.advance(call_s / 20)
        took = [(self.told(number).finished_at or 0.0) - began for number in range(len(devices))]
        return [abs(guess - real) / real for guess, real in zip(expected, took, strict=True)]

    def told(self, number: int) -> Details:
        details = self.store.details(task_id(number), None, EPOCH + self.clock.seconds())
        assert details is not None
        return details

    @slow
    def test_honest(self) -> None:
        """Nine out of ten estimates are within 25 %, for any duration of the calls, number of tasks
        and number of devices.
        """
        rng = random.Random(5)
        each = [f"DEVICE{number:04}" for number in range(TASKS)]
        mixed = [f"DEVICE{rng.randrange(300):04}" for _ in range(TASKS)]
        rows = [f"DEVICE{number // 4:04}" for number in range(TASKS)]
        few = [f"DEVICE{number % 7:04}" for number in range(TASKS)]
        for concurrency in (1, 10, 100, 500):
            for call_s, spread in ((60.0, 0.2), (2.0, 0.0)):
                for devices in (each, mixed, rows, few):
                    good = sum(
                        off <= 0.25 for off in self.off_by(concurrency, call_s, spread, devices)
                    )
                    self.assertGreaterEqual(
                        good, 0.9 * TASKS, (concurrency, call_s, len(set(devices)))
                    )

    def test_first_come_first_called(self) -> None:
        """A device's next task goes before tasks of any device that were accepted later. So later
        tasks delay nothing.
        """
        self.concurrency = 2
        self.setUp()
        self.worker._attempts._equipment = equipment = TimedEquipment(self.clock, lambda: 1.0)
        for number, device in enumerate(
            ("DEVICE1", "DEVICE2", "DEVICE1", "DEVICE3", "DEVICE4", "DEVICE5")
        ):
            self.deliver(number, device)
        self.clock.pump([0.5] * 12)
        self.assertEqual(
            equipment.calls, ["DEVICE1", "DEVICE2", "DEVICE3", "DEVICE1", "DEVICE4", "DEVICE5"]
        )


class Rules(WorkerTestCase):
    """The estimates of a store, as events are applied one by one."""

    def backlog(
        self, count: int, concurrency: int = 10, store: Store | None = None, first: int = 0
    ) -> Store:
        store = Store(86400.0, Backlog(concurrency)) if store is None else store
        for number in range(first, first + count):
            store.apply(Requested(task_id(number), f"DEVICE{number:06}", EPOCH))
        return store

    def expected_s(self, store: Store, number: int) -> float | None:
        details = store.details(task_id(number), None, EPOCH)
        assert details is not None, number
        return None if details.expected_at is None else details.expected_at - EPOCH

    def test_whole_shard(self) -> None:
        """Tasks of other devices count: of 100 tasks with ten slots, the last one ends in the tenth
        round.
        """
        store = self.backlog(100)
        self.assertEqual(
            [self.expected_s(store, number) for number in (0, 9, 10, 99)],
            [60.0, 60.0, 120.0, 600.0],
        )

    def test_what_the_worker_says(self) -> None:
        """An estimate uses the concurrency of the active worker, not that of the worker that
        answers.
        """
        store = self.backlog(100)
        store.apply(Active("p1", EPOCH, 50, EquipmentState.CLOSED))
        self.assertEqual(
            [self.expected_s(store, number) for number in (49, 50, 99)], [60.0, 120.0, 120.0]
        )

    def test_far_behind(self) -> None:
        """A task behind hundreds of thousands gets an estimate by the same rules."""
        store = self.backlog(50_000, 100)
        self.assertEqual(self.expected_s(store, 49_999), 60.0 * 500)

    def shared(self, *tasks: tuple[str, int, int], concurrency: int = 10) -> Store:
        """Return a store with tasks: of each caller, so many with this urgency."""
        store = Store(86400.0, Backlog(concurrency))
        number = 0
        for caller, urgency, count in tasks:
            for _ in range(count):
                event = Requested(
                    task_id(number), f"DEVICE{number:06}", EPOCH, caller=caller, urgency=urgency
                )
                store.apply(event)
                number += 1
        return store

    def test_fair_shares(self) -> None:
        """Callers share the slots; a late caller with few tasks is among the first."""
        store = self.shared(("many", 3, 100), ("few", 3, 5), ("single", 3, 1))
        self.assertEqual(self.expected_s(store, 105), 60.0)
        self.assertEqual([self.expected_s(store, number) for number in (100, 104)], [60.0, 120.0])
        self.assertEqual(self.expected_s(store, 99), 60.0 * 11)

    def test_running_calls_count(self) -> None:
        """A caller whose calls fill all slots gets the next one last."""
        store = self.shared(("many", 3, 30))
        for number in range(10):
            store.apply(Started(task_id(number), f"DEVICE{number:06}", EPOCH, 1))
        for number in range(30, 40):
            store.apply(Requested(task_id(number), f"DEVICE{number:06}", EPOCH, caller="late"))
        self.assertEqual([self.expected_s(store, number) for number in (30, 39)], [120.0, 180.0])
        self.assertEqual([self.expected_s(store, number) for number in (10, 29)], [120.0, 240.0])

    def test_urgency(self) -> None:
        """Within a caller, urgent tasks are first."""
        store = self.shared(("one", 3, 20), ("one", 0, 10))
        self.assertEqual([self.expected_s(store, number) for number in (0, 29)], [120.0, 60.0])

    def test_limited_rate(self) -> None:
        """If few calls may begin in a second, fewer slots count, and a round takes longer."""
        store = self.backlog(100)
        store.apply(Active("p1", EPOCH, 50, EquipmentState.CLOSED, 0.5))
        self.assertEqual(self.expected_s(store, 99), 60.0 * 4)
        store.apply(Active("p1", EPOCH, 50, EquipmentState.CLOSED, 0.001))
        self.assertEqual(self.expected_s(store, 99), 1000.0 * 99 + 60.0)
        store.apply(Active("p1", EPOCH, 50, EquipmentState.CLOSED, 0.02))
        self.assertEqual(self.expected_s(store, 99), 100.0 * 49 + 60.0)

    def test_tasks_that_are_tried_again(self) -> None:
        """They need slots too: after the tasks that wait when their pauses end."""
        store = self.backlog(40)
        for number in range(30):
            device = f"DEVICE{number:06}"
            until = EPOCH - 1.0 if number < 20 else EPOCH + 90.0
            store.apply(Started(task_id(number), device, EPOCH - 60.0, 1))
            store.apply(Postponed(task_id(number), device, EPOCH - 59.0, 1, "busy", until))
        store.apply(Requested(task_id(99), "DEVICE000099", EPOCH))
        numbers = (30, 0, 10, 99, 20, 29)
        self.assertEqual(
            [self.expected_s(store, number) for number in numbers],
            [180.0, 60.0, 120.0, 240.0, 240.0, 300.0],
        )
        self.assertEqual(store.forecast(EPOCH).end_of_all() - EPOCH, 300.0)

    def test_a_key_in_the_middle_of_a_lane(self) -> None:
        """A task that waits for its key has no estimate, nor have those after it."""
        store = Store(86400.0, Backlog(10))
        for number, key in ((0, "k0"), (1, "k1"), (2, "k0")):
            store.apply(Requested(task_id(number), "DEVICE1", EPOCH, key=key))
        store.apply(Requested(task_id(3), "DEVICE2", EPOCH, key="k1"))
        store.apply(Withheld(task_id(3), "DEVICE2", EPOCH, "k1"))
        store.apply(Started(task_id(0), "DEVICE1", EPOCH, 1))
        self.assertEqual(
            [self.expected_s(store, number) for number in range(3)], [60.0, None, None]
        )
        row = store.tasks_of("DEVICE1", None, 10, EPOCH)
        self.assertEqual([each.waits_for for each in row], [Waiting.DEVICE, Waiting.DEVICE, None])
        self.assertEqual([each.expected_at is None for each in row], [True, True, False])

    def test_shards_of_one_worker(self) -> None:
        """The shards of one worker share its slots. Shards of another worker do not count."""
        worker_backlogs: list[Backlog] = []
        stores = [Store(86400.0, Backlog(10, worker_backlogs)) for _ in range(3)]
        for index, store in enumerate(stores):
            self.backlog(100, store=store, first=1000 * index)
        self.assertEqual(
            [self.expected_s(stores[0], number) for number in (0, 99)], [60.0, 60.0 * 30]
        )
        stores[2].apply(Active("p2", EPOCH, 10, EquipmentState.CLOSED))
        self.assertEqual(self.expected_s(stores[1], 1099), 60.0 * 20)

    def test_missing_keys(self) -> None:
        """Tasks that wait for a missing sealing key use no slot. Nor do tasks that would wait for
        the same key, or that are behind such a task.
        """
        store = self.backlog(50)
        for number in range(100, 150):
            store.apply(Requested(task_id(number), f"DEVICE{number:06}", EPOCH, key="k1"))
        for number in range(100, 120):
            store.apply(Withheld(task_id(number), f"DEVICE{number:06}", EPOCH, "k1"))
        for number in range(100, 110):
            store.apply(Requested(task_id(100 + number), f"DEVICE{number:06}", EPOCH, key="k2"))
        self.backlog(10, store=store, first=300)
        self.assertEqual(
            [self.expected_s(store, number) for number in (49, 100, 149, 200, 309)],
            [300.0, None, None, None, 360.0],
        )
        for number in range(100, 120):
            store.apply(Withheld(task_id(number), f"DEVICE{number:06}", EPOCH, "k1", over=True))
        store._forecaster._schedule = None
        self.assertEqual(
            [self.expected_s(store, number) for number in (49, 149, 200, 309)],
            [300.0, 600.0, 660.0, 720.0],
        )

    def test_missing_keys_elsewhere(self) -> None:
        """The same holds in other shards of the worker, and far back in the queue."""
        worker_backlogs: list[Backlog] = []
        stores = [Store(86400.0, Backlog(10, worker_backlogs)) for _ in range(2)]
        for index, store in enumerate(stores):
            self.backlog(100, store=store, first=1000 * index)
        for number in range(1000, 1100):
            stores[1].apply(Withheld(task_id(number), f"DEVICE{number:06}", EPOCH, "k1"))
        self.assertEqual(self.expected_s(stores[0], 99), 600.0)
        store = self.backlog(10_000, 100)
        for number in range(5000):
            store.apply(Withheld(task_id(number), f"DEVICE{number:06}", EPOCH, "k1"))
        self.assertEqual(self.expected_s(store, 9_999), 60.0 * 50)

    def test_trouble(self) -> None:
        """While the circuit breaker is open, all tasks wait for A except those behind a running
        call, and no end is estimated.
        """
        for state in (EquipmentState.OPEN, EquipmentState.HALF_OPEN):
            self.setUp()
            self.deliver(1, "DEVICE1")
            self.deliver(2, "DEVICE1")
            for number in range(3, 12):
                self.deliver(number, f"DEVICE{number}")
            self.deliver(12, "DEVICE11")
            self.store.apply(Active("p1", EPOCH, 5, state))
            told = [self.store.details(task_id(number), None, EPOCH) for number in (1, 2, 11, 12)]
            waits = [
                (each.waits_for, each.ahead, each.expected_at) for each in told if each is not None
            ]
            service = Waiting.SERVICE
            self.assertEqual(
                waits,
                [
                    (None, 0, EPOCH + 60.0),
                    (Waiting.DEVICE, 1, None),
                    (service, 0, None),
                    (service, 1, None),
                ],
            )
            # Jobs that wait for the call limiter must not end when they are collected.
            self.worker.detach()

    def test_cost(self) -> None:
        """An estimate simulates at most as many other tasks as a worker holds, and does so once a
        second.
        """
        store = self.backlog(5000)
        self.expected_s(store, 4999)
        schedule = store._forecaster._schedule
        assert schedule is not None
        self.assertEqual(len(schedule.planned), 2000)
        for number in range(5000):
            self.expected_s(store, number)
        self.assertIs(store._forecaster._schedule, schedule)
        self.assertEqual(len(schedule.planned), 2000)


class WholeSystem(SystemTestCase):
    """Estimates over HTTP. Settings of the active worker count, not those of its standby; either of
    the two answers.
    """

    def make(self) -> System:
        return System(concurrency=5)

    def setUp(self) -> None:
        super().setUp()
        self.system.start_worker(concurrency=500)
        self.system.network.advance(1)

    def task(self, number: str) -> dict[str, Any]:
        return cast(
            "dict[str, Any]", self.system.request("GET", f"/api/v1/tasks/{number}").json["task"]
        )

    def at(self, text: str) -> float:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()

    def test_a_backlog(self) -> None:
        """The last of many tasks has an estimated end, and ends then."""
        numbers = [self.system.accepted(f"DEVICE{number:04}") for number in range(40)]
        told = [self.task(numbers[-1]) for _ in range(4)]
        self.assertEqual(
            {(each["phase"], each["waitsFor"]["reason"]) for each in told},
            {("waiting", "concurrency")},
        )
        self.system.network.advance(60.0 * 8 + 5)
        ended = self.at(self.task(numbers[-1])["finishedAt"])
        for each in told:
            self.assertAlmostEqual(self.at(each["expectedFinishAt"]), ended, delta=5.0)

    @slow
    def test_a_is_down(self) -> None:
        """While A is down, all waiting tasks wait for A, no end is estimated, and no next attempt
        is in the past. Then the tasks continue.
        """
        self.system.network.factories.pop("a")
        numbers = [self.system.accepted(f"DEVICE{number:04}") for number in range(60)]
        self.system.network.advance(60.0)
        for number in (*numbers[:3], *numbers[-3:]) * 2:
            task = self.task(number)
            self.assertEqual(
                (task["waitsFor"]["reason"], task["expectedFinishAt"]), ("service", None)
            )
            for attempt in task["attempts"]:
                due = attempt["nextAttemptAt"]
                self.assertTrue(due is None or self.at(due) >= self.system.wall_clock(), due)
        self.system.start_stub()
        self.system.network.advance(80.0)  # a call that A answers takes a minute
        self.assertEqual(self.task(numbers[-1])["waitsFor"]["reason"], "concurrency")
        self.assertIsNotNone(self.task(numbers[-1])["expectedFinishAt"])
        self.system.network.advance(1000.0)
        self.assertEqual({self.task(number)["state"] for number in numbers}, {"completed"})
