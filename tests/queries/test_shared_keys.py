"""Front ends whose sealing key no worker has; who may make a key; and keys that are rotated while
everything runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from attrs import define
from cryptography.fernet import Fernet

from rtprov.errors import ConfigurationError, UndecodableMessage
from rtprov.messaging.query_messages import KeysAsked, decode_question
from rtprov.model import keyed_task_id, shard_of
from rtprov.queries import directory as inquiries
from rtprov.queries.shared_keys import COMPARE_EVERY_S
from rtprov.security.sealer import FernetSealer
from tests.support.sealing_keys import NEXT, OUR_ID, OURS, THEIR_ID, THEIRS, KeysTestCase
from tests.support.system import System
from tests.support.system_case import COMPLETED, RUNNING

DEVICE = "ABC123456"
TAKEN, REFUSED = 200, 503


class FrontEnds(KeysTestCase):
    """A front end with `OURS` in front of a worker with `THEIRS`."""

    def setUp(self) -> None:
        super().setUp()
        self.system.network.advance(5)

    def posted(self, frontend: str = "b", key: str | None = None) -> int:
        return self.system.post(DEVICE, frontend=frontend, key=key).status

    def ready(self, frontend: str = "b") -> tuple[int, str]:
        answer = self.system.request("GET", "/readyz", None, frontend)
        return answer.status, answer.json["message"]

    def refusals(self) -> list[str]:
        return [line for line in self.errors if line.startswith("POSTs are refused")]

    def test_refused(self) -> None:
        """POSTs are a 503 that says why, with an ``Idempotency-Key`` too, and made no task; the
        front end is not ready, and says why.
        """
        for key in (None, "k1"):
            answer = self.system.post(DEVICE, key=key)
            self.assertEqual(
                (answer.status, answer.json["code"], answer.header("Retry-After")), (503, 503, "2")
            )
            self.assertEqual(
                answer.json["message"],
                "The task was not accepted: no worker has this front end's first sealing key,"
                f" {OUR_ID}. Front ends and workers need the same key file",
            )
        why = (
            f"Not ready: no worker of shard 0of1 has this front end's first sealing key, {OUR_ID}."
            " Front ends and workers need the same key file"
        )
        self.assertEqual(self.ready(), (503, why))
        self.assertEqual(
            self.system.request("GET", f"/api/v1/equipment/cpe/{DEVICE}/task").json["tasks"], []
        )

    def test_said_once(self) -> None:
        """The log says it once, with the ids of both sides, however long it lasts; and once that it
        is over.
        """
        for _ in range(20):
            self.posted()
            self.system.network.advance(1)
        self.assertEqual(len(self.refusals()), 1)
        self.assertIn(OUR_ID, self.refusals()[0])
        self.assertIn(f"the workers have: {THEIR_ID}.", self.refusals()[0])
        self.file.replace([THEIRS, OURS])
        self.system.network.advance(COMPARE_EVERY_S)
        self.assertEqual((self.posted(), self.ready()[0], len(self.refusals())), (TAKEN, 200, 1))
        self.assertEqual(sum("POSTs are accepted again" in event for event in self.events), 1)

    def test_a_worker_comes_that_has_it(self) -> None:
        """The front end goes on by itself as soon as some worker has its key, be it the standby."""
        self.assertEqual(self.posted(), REFUSED)
        worker = self.system.start_worker()
        self.system.network.until(lambda: worker.connection.connected, 10.0)
        self.system.network.advance(COMPARE_EVERY_S)
        self.assertEqual((self.posted(), self.ready()[0]), (TAKEN, 200))

    def test_no_worker(self) -> None:
        """With no worker alive a POST is taken, also where the last one that lived did not have the
        key.
        """
        self.assertEqual(self.posted(), REFUSED)
        self.stop_worker()
        self.system.network.advance(2)
        self.assertEqual(self.posted(), TAKEN)
        self.replaced()
        self.system.network.advance(COMPARE_EVERY_S + 1.5)
        self.assertEqual((self.posted(), len(self.refusals())), (REFUSED, 1))

    def test_probed(self) -> None:
        """Who asks whether the front end is ready is told what holds now, and so is the next
        POST.
        """
        self.system.sealer.replace([THEIRS])
        self.system.network.advance(5)
        self.assertEqual(self.ready()[0], 200)
        self.file.replace([NEXT])
        self.system.network.advance(1.1)
        self.assertEqual((self.ready()[0], self.posted()), (503, REFUSED))

    def test_fresh_front_end(self) -> None:
        """A front end that starts compares before it takes its first POST."""
        self.system.start_frontend("b2")
        statuses = set()
        for _ in range(60):
            statuses.add(self.posted("b2"))
            self.system.network.advance(0.05)
        self.assertEqual(statuses, {REFUSED})

    def test_its_own_file_changes(self) -> None:
        """A front end whose file gets a new first key seals with that from then on; it need not be
        restarted to have the right one.
        """
        self.assertEqual(self.posted(), REFUSED)
        self.system.sealer.replace([THEIRS, OURS])
        self.system.network.settle()
        task_id = self.system.accepted(DEVICE)
        self.system.network.advance(3)
        self.assertEqual(self.status(DEVICE, task_id), COMPLETED)
        self.system.sealer.replace([OURS, THEIRS])
        self.system.network.advance(COMPARE_EVERY_S + 1.5)
        self.assertEqual(self.posted(), REFUSED)

    def test_workers_go(self) -> None:
        """A worker that loses the key is noticed within seconds; a task that was taken meanwhile
        waits.
        """
        self.file.replace([OURS])
        self.system.network.advance(COMPARE_EVERY_S)
        self.assertEqual(self.posted(), TAKEN)
        self.file.replace([THEIRS])
        taken = self.system.accepted(DEVICE)
        self.system.network.advance(COMPARE_EVERY_S + 1.5)
        self.assertEqual((self.posted(), self.status(DEVICE, taken)), (REFUSED, RUNNING))

    def test_a_worker_that_hangs(self) -> None:
        """Workers that have answered before and are silent for once are asked again within seconds,
        and not only after a minute.
        """
        self.system.sealer.replace([THEIRS])
        self.system.network.advance(5)
        connection = self.system.workers[0].connection
        asked: list[float] = []
        server = next(
            each
            for each in cast("Any", connection)._sessions
            if isinstance(each, inquiries.TaskQueryServer)
        )

        def hang() -> list[str]:
            asked.append(self.system.clock.seconds())
            raise ZeroDivisionError

        self.patch(server, "_key_ids", hang)
        while not asked:
            self.system.network.advance(0.5)
        self.patch(server, "_key_ids", lambda: [OUR_ID])
        self.assertEqual(self.posted(), TAKEN)
        self.system.network.advance(COMPARE_EVERY_S + 2)
        self.assertEqual(
            (self.posted(), len(asked), len(self.flushLoggedErrors(ZeroDivisionError))),
            (REFUSED, 1, 1),
        )

    def test_connections_break(self) -> None:
        """A front end that refuses, and loses the broker, goes on refusing."""
        for _ in range(5):
            self.system.network.cut("broker")
            self.system.network.advance(8)
            self.assertEqual(self.posted(), REFUSED)
        self.assertEqual(len(self.refusals()), 1)


class EarlierWorker(KeysTestCase):
    def setUp(self) -> None:
        def decode(body: bytes) -> Any:
            question = decode_question(body)
            if isinstance(question, KeysAsked):
                raise UndecodableMessage("not a question about tasks")
            return question

        self.patch(inquiries, "decode_question", decode)
        super().setUp()

    def test_does_not_understand(self) -> None:
        """A worker of an earlier version says nothing of its keys: POSTs are taken. It is not asked
        again and again.
        """
        for _ in range(50):
            self.assertEqual(self.system.post(DEVICE).status, TAKEN)
            self.system.network.advance(1)
        self.assertEqual(self.system.request("GET", "/readyz").status, 200)
        self.assertLess(len(self.flushLoggedErrors(UndecodableMessage)), 8)


class TwoShards(KeysTestCase):
    def make(self) -> System:
        return System(delay_s=2.0, shards=2)

    def test_only_one_has_it(self) -> None:
        """Only the tasks of the shard whose workers lack the key are refused; not ready is the
        whole front end.
        """
        self.stop_worker()
        for shard, keys in ((0, [OURS]), (1, [THEIRS])):
            self.system.start_worker(shards=[shard], sealer=FernetSealer(keys))
        self.system.network.advance(5)
        answers = {number: self.system.post(f"DEVICE{number:04}").status for number in range(20)}
        for number, status in answers.items():
            self.assertEqual(status, (TAKEN, REFUSED)[shard_of(f"DEVICE{number:04}", 2)])
        self.assertIn("shard 1of2", self.system.request("GET", "/readyz").json["message"])


class Rotation(KeysTestCase):
    theirs = (OURS,)

    def test_as_documented(self) -> None:
        """Add as second everywhere, make it the first, drop the old one: no step refuses a POST,
        and every task is completed.
        """
        front, worker = self.system.sealer, self.file
        tasks: list[tuple[str, str]] = []

        def post() -> None:
            for _ in range(3):
                device = f"DEVICE{len(tasks):04}"
                tasks.append((device, self.system.accepted(device)))
                self.system.network.advance(1)

        for keys in ([OURS, NEXT], [NEXT, OURS], [NEXT]):
            for one, other in ((front, worker), (worker, front)):
                if keys == [NEXT] and one is worker:
                    # the last task that the old key sealed has ended
                    self.system.network.advance(5)
                one.replace(keys)
                post()
                other.replace(keys)
                post()
        self.system.network.advance(3)
        self.assertEqual(
            [self.status(device, task_id) for device, task_id in tasks], [COMPLETED] * len(tasks)
        )
        self.assertEqual(self.errors, [])


class Idempotency(KeysTestCase):
    """A POST that repeats one whose key is gone."""

    theirs = (OURS, NEXT)

    def test_key_gone(self) -> None:
        """Whether the body is the same cannot be told: 503, which says so, and never "another
        body"; with the key it is told again.
        """
        body = {"timeoutInSeconds": 14, "parameters": [{"vlan": 1}]}
        self.assertEqual(
            self.system.post(DEVICE, body, key="k1").json["taskId"], keyed_task_id(DEVICE, "k1")
        )
        self.system.sealer.replace([NEXT])
        self.system.network.settle()
        for each in (body, {**body, "timeoutInSeconds": 15}):
            answer = self.system.post(DEVICE, each, key="k1")
            self.assertEqual((answer.status, answer.header("Retry-After")), (503, "2"))
            self.assertIn(
                f"the sealing key {OUR_ID} is not in its key file",
                answer.json["message"],
            )
        self.assertEqual(self.system.post(DEVICE, body, key="k2").status, 200)
        self.system.sealer.replace([NEXT, OURS])
        statuses = [
            self.system.post(DEVICE, each, key="k1").status
            for each in (body, {**body, "timeoutInSeconds": 15})
        ]
        self.assertEqual(statuses, [200, 422])


@define(eq=False)
class Source:
    """A key file that is made when it may be; `sealer` is without keys until then."""

    sealer: FernetSealer
    path: Path = Path("certs/seal.key")
    made: int = 0
    comes: bytes | None = None

    def found(self) -> bool:
        if self.comes is not None and not self.sealer.key_ids:
            self.sealer.replace([self.comes])
        return bool(self.sealer.key_ids)

    def make(self) -> None:
        self.made += 1
        self.sealer.replace([Fernet.generate_key()])


class FirstKey(KeysTestCase):
    """Roles that find no key file."""

    theirs = (OURS,)

    def source(self) -> Source:
        return Source(FernetSealer([]))

    def start(self, source: Source, role: str) -> list[ConfigurationError]:
        """Start a front end or a worker with that key file; what it objects to."""
        refused: list[ConfigurationError] = []
        if role == "worker":
            connection = self.system.start_worker(
                sealer=source.sealer, key_source=source
            ).connection
        else:
            connection = self.system.start_frontend(
                "b2", sealer=source.sealer, key_source=source
            ).connection
        connection.on_contradiction = refused.append
        self.system.network.advance(1)
        return refused

    def test_before_the_first_task(self) -> None:
        """Before the first task a key is made, by whichever role comes first; markers and workers
        that came and went are no tasks.
        """
        self.replaced()
        for role in ("frontend", "worker"):
            source = self.source()
            self.assertEqual(self.start(source, role), [])
            self.assertEqual((source.made, len(source.sealer.key_ids)), (1, 1))

    def test_with_tasks(self) -> None:
        """Where the journal knows a task, ended or not, no key is made: the role says so in one
        line that names file and journal.
        """
        self.system.accepted(DEVICE)
        self.system.network.advance(5)
        for role in ("frontend", "worker"):
            source = self.source()
            refused = self.start(source, role)
            self.assertEqual(source.made, 0)
            self.assertIn(
                "certs/seal.key is missing, and rtprov.journal.0of1 holds tasks that are sealed"
                " with a key",
                str(refused[0]),
            )
            self.assertNotIn("\n", str(refused[0]))
        self.assertEqual(self.system.post(DEVICE, frontend="b2").status, 503)

    def test_only_in_the_work_queue(self) -> None:
        """A work queue that is not empty says the same, where the journal is gone."""
        self.stop_worker()
        self.system.accepted(DEVICE)
        journal = self.system.broker.virtual_host.queues["rtprov.journal.0of1"]
        cast("Any", journal)._tail.clear()
        refused = self.start(self.source(), "frontend")
        self.assertIn("rtprov.work.0of1 holds tasks", str(refused[0]))

    def test_comes_meanwhile(self) -> None:
        """A file that comes in time is taken: another role has made it, and its first task is no
        reason to refuse.
        """
        self.system.accepted(DEVICE)
        source = self.source()
        source.comes = OURS
        self.assertEqual(self.start(source, "frontend"), [])
        self.assertEqual((source.made, self.system.post(DEVICE, frontend="b2").status), (0, 200))

    def test_a_refusal_ends(self) -> None:
        """A process that goes on trying is at work as soon as it finds the file."""
        self.system.accepted(DEVICE)
        source = self.source()
        self.assertTrue(self.start(source, "frontend"))
        source.comes = OURS
        self.system.network.advance(10)
        self.assertEqual(self.system.post(DEVICE, frontend="b2").status, 200)
