"""The result of each kind of answer of A, and of no answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from OpenSSL import SSL
from twisted.internet.defer import Deferred, fail
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseNeverReceived

from rtprov.equipment.answers import interpret, retry_after_s
from rtprov.equipment.client import answer_deadline_s
from rtprov.errors import EquipmentSilent
from rtprov.model import State
from tests.support.equipment_calls import BODY, CallsTestCase, http

if TYPE_CHECKING:
    from twisted.web.iweb import IAgent, IResponse


class _Failing:
    """An agent whose every request fails with `error`."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def request(self, *arguments: object) -> Deferred[IResponse]:
        return fail(self._error)


class Interpretation(SynchronousTestCase):
    def test_the_contract(self) -> None:
        """A's three answers give the three final states."""
        self.assertIs(interpret(200, b'{"code": 200, "message": "success"}')[0], State.COMPLETED)
        self.assertIs(
            interpret(404, b'{"code": 404, "message": "The requested equipment is not found"}')[0],
            State.NOT_FOUND,
        )
        self.assertIs(
            interpret(500, b'{"code": 500, "message": "Internal provisioning exception"}')[0],
            State.FAILED,
        )

    def test_anything_else_is_a_failure(self) -> None:
        """Invalid JSON, a proxy's page, a code that differs from the status, or another status is a
        failure. The reason contains nothing of the body.
        """
        for status, body in [
            (200, b"s3cr3t"),
            (200, b"[]"),
            (200, b'{"code": "200"}'),
            (200, b'{"code": 404}'),
            (404, b"<html>s3cr3t</html>"),
            (201, b'{"code": 201}'),
            (301, b""),
            (200, b"[" * 100_000),
            (200, b"\xff\xfe"),
        ]:
            state, reason = interpret(status, body)
            self.assertIs(state, State.FAILED, (status, body[:20]))
            self.assertNotIn("s3cr3t", reason)

    def test_retry_after(self) -> None:
        """Retry-After is read in seconds and as a date. Invalid values are ignored."""
        self.assertEqual(retry_after_s("7", 0.0), 7.0)
        self.assertEqual(retry_after_s("0" * 5000 + "7", 0.0), 7.0)
        self.assertEqual(retry_after_s("0", 0.0), 0.0)
        self.assertEqual(retry_after_s("Thu, 01 Jan 1970 00:01:40 GMT", 40.0), 60.0)
        self.assertEqual(retry_after_s("Thu, 01 Jan 1970 00:01:40 GMT", 140.0), 0.0)
        for nonsense in (None, "", "soon", "-3", "٣", f"Thu, 01 Jan {10**27} 00:00:00 GMT"):
            self.assertIsNone(retry_after_s(nonsense, 0.0))

    def test_deadline(self) -> None:
        """A has max(timeoutInSeconds, 60) + 30 s to answer."""
        self.assertEqual(
            [answer_deadline_s(1), answer_deadline_s(60), answer_deadline_s(1500)], [90, 90, 1530]
        )


class Calls(CallsTestCase):
    def test_the_request(self) -> None:
        """A gets the body's bytes unchanged, and the task id as Idempotency-Key."""
        outcome = self.call()
        head, _, body = bytes(self.received).partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"POST /api/v1/equipment/cpe/ABC123456 HTTP/1.1\r\n"), head)
        self.assertEqual(body, BODY)
        self.assertIn(b"Idempotency-Key: " + b"0123456789abcdef" * 2, head)
        self.assertIn(b"Content-Type: application/json", head)
        self.say(http("200 OK", b'{"code": 200, "message": "success"}'))
        self.assertIs(self.successResultOf(outcome)[0], State.COMPLETED)

    def test_byte_by_byte(self) -> None:
        """An answer that arrives one byte at a time has the same result."""
        outcome = self.call()
        for byte in http("404 Not Found", b'{"code": 404, "message": "x"}'):
            self.say(bytes([byte]))
        self.assertIs(self.successResultOf(outcome)[0], State.NOT_FOUND)

    def test_the_connection_is_used_again(self) -> None:
        """Two successive calls share a connection."""
        for _ in range(2):
            outcome = self.call()
            self.say(http("200 OK", b'{"code": 200}'))
            self.successResultOf(outcome)
        self.assertEqual(len(self.network.connections), 1)

    def test_cookies(self) -> None:
        """A cookie of A is not sent with later orders."""
        for _ in range(2):
            outcome = self.call()
            self.say(http("200 OK", b'{"code": 200}', "Set-Cookie: session=device1"))
            self.successResultOf(outcome)
        self.assertNotIn(b"cookie", self.received.lower())

    def test_no_answer(self) -> None:
        """Without an answer within the deadline the task has failed, and the connection is
        closed.
        """
        outcome = self.call()
        self.network.advance(89.9)
        self.assertNoResult(outcome)
        self.network.advance(0.2)
        self.failureResultOf(outcome, EquipmentSilent)
        self.assertFalse(self.server().connected)

    def test_half_an_answer(self) -> None:
        """The deadline includes the body: headers without a complete body are a failure."""
        outcome = self.call()
        self.say(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"code"')
        self.network.advance(91)
        self.failureResultOf(outcome, EquipmentSilent)
        self.assertFalse(self.server().connected)

    def test_nothttp(self) -> None:
        """Bytes that are not HTTP are an invalid answer of A: a final failure."""
        outcome = self.call()
        self.say(b"220 smtp.example ESMTP\r\n\r\n")
        self.assertIs(self.successResultOf(outcome)[0], State.FAILED)

    def test_an_endless_answer(self) -> None:
        """An answer larger than any of A's is a failure, and is not read further."""
        outcome = self.call()
        self.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 70_000)
        self.assertEqual(
            self.successResultOf(outcome), (State.FAILED, "A's answer has more than 65536 bytes")
        )
        self.assertFalse(self.server().connected)

    def test_said_once(self) -> None:
        """The log has one line for each reason why A cannot be reached, however many calls fail,
        and one when A can be reached again.
        """
        logged: list[str] = []
        observer = cast("ILogObserver", lambda event: logged.append(formatEvent(event)))
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        factory = self.network.factories.pop("a")
        for _ in range(3):
            outcome = self.call()
            self.network.settle()
            self.assertUnreachable(outcome)
        self.network.factories["a"] = factory
        for _ in range(3):
            outcome = self.call()
            self.network.settle()
            self.network.cut("a")
            self.network.settle()
            self.assertUnreachable(outcome)
        for _ in range(2):
            outcome = self.call()
            self.say(http("503 Service Unavailable", b""))
            self.assertUnreachable(outcome)
        (refused, cut, back) = logged
        self.assertIn("A cannot be reached: ConnectionRefusedError", refused)
        self.assertIn("A cannot be reached: ConnectionLost", cut)
        self.assertEqual(back, "A can be reached again")

    def test_refused(self) -> None:
        """A refused connection is an outage."""
        self.network.factories.clear()
        self.assertUnreachable(self.call())

    def test_tls_failed(self) -> None:
        """A failed TLS handshake is an outage whose reason is described."""
        errors = [Failure(SSL.Error([("SSL routines", "", "certificate verify failed")]))]
        self.equipment = self.equipment_with(
            cast("IAgent", _Failing(ResponseNeverReceived(errors)))
        )
        text = str(self.assertUnreachable(self.call()))
        self.assertIn("A cannot be reached: TLS: certificate verify failed (", text)
        self.assertNotIn("SSL routines", text)

    def test_dropped_without_an_answer(self) -> None:
        """A connection that is closed without an answer is an outage, whether before or within the
        headers or the body.
        """
        for beginning in (
            b"",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
        ):
            outcome = self.call()
            self.say(beginning)
            self.server().cut()
            self.network.settle()
            self.assertUnreachable(outcome)

    def test_retry_after_by_the_clock_of_a(self) -> None:
        """A date in Retry-After is compared with A's own Date, so the clocks of A and of the worker
        may differ.
        """
        outcome = self.call()
        dates = "Date: Sun, 29 Nov 2026 12:00:00 GMT\r\nRetry-After: Sun, 29 Nov 2026 12:00:30 GMT"
        self.say(http("503 Service Unavailable", b"", dates))
        self.assertEqual(self.assertUnreachable(outcome).retry_after_s, 30.0)

    def test_gateway_errors(self) -> None:
        """502, 503 and 504 are outages, and their Retry-After is used."""
        for status in ("502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"):
            outcome = self.call()
            self.say(http(status, b"<html>", "Retry-After: 17"))
            self.assertEqual(self.assertUnreachable(outcome).retry_after_s, 17.0)

    def test_gateway_errors_with_a_large_page(self) -> None:
        """A gateway's page may be of any size: it is an outage, and is not read further."""
        outcome = self.call()
        self.say(http("503 Service Unavailable", b"<html>" * 20_000, "Retry-After: 17"))
        self.assertEqual(self.assertUnreachable(outcome).retry_after_s, 17.0)
        self.assertFalse(self.server().connected)

    def test_redirects_are_not_followed(self) -> None:
        """A redirect is an invalid answer: a failure, and no request is sent elsewhere."""
        outcome = self.call()
        self.say(http("307 Temporary Redirect", b"", "Location: https://elsewhere/"))
        self.assertIs(self.successResultOf(outcome)[0], State.FAILED)

    def test_cancel(self) -> None:
        """Cancelling a call closes its connection."""
        outcome = self.call()
        outcome.addErrback(lambda _: None)
        outcome.cancel()
        self.network.settle()
        self.assertFalse(self.server().connected)

    def test_nothing_is_left(self) -> None:
        """After a call none of its timers is left."""
        outcome = self.call()
        self.say(http("200 OK", b'{"code": 200}', "Connection: close"))
        self.successResultOf(outcome)
        self.network.settle()
        self.assertEqual(self.clock.getDelayedCalls(), [])
