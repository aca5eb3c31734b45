"""A front end (B) over HTTP when the broker or the workers fail, or when its client hangs up."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionLost

from rtprov.errors import (
    AmqpError,
    BrokerUnavailable,
    NoReply,
    NoWorker,
    Overloaded,
    RtprovError,
    SealError,
    Unconfirmed,
    Unroutable,
)
from rtprov.frontend.resource import Frontend
from rtprov.model import State
from rtprov.readiness import always_ready
from tests.support.fakes import PlainSealer
from tests.support.front import (
    BODY,
    GET_PATH,
    POST_PATH,
    TASK,
    FakeDirectory,
    FakeEnds,
    FakeTasks,
    FrontendTestCase,
)
from tests.support.raw_http import RawAnswer, WebTestCase, request

RUNNING = {"code": 204, "message": "Task is still running"}
UNAVAILABLE = "The service is temporarily unavailable"
UNCERTAIN = "The task may or may not have been accepted: the broker's answer was lost"
UNEXPECTED = "Internal server error"


class Failures(FrontendTestCase):
    """B answers within 5 s, whatever has failed."""

    def assertUnavailable(self, answer: RawAnswer, message: str) -> None:
        self.assertError(answer, 503, message)
        self.assertEqual(answer.header("Retry-After"), "2")

    def answer_after(self, data: bytes, seconds: float) -> RawAnswer:
        """Return the answer, which must not come at once, but within `seconds`."""
        client = self.connect()
        client.send(data)
        self.assertEqual(bytes(client.received), b"")
        self.network.advance(seconds)
        (answer,) = client.answers()
        return answer

    def test_no_broker(self) -> None:
        """A POST that certainly made no task is a 503, and does not mention a task."""
        for error in (
            BrokerUnavailable("gone"),
            Overloaded("full"),
            Unroutable("nowhere"),
            AmqpError(541, "internal error"),
        ):
            self.tasks.error = error
            answer = self.post()
            self.assertUnavailable(answer, UNAVAILABLE)
            self.assertIsNone(answer.header("Location"))

    def test_unconfirmed(self) -> None:
        """A POST whose confirm was lost is a 503 that says that there may be a task."""
        self.tasks.error = Unconfirmed("s3cr3t")
        self.assertUnavailable(self.post(), UNCERTAIN)

    def test_the_broker_never_confirms(self) -> None:
        """A POST that the broker never confirms is the same 503, within 5 s."""
        self.tasks.silent = True
        self.assertUnavailable(self.answer_after(request("POST", POST_PATH, BODY), 5), UNCERTAIN)
        self.assertEqual(self.tasks.cancelled, 1)

    def test_no_worker(self) -> None:
        """A GET that no worker can answer is a 503."""
        self.statuses.error = NoWorker("No worker is alive that could tell the task's status")
        self.assertUnavailable(self.get(), "No worker is alive that could tell the task's status")

    def test_no_status(self) -> None:
        """A GET is a 503 if the broker cannot be reached, loses the answer, or is overloaded."""
        for error in (
            NoReply("late"),
            BrokerUnavailable("gone"),
            Overloaded("full"),
            AmqpError(404, "no queue"),
        ):
            self.statuses.error = error
            self.assertUnavailable(self.get(), UNAVAILABLE)

    def test_the_worker_never_answers(self) -> None:
        """A GET that no worker answers is a 503 within 5 s."""
        self.statuses.silent = True
        self.assertUnavailable(self.answer_after(request("GET", GET_PATH), 5), UNAVAILABLE)

    def test_a_remembered_state_needs_nobody(self) -> None:
        """A final state that was returned once is returned again while broker and workers cannot be
        reached.
        """
        self.knows(State.COMPLETED)
        self.get()
        self.statuses.error = BrokerUnavailable("gone")
        self.assertEqual(self.get().json, {"code": 200, "message": "Completed"})

    def test_the_unexpected(self) -> None:
        """An unexpected error is logged once and answered with a plain 500, which contains nothing
        of the error and is not a task's final status.
        """
        for error in (
            KeyError("internals"),
            ConnectionLost("internals"),
            RtprovError("internals"),
            RecursionError(),
            SealError("internals"),
        ):
            self.tasks.error = self.statuses.error = error
            for send in (self.post, self.get):
                answer = send()
                self.assertError(answer, 500, UNEXPECTED)
                self.assertNotIn(b"internals", answer.body)
                self.assertEqual(len(self.flushLoggedErrors(type(error))), 1)

    def test_cancelled_from_behind(self) -> None:
        """A CancelledError that no client caused is answered like any other internal error."""
        self.tasks.error = self.statuses.error = CancelledError()
        self.assertError(self.post(), 500, UNEXPECTED)
        self.assertError(self.get(), 500, UNEXPECTED)
        self.assertEqual(len(self.flushLoggedErrors(CancelledError)), 2)


class HangUps(FrontendTestCase):
    """A client that does not wait for its answer affects no other client."""

    def hang_up_during(self, data: bytes) -> None:
        client = self.connect()
        client.send(data)
        client.hang_up()
        self.assertEqual(bytes(client.received), b"")

    def test_during_a_post(self) -> None:
        """If a client hangs up during its POST, the request is dropped, but the task is not."""
        self.tasks.silent = True
        self.hang_up_during(request("POST", POST_PATH, BODY))
        self.assertEqual((len(self.tasks.submitted), self.tasks.cancelled), (1, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_during_a_get(self) -> None:
        """If a client hangs up during its GET, other clients get their answers."""
        self.statuses.silent = True
        self.hang_up_during(request("GET", GET_PATH))
        other = self.connect()
        other.send(request("GET", GET_PATH))
        self.statuses.asked[-1].callback(State.RUNNING)
        self.network.settle()
        self.assertEqual(other.answers()[0].json, RUNNING)

    def test_with_requests_behind(self) -> None:
        """Requests pipelined after the current one are not served if the client hangs up."""
        self.statuses.silent = True
        self.hang_up_during(request("GET", GET_PATH) + request("POST", POST_PATH, BODY))
        self.network.advance(100)
        self.assertEqual(self.tasks.submitted, [])

    def test_at_the_same_moment(self) -> None:
        """An answer for a client that has hung up is dropped without a log line."""
        for end in (lambda d: d.callback(State.RUNNING), lambda d: d.errback(NoReply("late"))):
            self._end_behind_the_hang_up(end)
        self.assertEqual(
            [event for event in self.events if "Unhandled" in event or "log_failure" in event], []
        )

    def _end_behind_the_hang_up(self, end: Callable[[object], None]) -> None:
        self.statuses.silent = True
        client = self.connect()
        client.send(request("GET", GET_PATH))
        assert client.transport is not None
        client.transport.loseConnection()
        end(self.statuses.asked[-1])
        self.network.settle()


class BrokenSealer(WebTestCase):
    def test_a_broken_sealer(self) -> None:
        """A body that cannot be sealed makes no task, and the client gets a plain 500."""

        class Broken(PlainSealer):
            def seal(self, body: bytes) -> str:
                raise SealError("broken")

        tasks = FakeTasks()
        frontend = Frontend(
            tasks=tasks,
            statuses=None,  # type: ignore[arg-type] # not used
            directory=FakeDirectory(),
            ends=FakeEnds(),
            readiness=always_ready(self.reactor),
            operators=None,  # type: ignore[arg-type] # not used
            sealer=Broken(),
            clock=self.reactor,
            new_task_id=lambda: TASK,
            wall_clock=self.clock.seconds,
            running_status=200,
        )
        self.serve(frontend.resource())
        self.assertError(self.ask("POST", POST_PATH, BODY), 500, UNEXPECTED)
        self.assertEqual((tasks.submitted, len(self.flushLoggedErrors(SealError))), ([], 1))
