"""The audit log of a front end in memory."""

from __future__ import annotations

from typing import cast

from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher

from rtprov.errors import BrokerUnavailable, Unconfirmed
from rtprov.model import Cancelled, Requested, Started
from tests.support.front import BODY, GET_PATH, ID, POST_PATH, TASK, FrontendTestCase
from tests.support.raw_http import request

WHO_AND_WHEN = f"task {TASK} for {ID} from address:127.0.0.1 at 1970-01-01T00:16:40.000+00:00"


class Audit(FrontendTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.lines: list[str] = []
        observer = cast("ILogObserver", self._audit)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def _audit(self, event: LogEvent) -> None:
        if event["log_namespace"] == "rtprov.audit":
            self.lines.append(formatEvent(event))

    def test_accepted(self) -> None:
        """An accepted task gives one line with caller, time, device and task id. It contains no
        parameter.
        """
        self.assertAccepted(self.post())
        self.assertEqual(self.lines, [f"accepted: {WHO_AND_WHEN}"])

    def test_nothing_accepted(self) -> None:
        """A request that makes no task gives no line."""
        self.post(b"{")
        self.get()
        self.tasks.error = BrokerUnavailable("gone")
        self.post()
        self.assertEqual(self.lines, [])

    def test_answer_lost(self) -> None:
        """If the broker's answer is lost, the line says so."""
        self.tasks.error = Unconfirmed("lost")
        self.assertError(self.post(), 503)
        self.assertEqual(self.lines, [f"perhaps accepted: {WHO_AND_WHEN}"])

    def test_with_a_key(self) -> None:
        """The same holds for a POST with a key. There is no line if nothing was published."""
        for error, outcomes in (
            (None, ["accepted"]),
            (Unconfirmed("lost"), ["perhaps accepted"]),
            (BrokerUnavailable("gone"), []),
        ):
            self.lines.clear()
            self.tasks.error = error
            self.post(BODY, f"Idempotency-Key: {error}")
            self.assertEqual([line.partition(":")[0] for line in self.lines], outcomes)

    def test_no_answer(self) -> None:
        """A task that the broker does not confirm in time gives such a line, as does one whose
        client hangs up before.
        """
        self.tasks.silent = True
        client = self.connect()
        client.send(request("POST", POST_PATH, BODY))
        self.assertEqual(self.lines, [])
        self.network.advance(5)
        self.assertEqual(self.lines, [f"perhaps accepted: {WHO_AND_WHEN}"])
        client.send(request("POST", POST_PATH, BODY))
        client.hang_up()
        self.assertEqual(len(self.lines), 2)

    def test_cancelled(self) -> None:
        """Each request to cancel gives a line with its result, the caller and the reason. Only one
        line says that its request has cancelled the task.
        """
        of_whom = f"task {TASK} for {ID}, by address:127.0.0.1"
        self.store.apply(Requested(TASK, ID, 1000.0))
        self.assertEqual(
            self.ask("DELETE", GET_PATH + "?reason=%D0%BE%D1%88%D0%B8%D0%B1%D0%BA%D0%B0").status,
            200,
        )
        self.ask("DELETE", GET_PATH)  # repeating it has the same result
        self.assertEqual(
            self.lines,
            [
                f"cancelled: {of_whom}, reason: ошибка",
                f"was cancelled already: {of_whom.replace('by', 'asked by')}",
            ],
        )

    def test_cancelled_by_another(self) -> None:
        """The same is true if another client's cancellation is the first in the journal."""
        self.store.apply(Requested(TASK, ID, 1000.0))
        self.tasks.store = type(self.store)(1.0)
        self.tasks.then = lambda: self.store.apply(Cancelled(TASK, ID, 999.5))
        self.assertEqual(self.ask("DELETE", GET_PATH).status, 200)
        self.assertEqual(
            self.lines,
            [f"was cancelled already: task {TASK} for {ID}, asked by address:127.0.0.1"],
        )

    def test_not_cancelled(self) -> None:
        """A cancellation that is too late, or whose answer is lost, gives a line. One for a task
        that does not exist gives none.
        """
        of_whom = f"task {TASK} for {ID}, by address:127.0.0.1"
        self.ask("DELETE", GET_PATH)
        self.assertEqual(self.lines, [])
        self.store.apply(Requested(TASK, ID, 1000.0))
        self.tasks.error = Unconfirmed("lost")
        self.ask("DELETE", GET_PATH)
        self.store.apply(Started(TASK, ID, 1001.0, 1))
        self.ask("DELETE", GET_PATH)
        self.assertEqual(
            self.lines, [f"perhaps cancelled: {of_whom}", f"not cancelled, too late: {of_whom}"]
        )
