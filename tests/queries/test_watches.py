"""Clients that wait for the end of a task (``Prefer: wait``): when they are answered, and what it
costs.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from rtprov.queries.shared_keys import COMPARE_EVERY_S
from rtprov.queries.status import WATCH_EVERY_S
from rtprov.queries.watches import MAX_WAITING, SLOT_S
from tests.support.memory import MemoryTransport
from tests.support.system import Answer, System
from tests.support.system_case import COMPLETED, FAILED, NO_TASK, RUNNING, SystemTestCase

DEVICE = "ABC123456"


class WaitTestCase(SystemTestCase):
    def begin(
        self, task_id: str, wait: object = 60, equipment_id: str = DEVICE, frontend: str = "b"
    ) -> Deferred[Answer]:
        path = f"/api/v1/equipment/cpe/{equipment_id}/task/{task_id}"
        return self.system.send("GET", path, None, frontend, {"Prefer": f"wait={wait}"})

    def told(self, pending: Deferred[Answer]) -> tuple[int, object]:
        answer = self.successResultOf(pending)
        return answer.status, answer.json


class Waiting(WaitTestCase):
    def test_the_end(self) -> None:
        """The answer is sent when the task ends, with ``Preference-Applied``."""
        task_id = self.system.accepted(DEVICE)
        self.system.network.advance(30)
        pending = self.begin(task_id)
        self.system.network.advance(29.9)
        self.assertNoResult(pending)
        self.system.network.advance(0.2)
        answer = self.successResultOf(pending)
        self.assertEqual(
            (answer.status, answer.json, answer.header("Preference-Applied")),
            (*COMPLETED, "wait=60"),
        )

    def test_the_time_is_over(self) -> None:
        """The answer is sent a little before the end of the time, by a second or a quarter of it.
        Then it is the same as without waiting.
        """
        task_id = self.system.accepted("HANG123456")
        for wait, early_s in ((1, 0.25), (2, 0.5), (3, 0.75), (4, 1), (5, 1), (30, 1)):
            self.system.network.advance(0.333)
            pending = self.begin(task_id, wait, "HANG123456")
            self.system.network.advance(wait - early_s - SLOT_S - 0.01)
            self.assertNoResult(pending)
            self.system.network.advance(SLOT_S + 0.02)
            answer = self.successResultOf(pending)
            self.assertEqual((answer.status, answer.json), RUNNING)
            self.assertEqual(
                (answer.header("Preference-Applied"), answer.header("Retry-After")),
                (f"wait={wait}", "5"),
            )

    def test_at_most_a_minute(self) -> None:
        """A longer wait is limited to a minute, which the answer says. A proxy with a timeout of
        one minute gets the answer in time.
        """
        task_id = self.system.accepted("HANG123456")
        pending = self.begin(task_id, 3600, "HANG123456")
        self.system.network.advance(58.8)
        self.assertNoResult(pending)
        self.system.network.advance(0.3)
        self.assertEqual(self.successResultOf(pending).header("Preference-Applied"), "wait=60")

    def test_nothing_to_wait_for(self) -> None:
        """A task that has ended or does not exist is answered at once."""
        task_id = self.system.accepted(DEVICE)
        self.system.network.advance(61)
        pending = self.begin(task_id)
        self.system.network.settle()
        self.assertEqual(self.told(pending), COMPLETED)
        pending = self.begin("0" * 32)
        self.system.network.advance(1)
        self.assertEqual(self.told(pending), NO_TASK)

    def test_each_end(self) -> None:
        """A failure ends the wait too, and so does a cancellation, but not one that is too late."""
        failing, running = self.system.accepted("FAIL123456"), self.system.accepted(DEVICE)
        queued = self.system.accepted(DEVICE)
        self.system.network.advance(1)
        waits = [self.begin(failing, 60, "FAIL123456"), self.begin(running), self.begin(queued)]
        self.system.network.advance(1)
        for task_id, status in ((running, 409), (queued, 200)):
            self.assertEqual(
                self.system.request(
                    "DELETE", f"/api/v1/equipment/cpe/{DEVICE}/task/{task_id}"
                ).status,
                status,
            )
        self.assertEqual(self.told(waits[2])[0], 500)
        self.assertNoResult(waits[1])
        self.system.network.advance(59)
        self.assertEqual([self.told(each) for each in waits[:2]], [FAILED, COMPLETED])

    def test_hang_up(self) -> None:
        """A client that hangs up is forgotten. Another client of the same task still waits."""
        task_id = self.system.accepted(DEVICE)
        self.system.network.advance(2)
        gone, kept = self.begin(task_id), self.begin(task_id)
        self.system.network.advance(3)
        self.assertEqual(self.system.frontends["b"].ends.waiting, 2)
        gone.addErrback(lambda reason: None)
        gone.cancel()
        self.system.network.advance(1)
        self.assertEqual(self.system.frontends["b"].ends.waiting, 1)
        self.system.network.advance(55)
        self.assertEqual(self.told(kept), COMPLETED)
        self.assertEqual(self.system.frontends["b"].ends.waiting, 0)

    def test_waiting_again_after_expiry(self) -> None:
        """A client that waits again after the first subscription has expired gets the end as it
        would the first time.
        """
        task_id = self.system.accepted(DEVICE)
        self.system.network.advance(5)
        first = self.begin(task_id, 5)
        self.system.network.advance(25)
        self.assertEqual(self.told(first), RUNNING)
        again = self.begin(task_id)
        self.system.network.advance(30.1)
        self.assertEqual(self.told(again), COMPLETED)

    def test_stop(self) -> None:
        """A front end that stops answers its waiting clients."""
        task_id = self.system.accepted(DEVICE)
        pending = self.begin(task_id)
        self.system.network.advance(5)
        self.system.frontends["b"].ends.stop()
        self.system.network.advance(1)
        self.assertEqual(self.told(pending), RUNNING)


class Trouble(WaitTestCase):
    def stop_answering(self) -> None:
        """Make the worker stop reading."""
        self.workers_end().pauseProducing()

    def go_on(self) -> None:
        self.workers_end().resumeProducing()
        self.system.network.advance(1)

    def workers_end(self) -> MemoryTransport:
        """Return the worker's end of its connection to the broker, which was made after the front
        end's.
        """
        return [end for name, end in self.system.network.connections if name == "broker"][-1]

    def test_broker_connections_lost(self) -> None:
        """If every connection to the broker breaks, clients still wait, and get the end when it
        comes.
        """
        task_id = self.system.accepted(DEVICE)
        self.system.network.advance(5)
        pending = self.begin(task_id)
        self.system.network.advance(25)
        self.system.network.cut("broker")
        self.system.network.advance(29.5)
        self.assertNoResult(pending)
        self.system.network.advance(1)
        self.assertEqual(self.told(pending), COMPLETED)

    def test_ended_while_nobody_told(self) -> None:
        """If a task ends while the front end is disconnected, the client is answered after the
        reconnect.
        """
        task_id = self.system.accepted(DEVICE)
        self.system.network.advance(50)
        pending = self.begin(task_id)
        self.system.network.advance(1)
        factory = self.system.network.factories.pop("broker")
        for name, end in self.system.network.connections:
            if name == "broker":
                end.cut()
        self.system.network.advance(5)
        self.system.network.factories["broker"] = factory
        self.system.network.advance(15)
        self.assertEqual(self.told(pending), COMPLETED)

    def test_no_worker(self) -> None:
        """If the last worker stops, clients wait until another one answers. If there is none at the
        end of the time, the answer is a 503.
        """
        task_id = self.system.accepted(DEVICE)
        pending = self.begin(task_id, 20)
        self.system.network.advance(1)
        self.system.workers[0].connection.stopService()
        self.system.network.advance(17.8)
        self.assertNoResult(pending)
        self.system.network.advance(0.3)
        self.assertEqual(self.told(pending)[0], 503)

    def test_silent_worker(self) -> None:
        """The time is an upper bound: a worker that does not send the present state, or nothing at
        all, does not make it longer.
        """
        task_id = self.system.accepted("HANG123456")
        self.system.network.advance(1)
        for wait, answer in ((1, RUNNING), (4, RUNNING), (20, RUNNING)):
            pending = self.begin(task_id, wait, "HANG123456")
            self.system.network.advance(0.1)
            self.stop_answering()
            self.system.network.advance(wait - 0.1 - min(0.5, wait / 8))
            self.assertEqual(self.told(pending), answer)
            self.go_on()
        self.stop_answering()
        for wait in (1, 4):
            pending = self.begin(task_id, wait, "HANG123456")
            self.system.network.advance(wait - min(0.5, wait / 8))
            self.assertEqual(self.told(pending)[0], 503)
        pending = self.begin(task_id, 60, "HANG123456")
        self.system.network.advance(5)
        self.assertEqual(self.told(pending)[0], 503)
        self.go_on()


class Failover(WaitTestCase):
    def make(self) -> System:
        return System(delay_s=30.0)

    def test_a_standby_tells(self) -> None:
        """If the active worker stops, the standby, which repeats the call, notifies the waiting
        clients.
        """
        task_id = self.system.accepted(DEVICE)
        self.system.start_worker()
        self.system.network.advance(5)
        pending = []
        for _ in range(2):
            pending.append(self.begin(task_id, 60))
            self.system.network.advance(11)
        self.assertGreater(self.system.stub.calls, 0)
        self.system.workers[0].connection.stopService()
        self.system.network.advance(29.9)
        for each in pending:
            self.assertNoResult(each)
        self.system.network.advance(0.5)
        self.assertEqual([self.told(each) for each in pending], [COMPLETED, COMPLETED])


class Renewal(WaitTestCase):
    def make(self) -> System:
        return System(delay_s=15.5)

    def test_no_gap(self) -> None:
        """A subscription is renewed when it expires: if the task ends right after that, the client
        is answered at once.
        """
        task_id = self.system.accepted(DEVICE)
        self.system.network.advance(5.3)
        pending = self.begin(task_id)
        self.system.network.advance(10.1)
        self.assertNoResult(pending)
        self.system.network.advance(0.2)
        self.assertEqual(self.told(pending), COMPLETED)


class Many(WaitTestCase):
    def make(self) -> System:
        return System(shards=2, delay_s=35.0)

    def test_cost(self) -> None:
        """For each shard, a hundred waiting clients cost a message in ten seconds, and one more
        when their tasks end together.
        """
        task_ids = {
            f"DEVICE{number:04}": self.system.accepted(f"DEVICE{number:04}")
            for number in range(100)
        }
        self.system.network.advance(1)
        front = self.system.frontends["b"]
        pending = [
            self.begin(task_id, 60, equipment_id) for equipment_id, task_id in task_ids.items()
        ]
        self.system.network.advance(2)
        self.assertEqual(front.ends.waiting, 100)
        sent = front.ends._rpc._last_id
        self.system.network.advance(25)
        # for the workers of each shard, and for their keys
        looks = 2 * (25 / WATCH_EVERY_S + 25 / COMPARE_EVERY_S)
        self.assertLessEqual(front.ends._rpc._last_id - sent, 2 * 3 * 2 + looks)
        self.system.network.advance(9)
        self.assertEqual({self.told(each)[0] for each in pending}, {200})
        self.assertEqual(
            {worker.watched for service in self.system.workers for worker in service.inquiries}, {0}
        )

    def test_timers(self) -> None:
        """One timer serves all waits, however many and however long. A wait that ends earlier
        reschedules it.
        """
        ends = self.system.frontends["b"].ends
        before = len(self.system.clock.getDelayedCalls())
        fired: list[tuple[float, float]] = []
        began = self.system.clock.seconds()

        def note(_: object, wait_s: float) -> None:
            fired.append((wait_s, self.system.clock.seconds() - began))

        for number in range(1000):
            wait_s = (number * 37 % 600) / 10
            ends.wait(f"{number:032x}", DEVICE, wait_s).addCallback(note, wait_s)
        # and one for each shard's subscription
        self.assertLessEqual(len(self.system.clock.getDelayedCalls()) - before, 3)
        self.system.network.advance(60)
        self.assertEqual((len(fired), ends.waiting), (1000, 0))
        for wait_s, after_s in fired:
            self.assertTrue(wait_s - SLOT_S - 0.001 <= after_s <= wait_s + 0.001, (wait_s, after_s))

    def test_full(self) -> None:
        """Above the limit of a front end the preference is not applied: the answer is sent
        at once.
        """
        task_id = self.system.accepted(DEVICE)
        self.system.frontends["b"].ends.waiting = MAX_WAITING
        pending = self.begin(task_id)
        self.system.network.advance(1)
        answer = self.successResultOf(pending)
        self.assertEqual(
            (answer.status, answer.json, answer.header("Preference-Applied")), (*RUNNING, None)
        )
        self.system.frontends["b"].ends.waiting = 0
