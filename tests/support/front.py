"""A test case with a front end in memory, whose broker is replaced by fakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, fail, succeed

from rtprov.frontend.operators.event_hub import EventHub
from rtprov.frontend.operators.routes import OperatorRequests
from rtprov.frontend.operators.summary import Summaries
from rtprov.frontend.operators.task_search import TaskSearches
from rtprov.frontend.resource import Frontend
from rtprov.intervals import Interval
from rtprov.journal.search import Search
from rtprov.journal.store import Store
from rtprov.journal.summary import summarise
from rtprov.model import Cancelled, Details, Event, Requested, State, Task
from rtprov.readiness import Readiness
from rtprov.reports import (
    Cursor,
    FoundTask,
    FoundTasks,
    ShardReasons,
    ShardSummary,
    TaskFilter,
)
from tests.support.fakes import PlainSealer
from tests.support.raw_http import RawAnswer, WebTestCase

BODY = (
    '{"timeoutInSeconds": 14, "parameters": [{"username": "admin"}, {"password": "s3cr3t-пароль"},'
    ' {"vlan": 534}]}'.encode()
)
CPE = "/api/v1/equipment/cpe/"
ID = "ABC123456"
TASK = "0123456789abcdef" * 2
POST_PATH = CPE + ID
GET_PATH = f"{CPE}{ID}/task/{TASK}"

T = TypeVar("T")

NO_EQUIPMENT = "The requested equipment is not found"
NO_TASK = "The requested task is not found"
NO_ROUTE = "There is nothing at this path"
NO_METHOD = "The method is not allowed here"
NOT_HTTP = "The request is not valid HTTP/1.1"


@define(eq=False)
class FakeTasks:
    """A `TaskSink` that accepts each task at once; fails with `error`; or, if `silent`, never
    answers.

    The store applies what is accepted, and then `then` is called.
    """

    store: Store = field(factory=lambda: Store(86400.0))
    then: Callable[[], None] = field(default=lambda: None)
    error: Exception | None = None
    silent: bool = False
    submitted: list[Task] = field(factory=list)
    cancelled: int = 0
    called_off: list[str] = field(factory=list)

    def submit(self, task: Task) -> Deferred[None]:
        if self.error is not None:
            return fail(self.error)
        self.submitted.append(task)
        self._journal(
            Requested(
                task.task_id,
                task.equipment_id,
                task.accepted_at,
                task.fingerprint,
                caller=task.caller,
                accepted_by=task.accepted_by,
            )
        )
        return Deferred(self._cancel) if self.silent else succeed(None)

    def cancel(self, task_id: str, equipment_id: str, at: float) -> Deferred[None]:
        if self.error is not None:
            return fail(self.error)
        self.called_off.append(task_id)
        self._journal(Cancelled(task_id, equipment_id, at))
        return Deferred(self._cancel) if self.silent else succeed(None)

    def _journal(self, event: Event) -> None:
        self.store.apply(event)
        self.then()

    def _cancel(self, _: object) -> None:
        self.cancelled += 1


@define(eq=False)
class FakeStatuses:
    """A `StatusSource` with the states in `states`; fails with `error`; or, if `silent`, answers
    when the test fires the Deferred in `asked`.
    """

    states: dict[tuple[str, str], State] = field(factory=dict)
    error: Exception | None = None
    silent: bool = False
    asked: list[Deferred[State | None]] = field(factory=list)

    def status(self, task_id: str, equipment_id: str) -> Deferred[State | None]:
        answer: Deferred[State | None]
        if self.error is not None:
            answer = fail(self.error)
        elif self.silent:
            answer = Deferred()
        else:
            answer = succeed(self.states.get((task_id, equipment_id)))
        self.asked.append(answer)
        return answer


@define(eq=False)
class FakeDirectory:
    """A `TaskQueries` on a store of its own; fails with `error`; or, if `silent`, never answers."""

    store: Store = field(factory=lambda: Store(86400.0))
    error: Exception | None = None
    silent: bool = False
    now: float = 1000.0
    barriers: list[bool] = field(factory=list)

    def details(
        self, task_id: str, equipment_id: str, *, barrier: bool
    ) -> Deferred[Details | None]:
        self.barriers.append(barrier)
        return self._answer(self.store.details(task_id, equipment_id, self.now))

    def find(self, task_id: str) -> Deferred[Details | None]:
        return self._answer(self.store.details(task_id, None, self.now))

    def tasks_of(
        self, equipment_id: str, before: str | None, limit: int
    ) -> Deferred[list[Details]]:
        return self._answer(self.store.tasks_of(equipment_id, before, limit, self.now))

    def _answer(self, result: T) -> Deferred[T]:
        if self.error is not None:
            return fail(self.error)
        return Deferred() if self.silent else succeed(result)


@define(eq=False)
class FakeReports:
    """A `ShardReports` of one shard, on a store; fails with `error`.

    `follower` gets the ends of tasks from the test. `covered` are the times that a history covers,
    None if there is none.
    """

    store: Store = field(factory=lambda: Store(86400.0))
    error: Exception | None = None
    now: float = 1000.0
    shards: Sequence[str] = ("0of1",)
    follower: Callable[[Sequence[FoundTask], int], None] | None = None
    covered: Sequence[Interval] | None = None

    def summaries(self, shard: int) -> Deferred[list[ShardSummary]]:
        return succeed([] if self.error is not None else [summarise(self.store, "w1", self.now)])

    def search(
        self, shard: int, wanted: TaskFilter, before: Cursor | None, limit: int, *, barrier: bool
    ) -> Deferred[FoundTasks]:
        if self.error is not None:
            return fail(self.error)
        found = Search(self.store, wanted, before, lambda: False).tasks(limit, self.now)
        return succeed(evolve(found, covered=self.covered))

    def reasons(self, shard: int, wanted: TaskFilter) -> Deferred[ShardReasons]:
        if self.error is not None:
            return fail(self.error)
        counts = Search(self.store, wanted, None, lambda: False).reasons()
        return succeed(ShardReasons(counts.counts, counts.upto is None, self.covered))

    def follow(self, each: Callable[[Sequence[FoundTask], int], None]) -> Callable[[], None]:
        self.follower = each
        return self._stop

    def _stop(self) -> None:
        self.follower = None


@define
class FakeBroker:
    """A `BrokerState`."""

    connected: bool = True
    blocked: bool = False
    parked: int | None = 0


@define(eq=False)
class FakeEnds:
    """A `Completions` whose answers the test fires."""

    full: bool = False
    waiting: list[tuple[str, float, Deferred[State | None]]] = field(factory=list)

    def wait(self, task_id: str, equipment_id: str, wait_s: float) -> Deferred[State | None]:
        waiter: Deferred[State | None] = Deferred()
        self.waiting.append((task_id, wait_s, waiter))
        return waiter


class FrontendTestCase(WebTestCase):
    """A front end (B) at "b". Its first task id is `TASK`; further ids count up from it."""

    running_status = 200

    def setUp(self) -> None:
        super().setUp()
        self.store = Store(86400.0)
        self.tasks = FakeTasks(self.store)
        self.statuses = FakeStatuses()
        self.directory = FakeDirectory(self.store)
        self.ends = FakeEnds()
        self.reports = self.make_reports()
        self.broker = FakeBroker()
        self.probes = 0
        self.unready: Exception | None = None
        self.readiness = Readiness(self.probe, self.reactor)
        summaries = Summaries(reports=self.reports, broker=self.broker, wall_clock=self.wall_clock)
        self.hub = EventHub(
            reports=self.reports, summaries=summaries, clock=self.reactor, name="f1"
        )
        self.frontend = Frontend(
            tasks=self.tasks,
            statuses=self.statuses,
            directory=self.directory,
            ends=self.ends,
            readiness=self.readiness,
            operators=OperatorRequests(
                summaries,
                TaskSearches(reports=self.reports, directory=self.directory, clock=self.reactor),
                self.hub,
            ),
            sealer=PlainSealer(),
            clock=self.reactor,
            new_task_id=lambda: f"{int(TASK, 16) + len(self.tasks.submitted):032x}",
            wall_clock=self.wall_clock,
            running_status=self.running_status,
            process_id="f1",
        )
        self.serve(self.frontend.resource())

    def _check_the_end(self) -> None:
        for client in self.clients:
            client.hang_up()
        self.hub.stop()
        super()._check_the_end()

    def make_reports(self) -> FakeReports:
        return FakeReports(self.store)

    def wall_clock(self) -> float:
        return 1000.0 + self.clock.seconds()

    async def probe(self) -> None:
        self.probes += 1
        if self.unready is not None:
            raise self.unready

    def bodies(self) -> list[bytes]:
        """The unsealed bodies of all tasks that were accepted."""
        return [PlainSealer().open(task.sealed, task.key) for task in self.tasks.submitted]

    def post(self, body: bytes = BODY, *headers: str, equipment_id: str = ID) -> RawAnswer:
        return self.ask("POST", CPE + equipment_id, body, headers)

    def get(self, equipment_id: str = ID, task_id: str = TASK) -> RawAnswer:
        return self.ask("GET", f"{CPE}{equipment_id}/task/{task_id}")

    def knows(self, state: State, equipment_id: str = ID, task_id: str = TASK) -> None:
        self.statuses.states[task_id, equipment_id] = state

    def assertAccepted(self, answer: RawAnswer) -> None:
        self.assertEqual(
            (answer.status, answer.header("Content-Type")), (200, "application/json"), answer.body
        )
        self.assertEqual(set(answer.json), {"code", "taskId"})

    def assertRefused(self, answer: RawAnswer, status: int, message: str | None = None) -> None:
        """Check that the answer is this error, and that no task was accepted."""
        self.assertError(answer, status, message)
        self.assertEqual(self.tasks.submitted, [])
