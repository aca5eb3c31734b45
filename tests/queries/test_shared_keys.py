"""Front ends whose sealing key no worker has; which roles may make the first key; and rotation of
keys while everything runs.
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
    """A front end with the key `OURS`, and a worker with `THEIRS`."""

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
        """POSTs are a 503 that gives the reason, also with an ``Idempotency-Key``, and make no
        task. The front end is not ready, for the same reason.
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
        """This is logged once, with the key ids of both sides, however long it lasts. Its end is
        logged once.
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
        """The front end accepts POSTs again as soon as a worker has its key, active or standby."""
        self.assertEqual(self.posted(), REFUSED)
        worker = self.system.start_worker()
        self.system.network.until(lambda: worker.connection.connected, 10.0)
        self.system.network.advance(COMPARE_EVERY_S)
        self.assertEqual((self.posted(), self.ready()[0]), (TAKEN, 200))

    def test_no_worker(self) -> None:
        """Without a worker a POST is accepted, even if the last worker did not have the key."""
        self.assertEqual(self.posted(), REFUSED)
        self.stop_worker()
        self.system.network.advance(2)
        self.assertEqual(self.posted(), TAKEN)
        self.replaced()
        self.system.network.advance(COMPARE_EVERY_S + 1.5)
        self.assertEqual((self.posted(), len(self.refusals())), (REFUSED, 1))

    def test_probed(self) -> None:
        """Each readiness probe, and each POST after it, gets the state of that moment."""
        self.system.sealer.replace([THEIRS])
        self.system.network.advance(5)
        self.assertEqual(self.ready()[0], 200)
        self.file.replace([NEXT])
        self.system.network.advance(1.1)
        self.assertEqual((self.ready()[0], self.posted()), (503, REFUSED))

    def test_fresh_front_end(self) -> None:
        """A new front end compares keys before it accepts its first POST."""
        self.system.start_frontend("b2")
        statuses = set()
        for _ in range(60):
            statuses.add(self.posted("b2"))
            self.system.network.advance(0.05)
        self.assertEqual(statuses, {REFUSED})

    def test_its_own_file_changes(self) -> None:
        """A front end whose file gets a new first key seals with it from then on. It needs no
        restart to get the right key.
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
        """If a worker loses the key, that is noticed within seconds. A task that was accepted
        meanwhile waits.
        """
        self.file.replace([OURS])
        self.system.network.advance(COMPARE_EVERY_S)
        self.assertEqual(self.posted(), TAKEN)
        self.file.replace([THEIRS])
        taken = self.system.accepted(DEVICE)
        self.system.network.advance(COMPARE_EVERY_S + 1.5)
        self.assertEqual((self.posted(), self.status(DEVICE, taken)), (REFUSED, RUNNING))

    def test_a_worker_that_hangs(self) -> None:
        """Workers that answered before and fail to answer once are asked again within seconds, not
        after a minute.
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
        """A front end that refuses POSTs still refuses them after it has lost the broker."""
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
        """A worker of an earlier version cannot answer which keys it has: POSTs are accepted, and
        it is not asked repeatedly.
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
        """Only tasks of the shard whose workers lack the key are refused, but the whole front end
        is not ready.
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
        """The documented rotation (add the key as second everywhere, make it the first, remove the
        old one) refuses no POST, and every task is completed.
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
                    # The last task that the old key sealed has ended.
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
    """A repeated POST of a task that was sealed with a removed key."""

    theirs = (OURS, NEXT)

    def test_key_gone(self) -> None:
        """Without the key the bodies cannot be compared: the answer is a 503 that says so, and
        never "another body". With the key they can be compared again.
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
    """A key file that is made if that is allowed. Until then `sealer` has no keys."""

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
        """Start a front end or a worker with this key file; return its configuration error."""
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
        """Before the first task, the role that starts first makes a key. Markers, and workers that
        have connected before, do not count as tasks.
        """
        self.replaced()
        for role in ("frontend", "worker"):
            source = self.source()
            self.assertEqual(self.start(source, role), [])
            self.assertEqual((source.made, len(source.sealer.key_ids)), (1, 1))

    def test_with_tasks(self) -> None:
        """If the journal has a task, ended or not, no key is made: the error names file and journal
        in one line.
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
        """The same holds for a work queue that is not empty, if the journal is gone."""
        self.stop_worker()
        self.system.accepted(DEVICE)
        journal = self.system.broker.virtual_host.queues["rtprov.journal.0of1"]
        cast("Any", journal)._tail.clear()
        refused = self.start(self.source(), "frontend")
        self.assertIn("rtprov.work.0of1 holds tasks", str(refused[0]))

    def test_comes_meanwhile(self) -> None:
        """If the file appears in time, it is used: another role has made it, and its first task is
        no reason to refuse.
        """
        self.system.accepted(DEVICE)
        source = self.source()
        source.comes = OURS
        self.assertEqual(self.start(source, "frontend"), [])
        self.assertEqual((source.made, self.system.post(DEVICE, frontend="b2").status), (0, 200))

    def test_a_refusal_ends(self) -> None:
        """A process that keeps retrying starts its work as soon as the file exists."""
        self.system.accepted(DEVICE)
        source = self.source()
        self.assertTrue(self.start(source, "frontend"))
        source.comes = OURS
        self.system.network.advance(10)
        self.assertEqual(self.system.post(DEVICE, frontend="b2").status, 200)
