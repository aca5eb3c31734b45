"""``Idempotency-Key``: one key is one task, however often the POST is repeated, through any front
end, and whatever fails in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, capturedLogs, formatEvent

from rtprov.clocks import WallClock
from rtprov.journal import record, store
from rtprov.messaging.event_messages import encode_event, encode_task
from rtprov.messaging.topology import TASKS_EXCHANGE, Shard, persistent
from rtprov.model import Requested, Task, keyed_task_id
from rtprov.worker.service import EXPIRE_EVERY_S
from tests.support.scale import slow
from tests.support.system import EPOCH, REQUEST, Answer, System
from tests.support.system_case import COMPLETED, NO_TASK, RUNNING, SystemTestCase

DEVICE = "ABC123456"
RETENTION_S = 600.0
SLACK_S = 400.0
PATH = f"/api/v1/equipment/cpe/{DEVICE}"
OTHER = {**REQUEST, "timeoutInSeconds": 15}
REUSED = (
    422,
    {
        "code": 422,
        "message": "This Idempotency-Key was used for this equipment before, with another body",
    },
)


def outcomes(events: Sequence[LogEvent]) -> list[str]:
    """Return the outcomes of POSTs in the audit log."""
    return [event["outcome"] for event in events if event["log_namespace"] == "rtprov.audit"]


class KeyTestCase(SystemTestCase):
    def post(
        self,
        body: object = REQUEST,
        key: str = "k1",
        frontend: str = "b",
        equipment_id: str = DEVICE,
    ) -> tuple[int, object]:
        answer = self.system.post(equipment_id, body, frontend, key)
        return answer.status, answer.json

    def accepted(
        self,
        body: object = REQUEST,
        key: str = "k1",
        frontend: str = "b",
        equipment_id: str = DEVICE,
    ) -> str:
        status, answer = self.post(body, key, frontend, equipment_id)
        self.assertEqual(status, 200, answer)
        return cast("dict[str, str]", answer)["taskId"]

    def send(self, body: object, frontend: str, key: str = "k1") -> Deferred[Answer]:
        return self.system.send("POST", PATH, body, frontend, {"Idempotency-Key": key})


class ClocksThatDiffer(KeyTestCase):
    """A front end whose clock is further ahead than the retention."""

    def make(self) -> System:
        return System(retention_s=RETENTION_S)

    def setUp(self) -> None:
        super().setUp()
        right = self.system.wall_clock
        seconds = self.system.clock.seconds
        self.system.wall_clock = WallClock(lambda: EPOCH + 100_000 + seconds(), seconds)
        self.system.start_frontend("ahead")
        self.system.wall_clock = right
        self.system.network.advance(3.0)

    def test_completed(self) -> None:
        """Its task with a key ends in one status, after one call, and the next one goes on."""
        task_id, other = self.accepted(frontend="ahead"), self.system.accepted(DEVICE)
        self.system.network.advance(61)
        self.assertEqual(self.status(DEVICE, task_id), COMPLETED)
        self.system.network.advance(61)
        self.system.stop_worker(-1)
        self.system.start_worker()
        self.system.network.advance(61)
        self.assertEqual(self.status(DEVICE, other), COMPLETED)
        self.assertEqual((self.accepted(), self.system.stub.calls), (task_id, 2))

    def test_cancelled(self) -> None:
        """Its task with a key can be cancelled, through any front end."""
        self.system.accepted(DEVICE)
        task_id = self.accepted(frontend="ahead")
        answer = self.system.request("DELETE", f"{PATH}/task/{task_id}")
        self.assertEqual(answer.status, 200, answer.body)
        self.system.network.advance(200)
        self.assertEqual(self.system.stub.calls, 1)


class OneKey(KeyTestCase):
    """The retention, and the time that keys are kept after it, are short, so that the tests are
    quick.
    """

    def make(self) -> System:
        self.patch(record, "KEY_SLACK_S", SLACK_S)
        self.patch(store, "NEW_TASK_AFTER_S", SLACK_S / 2)
        return System(retention_s=RETENTION_S)

    def test_repeated(self) -> None:
        """The same key and body give the same task before it runs, while it runs and after it. A is
        called once.
        """
        task_id = self.accepted()
        self.assertEqual(self.accepted(), task_id)
        self.system.network.advance(30)
        self.assertEqual((self.accepted(), self.status(DEVICE, task_id)), (task_id, RUNNING))
        self.system.network.advance(31)
        self.assertEqual((self.accepted(), self.status(DEVICE, task_id)), (task_id, COMPLETED))
        self.system.network.advance(100)
        self.assertEqual(self.system.stub.calls, 1)

    def test_the_id(self) -> None:
        """The task id depends on device and key. Another key, or the same key for another device,
        is another task.
        """
        ids = [self.accepted(), self.accepted(key="k2"), self.accepted(equipment_id="DEF123456")]
        self.assertEqual(
            ids,
            [
                keyed_task_id(DEVICE, "k1"),
                keyed_task_id(DEVICE, "k2"),
                keyed_task_id("DEF123456", "k1"),
            ],
        )
        self.assertEqual(len(set(ids)), 3)
        self.system.network.advance(130)
        self.assertEqual(self.system.stub.calls, 3)

    def test_another_body(self) -> None:
        """Another body with the same key is a 422, even if it means the same. The first task
        continues.
        """
        task_id = self.accepted()
        same = b" " + repr(REQUEST).replace("'", '"').encode()
        for body in (OTHER, same):
            self.assertEqual(self.post(body), REUSED)
        self.system.network.advance(61)
        self.assertEqual((self.status(DEVICE, task_id), self.post(OTHER)), (COMPLETED, REUSED))
        self.assertEqual(self.system.stub.calls, 1)

    def test_another_front_end(self) -> None:
        """A front end that has not seen the key gives the same answers."""
        self.system.start_frontend("b2")
        self.system.network.advance(1)
        task_id = self.accepted()
        self.assertEqual(self.accepted(frontend="b2"), task_id)
        self.assertEqual(self.post(OTHER, frontend="b2"), REUSED)

    @slow
    def test_a_key_is_forgotten(self) -> None:
        """An hour after the retention the key makes a new task, which runs. A worker that replays
        the journal agrees.
        """
        task_id = self.accepted()
        self.system.network.advance(61)
        self.system.network.advance(RETENTION_S + SLACK_S + 2 * EXPIRE_EVERY_S)
        self.assertEqual(self.accepted(OTHER), task_id)
        self.system.start_worker()
        self.system.network.advance(5)
        self.assertEqual(self.system.stub.calls, 2)
        stores = [worker.stores[0] for worker in self.system.workers]
        self.assertEqual([store.finished(task_id) for store in stores], [False, False])
        self.system.network.advance(57)
        self.assertEqual([store.finished(task_id) for store in stores], [True, True])
        self.assertEqual(self.post(), REUSED)

    @slow
    def test_no_front_end_remembers_the_old_task(self) -> None:
        """A front end that remembers the old task's final status returns the new task's status,
        whichever front end accepted the new task.
        """
        self.system.start_frontend("b2")
        self.system.network.advance(1)
        task_id = self.accepted()
        self.system.network.advance(61)
        self.system.network.advance(RETENTION_S + SLACK_S - 120)
        for frontend in ("b", "b2"):
            self.assertEqual(self.status(DEVICE, task_id, frontend), COMPLETED)
        self.system.network.advance(120 + 2 * EXPIRE_EVERY_S)
        self.assertEqual(self.accepted(), task_id)
        for frontend in ("b", "b2"):
            self.assertEqual(self.status(DEVICE, task_id, frontend), RUNNING)

    def test_before_it_is_forgotten(self) -> None:
        """Until the key expires it gives its old task, whose status is still available."""
        task_id = self.accepted()
        self.system.network.advance(61 + RETENTION_S + SLACK_S / 2)
        self.assertEqual((self.accepted(), self.status(DEVICE, task_id)), (task_id, COMPLETED))
        self.assertEqual(self.system.stub.calls, 1)


class AtOnce(KeyTestCase):
    """Two front ends accept the same key at the same time."""

    def setUp(self) -> None:
        super().setUp()
        self.system.start_frontend("b2")
        self.system.network.advance(1)

    def both(self, one: object, other: object) -> list[tuple[int, object]]:
        pending = [self.send(one, "b"), self.send(other, "b2")]
        self.system.network.until(lambda: all(each.called for each in pending), 10.0)
        answers = [self.successResultOf(each) for each in pending]
        return [(answer.status, answer.json) for answer in answers]

    def test_the_same_body(self) -> None:
        """Both return the same task, and A is called once."""
        task_id = keyed_task_id(DEVICE, "k1")
        self.assertEqual(self.both(REQUEST, REQUEST), [(200, {"code": 200, "taskId": task_id})] * 2)
        self.system.network.advance(130)
        self.assertEqual((self.status(DEVICE, task_id), self.system.stub.calls), (COMPLETED, 1))

    def test_other_bodies(self) -> None:
        """One of them returns the task, the other a 422. Only the first body in the journal is sent
        to A.
        """
        answers = self.both(REQUEST, OTHER)
        self.assertEqual(sorted(status for status, _ in answers), [200, 422])
        self.assertIn(REUSED, answers)
        self.system.network.advance(130)
        self.assertEqual(self.system.stub.calls, 1)
        winner = (REQUEST, OTHER)[answers.index(REUSED) - 1]
        self.accepted(winner)

    def test_accepted_once(self) -> None:
        """Of simultaneous POSTs of a key, the audit log calls one accepted and the others repeated,
        on any front end.
        """
        with capturedLogs() as events:
            pending = [self.send(REQUEST, frontend) for frontend in ("b", "b2", "b", "b2", "b")]
            self.system.network.until(lambda: all(each.called for each in pending), 10.0)
        self.assertEqual([self.successResultOf(each).status for each in pending], [200] * 5)
        self.assertEqual(sorted(outcomes(events)), ["accepted", *["repeated"] * 4])

    def test_accepted_before(self) -> None:
        """The audit log calls a POST of a key whose task is still waiting a repeat."""
        with capturedLogs() as events:
            for key in ("k0", "k1", "k1"):
                self.accepted(key=key)
                self.system.network.advance(1)
        self.assertEqual(outcomes(events), ["accepted", "accepted", "repeated"])

    def test_the_audit_trail(self) -> None:
        """The audit log has no line for a refused POST, nor for a repeated POST of a task that has
        started.
        """
        with capturedLogs() as events:
            self.both(REQUEST, OTHER)
            self.system.network.advance(1)
            self.both(REQUEST, OTHER)
        lines = [
            formatEvent(event).partition(" from ")[0]
            for event in events
            if event["log_namespace"] == "rtprov.audit"
        ]
        self.assertEqual(lines, [f"accepted: task {keyed_task_id(DEVICE, 'k1')} for {DEVICE}"])


class Breaks(KeyTestCase):
    """What a client sees, and what a repeated POST gives, if something breaks."""

    def broken_after(self, turns: int, equipment_id: str) -> Answer:
        """Send a POST, and cut all connections to the broker after this many turns of the clock;
        return the answer.
        """
        pending = self.system.send(
            "POST", f"/api/v1/equipment/cpe/{equipment_id}", REQUEST, "b", {"Idempotency-Key": "k1"}
        )
        for _ in range(turns):
            self.system.clock.advance(0)
        self.system.network.cut("broker")
        self.system.network.until(lambda: bool(pending.called), 10.0)
        return self.successResultOf(pending)

    @slow
    def test_cut_at_any_point(self) -> None:
        """Whenever the broker's connections break, the answer is 200 or 503, and a repeated POST
        gives the same single task.
        """
        statuses = set()
        for turns in range(40):
            equipment_id = f"CUT{turns:06}"
            task_id = keyed_task_id(equipment_id, "k1")
            statuses.add(self.broken_after(turns, equipment_id).status)
            self.system.network.advance(10)
            self.assertEqual(self.accepted(equipment_id=equipment_id), task_id)
            self.system.network.advance(70)
            self.assertEqual(
                (self.status(equipment_id, task_id), self.system.stub.calls),
                (COMPLETED, turns + 1),
                turns,
            )
        self.assertEqual(statuses, {200, 503})

    def test_no_worker(self) -> None:
        """Without a worker it is unknown whether the key is used: the answer is 503, and no task is
        made.
        """
        stopped = self.system.workers.pop().stopService()
        self.system.network.until(lambda: bool(stopped.called))
        self.assertEqual(self.post()[0], 503)
        self.system.start_worker()
        self.system.network.advance(10)
        self.assertEqual(
            (self.system.stub.calls, self.status(DEVICE, keyed_task_id(DEVICE, "k1"))), (0, NO_TASK)
        )
        self.accepted()

    def test_failover(self) -> None:
        """A standby knows the key. It repeats only the call that the first worker's end has cut
        off.
        """
        task_id = self.accepted()
        self.system.network.advance(61)
        self.system.start_worker()
        self.system.network.advance(2)
        stopped = self.system.workers.pop(0).stopService()
        self.system.network.until(lambda: bool(stopped.called))
        self.assertEqual((self.accepted(), self.post(OTHER)), (task_id, REUSED))
        self.system.network.advance(61)
        self.assertEqual(self.system.stub.calls, 1)

    def test_only_in_the_work_queue(self) -> None:
        """If a message reached the work queue but not the journal, the worker adds it to the
        journal, and the key gives its task.
        """
        body = b'{"timeoutInSeconds": 14, "parameters": [{"vlan": 534}]}'
        task_id, sealer = keyed_task_id(DEVICE, "k1"), self.system.sealer
        task = Task(
            task_id,
            DEVICE,
            14,
            self.system.wall_clock(),
            sealer.seal(body),
            sealer.fingerprint(task_id, body),
        )
        publisher = self.system.workers[0]._publisher
        publisher.publish("", Shard(0, 1).work, encode_task(task), properties=persistent())
        self.system.network.advance(1)
        self.assertEqual((self.accepted(body), self.post(OTHER)), (task_id, REUSED))
        self.system.network.advance(61)
        self.assertEqual((self.status(DEVICE, task_id), self.system.stub.calls), (COMPLETED, 1))

    def test_only_in_the_journal(self) -> None:
        """If a message reached the journal but not the work queue, a repeated POST publishes it
        again, with any sealing key.
        """
        body = b'{"timeoutInSeconds": 14, "parameters": [{"vlan": 534}]}'
        task_id, sealer = keyed_task_id(DEVICE, "k1"), self.system.sealer
        requested = Requested(
            task_id, DEVICE, self.system.wall_clock(), sealer.fingerprint(task_id, body)
        )
        publisher = self.system.workers[0]._publisher
        publisher.publish(
            TASKS_EXCHANGE, Shard(0, 1).event_key, encode_event(requested), properties=persistent()
        )
        self.system.network.advance(1)
        self.assertEqual(
            (self.post(OTHER), self.accepted(body), self.accepted(body)), (REUSED, task_id, task_id)
        )
        self.system.network.advance(61)
        self.assertEqual((self.status(DEVICE, task_id), self.system.stub.calls), (COMPLETED, 1))

    def test_another_body_behind_the_check(self) -> None:
        """A second body that passes every check and gets into the queue is never sent to A, and
        does not end the task.
        """
        task_id, sealer = self.accepted(), self.system.sealer
        task = Task(
            task_id,
            DEVICE,
            14,
            self.system.wall_clock(),
            sealer.seal(b"{}"),
            sealer.fingerprint(task_id, b"{}"),
        )
        publisher = self.system.workers[0]._publisher
        publisher.publish(
            TASKS_EXCHANGE, Shard(0, 1).requested_key, encode_task(task), properties=persistent()
        )
        self.system.network.advance(30)
        self.assertEqual(self.status(DEVICE, task_id), RUNNING)
        self.system.network.advance(100)
        self.assertEqual(
            (
                self.status(DEVICE, task_id),
                self.system.stub.calls,
                self.system.workers[0].workers[0].held,
            ),
            (COMPLETED, 1, 0),
        )
