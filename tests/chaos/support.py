"""One deployment of rtprov as processes, a hundred tasks for it (five hundred in the full tests),
and the checks that every chaos test uses.

    site = Site(self, broker_url)
    await site.start(workers=2)
    posting = site.post()
    await site.a_is_busy()          # then break something
    await posting
    await site.check(broken=[...])

The checks compare the calls that A has recorded with the tasks that were accepted.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, gatherResults
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.task import deferLater
from twisted.web.client import HTTPConnectionPool

from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.client.service import BrokerConnection
from rtprov.amqp.client.url import BrokerUrl
from rtprov.messaging.topology import persistent
from tests.chaos.equipment import Call, RecordingA, make_certificates, reactor
from tests.support.processes import ANY_PORT, Client, ProcessTestCase, Twistd
from tests.support.scale import FULL
from tests.support.system import REQUEST

TASKS = 500 if FULL else 100
CONCURRENCY = TASKS // 5  # calls of a worker at the same time; each takes a second
AT_ONCE = TASKS // 20  # requests of the client at the same time
PAUSE_S = 0.1  # of the client, after each request
# A busy A may receive a call this long after it was made.
ARRIVAL_S = 5.0
COMPLETED = re.compile(r"completed: task ([0-9a-f]{32}) ")


class ChaosTestCase(ProcessTestCase):
    timeout = 300.0

    def setUp(self) -> Any:
        super().setUp()
        make_certificates(self.folder / "certs")


@frozen
class Break:
    """A fault that interrupted calls, at the time `at`.

    `caller` is the process that was killed, or None if the fault ended no process. `completed` are
    the tasks that a worker had logged as completed by then. They had ended in the journal, so A may
    not be called again for them. The time from A's answer to the journal depends on the machine,
    and is not checked.
    """

    at: float
    completed: frozenset[str]
    caller: str | None = None


class Site:
    """Its own A, front ends and workers, on one broker."""

    def __init__(self, case: ChaosTestCase, broker_url: str = "", *, delay_s: float = 1.0) -> None:
        self.case = case
        self.broker_url = broker_url
        self.a = RecordingA(case.folder / "certs", delay_s=delay_s)
        case.addCleanup(self.a.stop)
        self.workers: list[Twistd] = []
        # processes that make calls, with the names by which A knows them
        self.callers: dict[Twistd, str] = {}
        self.frontends: list[Twistd] = []
        self.clients: list[Client] = []
        self.accepted: dict[str, str] = {}  # paths by task id

    async def start(self, *, workers: int = 1, frontends: int = 1) -> None:
        """Start A, the front ends and, one after the other, the workers. The first worker is the
        active one.
        """
        self.a.start()
        started = [self._start_workers(workers), *(self.start_frontend() for _ in range(frontends))]
        await gatherResults([Deferred.fromCoroutine(each) for each in started])

    async def _start_workers(self, count: int) -> None:
        for _ in range(count):
            await self.start_worker()

    async def start_worker(self) -> Twistd:
        where = (
            "--broker",
            self.broker_url,
            "--equipment-url",
            self.a_for_next(),
            "--concurrency",
            str(CONCURRENCY),
        )
        worker = self.case.twistd("rtprov-worker", *where)
        self.calls_a(worker)
        self.workers.append(worker)
        await worker.logged("worker: connected to amqp://guest@")
        return worker

    async def start_frontend(self) -> Twistd:
        frontend = self.case.twistd(
            "rtprov-frontend", "--listen", ANY_PORT, environment={"RTPROV_BROKER": self.broker_url}
        )
        self.frontends.append(frontend)
        await frontend.logged("ready; try: curl ")
        self.use(await frontend.port("service B (front end)"))
        return frontend

    def use(self, port: int) -> None:
        """Add a front end to those that the client uses in turn."""
        client = self.case.client(port)
        pool: HTTPConnectionPool = client._pool
        pool.maxPersistentPerHost = AT_ONCE
        pool.retryAutomatically = False
        self.clients.append(client)

    # The client.

    def post(self, first: int = 0, last: int = TASKS) -> Deferred[None]:
        """POST tasks, each for its own device, until all are accepted. A POST that was refused is
        repeated.
        """
        limit = DeferredSemaphore(AT_ONCE)
        posts = [limit.run(self._post, number) for number in range(first, last)]
        done: Deferred[None] = gatherResults(posts, consumeErrors=True).addCallback(lambda _: None)
        self.case.addCleanup(done.cancel)
        return done

    async def _post(self, number: int) -> None:
        answer = await self._insist("POST", f"/api/v1/equipment/cpe/CHAOS{number:06}", number)
        self.accepted[answer.json["taskId"]] = answer.header("Location") or ""
        await deferLater(reactor, PAUSE_S)

    async def _insist(self, method: str, path: str, number: int) -> Any:
        """Try one front end after the other until one answers 200. A 503 or a lost connection is
        retried.
        """
        while True:
            client = self.clients[number % len(self.clients)]
            number += 1
            try:
                answer = await client.request(method, path, REQUEST if method == "POST" else None)
            except CancelledError:
                raise
            except Exception:  # a front end that is killed or not started
                await deferLater(reactor, PAUSE_S)
                continue
            if answer.status == 200:
                return answer
            assert answer.status == 503, answer
            await deferLater(reactor, PAUSE_S)

    async def a_is_busy(self, calls: int = TASKS // 5) -> float:
        """Wait until A has had this many calls and has some under way; return the time."""
        while len(self.a.calls) < calls or not self.a.under_way:
            await deferLater(reactor, PAUSE_S)
        return float(reactor.seconds())

    async def kill(self, process: Twistd) -> Break:
        """Kill a process that makes calls with ``kill -9``."""
        return self.broken(await kill(process), self.callers[process])

    async def all_called(self, count: int) -> None:
        """Wait until A was called for so many tasks."""
        while len(self.a.calls) < count:
            await deferLater(reactor, PAUSE_S)

    def broken(self, at: float, caller: str | None = None) -> Break:
        """Return what `check` needs to know about a fault."""
        tasks = (task for process in self.callers for task in COMPLETED.findall(process.log))
        return Break(at, frozenset(tasks), caller)

    def a_for_next(self) -> str:
        """Return the URL of A for the next process that makes calls."""
        return self.a.url_for(f"process{len(self.callers)}")

    def calls_a(self, process: Twistd) -> None:
        """Note that this process was started with the URL of `a_for_next`."""
        self.callers[process] = f"process{len(self.callers)}"

    async def check(self, *, broken: Sequence[Break] = ()) -> None:
        """Check that all accepted tasks are completed, and that A was called again only for calls
        that a fault had cut off.
        """
        limit = DeferredSemaphore(AT_ONCE)
        finals = [limit.run(self._final, path) for path in self.accepted.values()]
        asking = gatherResults(finals, consumeErrors=True)
        self.case.addCleanup(asking.cancel)
        answers = await asking
        assert {str(answer.json) for answer in answers} == {
            "{'code': 200, 'message': 'Completed'}"
        }, answers
        lost = [
            task_id
            for task_id in self.accepted
            if not any(call.answered for call in self.a.calls.get(task_id, []))
        ]
        assert not lost, (
            f"A was never called for {len(lost)} of {len(self.accepted)} tasks, whose status is"
            " Completed"
        )
        unexplained = {
            task_id: calls
            for task_id, calls in self.a.calls.items()
            if not all(_in_hands(task_id, call, broken) for call in calls[:-1])
        }
        breaks = [each.at for each in broken]
        assert not unexplained, (
            f"A was called again for {len(unexplained)} tasks for no reason; breaks: {breaks},"
            f" calls: {unexplained}"
        )

    async def _final(self, path: str) -> Any:
        while True:
            answer = await self._insist("GET", path, hash(path))
            if answer.json["code"] != 204:
                return answer
            await deferLater(reactor, 5 * PAUSE_S)

    @property
    def repeated(self) -> int:
        """The number of calls beyond one for each task."""
        return sum(len(calls) - 1 for calls in self.a.calls.values())


def _in_hands(task_id: str, call: Call, broken: Sequence[Break]) -> bool:
    """Return whether a fault cut the call off before a worker had seen its end in the journal."""
    for each in broken:
        concerned = (
            call.began <= each.at + ARRIVAL_S if each.caller is None else call.caller == each.caller
        )
        if concerned and task_id not in each.completed:
            return True
    return False


async def publish(broker_url: str, exchange: str, key: str, *bodies: bytes) -> None:
    """Publish messages, as another program could."""
    publisher, url = Publisher(clock=reactor), BrokerUrl.parse(broker_url)
    connection = BrokerConnection(
        name="outside",
        endpoint=HostnameEndpoint(reactor, url.host, url.port),
        url=url,
        clock=reactor,
        rng=random.Random(),
        sessions=[publisher],
    )
    connection.startService()
    await connection.when_connected()
    for body in bodies:
        await publisher.publish(exchange, key, body, properties=persistent(), mandatory=True)
    await connection.stopService()


async def kill(process: Twistd) -> float:
    """Kill a process with ``kill -9``; return the time."""
    at = float(reactor.seconds())
    process.signal("KILL")
    assert await process.ended == -9
    return at


def seconds(number: float) -> Deferred[None]:
    """Wait for the duration of an outage, which has no log line to wait for."""
    return deferLater(reactor, number)


__all__ = [
    "ANY_PORT",
    "CONCURRENCY",
    "TASKS",
    "Break",
    "ChaosTestCase",
    "Site",
    "kill",
    "publish",
    "seconds",
]
