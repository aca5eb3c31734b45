"""A front end in memory, before a broker that does what the test says."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed

from rtprov.frontend import Frontend
from rtprov.model import State, Task
from tests.fakes import PlainSealer
from tests.web.raw import RawAnswer, WebTestCase

BODY = '{"timeoutInSeconds": 14, "parameters": [{"username": "admin"}, {"password": "s3cr3t-пароль"}, {"vlan": 534}]}'.encode()
CPE = "/api/v1/equipment/cpe/"
ID = "ABC123456"
TASK = "0123456789abcdef" * 2
POST_PATH = CPE + ID
GET_PATH = f"{CPE}{ID}/task/{TASK}"

NO_EQUIPMENT = "The requested equipment is not found"
NO_TASK = "The requested task is not found"
NO_ROUTE = "There is nothing at this path"
NO_METHOD = "The method is not allowed here"
NOT_HTTP = "The request is not valid HTTP/1.1"


@define(eq=False)
class FakeTasks:
    """A `TaskSink` that takes each task at once; or fails with `error`; or, `silent`, never says anything."""

    error: Exception | None = None
    silent: bool = False
    submitted: list[Task] = field(factory=list)
    cancelled: int = 0

    def submit(self, task: Task) -> Deferred[None]:
        if self.error is not None:
            return fail(self.error)
        self.submitted.append(task)
        return Deferred(self._cancel) if self.silent else succeed(None)

    def _cancel(self, _: object) -> None:
        self.cancelled += 1


@define(eq=False)
class FakeStatuses:
    """A `StatusSource` with the states in `states`; or fails with `error`; or, `silent`, answers when the test does in `asked`."""

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


class FrontendTestCase(WebTestCase):
    """B at "b". Its first task is `TASK`, and further ones count on from it."""

    running_status = 200

    def setUp(self) -> None:
        super().setUp()
        self.tasks = FakeTasks()
        self.statuses = FakeStatuses()
        self.frontend = Frontend(
            tasks=self.tasks,
            statuses=self.statuses,
            sealer=PlainSealer(),
            clock=self.reactor,
            new_task_id=lambda: f"{int(TASK, 16) + len(self.tasks.submitted):032x}",
            wall_clock=lambda: 1000.0 + self.clock.seconds(),
            running_status=self.running_status,
        )
        self.serve(self.frontend.resource())

    def bodies(self) -> list[bytes]:
        """What reached the broker, unsealed."""
        return [PlainSealer().open(task.sealed) for task in self.tasks.submitted]

    def post(self, body: bytes = BODY, *headers: str, equipment_id: str = ID) -> RawAnswer:
        return self.ask("POST", CPE + equipment_id, body, headers)

    def get(self, equipment_id: str = ID, task_id: str = TASK) -> RawAnswer:
        return self.ask("GET", f"{CPE}{equipment_id}/task/{task_id}")

    def knows(self, state: State, equipment_id: str = ID, task_id: str = TASK) -> None:
        self.statuses.states[task_id, equipment_id] = state

    def assertAccepted(self, answer: RawAnswer) -> None:
        self.assertEqual((answer.status, answer.header("Content-Type")), (200, "application/json"), answer.body)
        self.assertEqual(set(answer.json), {"code", "taskId"})

    def assertRefused(self, answer: RawAnswer, status: int, message: str | None = None) -> None:
        """An error, and no task."""
        self.assertError(answer, status, message)
        self.assertEqual(self.tasks.submitted, [])
