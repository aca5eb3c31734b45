"""Calls to A that get no valid answer: answers over our limits, failed connections, and shortages
of this machine.
"""

from __future__ import annotations

import gzip
import tempfile
import tracemalloc
from pathlib import Path
from time import time

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from rtprov.equipment.answer_limits import (
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    MAX_INTERIM_ANSWERS,
    MAX_LINE_BYTES,
)
from rtprov.equipment.client import equipment_agent
from rtprov.errors import EquipmentSilent, NotConnected, OutOfResources
from rtprov.model import State
from rtprov.network.connecting import ServerEndpoint
from rtprov.security.tls_client import VerifiedServers
from tests.support.certificates import Authority
from tests.support.equipment_calls import CallsTestCase, http

OK = b'{"code": 200, "message": "success"}'
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def field(size: int) -> str:
    """Return a header field of `size` bytes, including its line end."""
    return "X: " + "x" * (size - 5)


class Limits(CallsTestCase):
    """An answer that exceeds a limit, or is not HTTP, is final: A was called, and would give the
    same answer again.
    """

    def assert_final(self, answer: bytes, text: str, piece: int = 0) -> None:
        """Check that the task has failed with this reason, that the connection is closed, and that
        no error is logged.
        """
        outcome = self.call()
        for at in range(0, len(answer), piece or len(answer)):
            self.say(answer[at : at + (piece or len(answer))])
        state, reason = self.successResultOf(outcome)
        self.assertIs(state, State.FAILED)
        self.assertIn(text, reason)
        self.assertFalse(self.server().connected)

    def assert_completed(self, answer: bytes, piece: int = 0) -> None:
        outcome = self.call()
        for at in range(0, len(answer), piece or len(answer)):
            self.say(answer[at : at + (piece or len(answer))])
        self.assertEqual(self.successResultOf(outcome), (State.COMPLETED, "A answered 200"))

    def test_long_line(self) -> None:
        """A field or a status line of up to 16 KB is accepted. A longer one is final, however it
        arrives.
        """
        for piece in (0, 1000, 16384):
            self.assert_completed(http("200 OK", OK, field(MAX_LINE_BYTES + 1)), piece)
            self.assert_final(http("200 OK", OK, field(17_000)), "a line of more than 16384", piece)
            self.assert_final(http("200 " + "K" * 17_000, OK), "a line of more than 16384", piece)
            self.assert_final(b"x" * 20_000, "a line of more than 16384", piece)
        self.assert_final(
            http("200 OK", OK, field(MAX_LINE_BYTES + 2)), "a line of more than 16384"
        )

    def test_large_head(self) -> None:
        """All fields together may have 64 KB. A larger head is final, and so is a head without end,
        as soon as it is too large.
        """
        few, many = [field(1000)] * 60, [field(1000)] * 70
        for piece in (0, 777):
            self.assert_completed(http("200 OK", OK, *few), piece)
            self.assert_final(
                http("200 OK", OK, *many), "the head of A's answer has more than 65536 bytes", piece
            )
        outcome = self.call()
        self.say(b"HTTP/1.1 200 OK\r\n")
        for _ in range(MAX_HEAD_BYTES // 1000 + 1):
            self.assertNoResult(outcome)
            self.say(field(998).encode() + b"\r\n")
        self.assertIs(self.successResultOf(outcome)[0], State.FAILED)

    def test_folded_field(self) -> None:
        """A folded field is limited as a whole."""
        self.assert_final(
            b"HTTP/1.1 200 OK\r\nX: x\r\n" + b" x\r\n" * 20_000,
            "the head of A's answer has more than 65536 bytes",
        )

    def test_interim_answers(self) -> None:
        """Some interim answers (1xx) may come first. Too many are final."""
        early = b"HTTP/1.1 103 Early Hints\nLink: </>\n\n"
        for piece in (0, 1):
            self.assert_completed(CONTINUE + early + http("200 OK", OK), piece)
        self.assert_completed(CONTINUE * MAX_INTERIM_ANSWERS + http("200 OK", OK))
        self.assert_final(CONTINUE * (MAX_INTERIM_ANSWERS + 1), "interim answers")
        self.assert_final(
            b"HTTP/1.1 100 Continue\r\n" + (field(900) + "\r\n").encode() * 80,
            "the head of A's answer",
        )

    def test_each_answer_for_itself(self) -> None:
        """Each answer on a connection has the full limits."""
        for _ in range(5):
            self.assert_completed(http("200 OK", OK, *[field(1000)] * 60))
        self.assertEqual(len(self.network.connections), 1)

    def test_large_body(self) -> None:
        """A body of 64 KB is accepted. A larger one is final, with a length or in chunks."""
        padded = OK + b" " * (MAX_BODY_BYTES - len(OK))
        self.assert_completed(http("200 OK", padded))
        self.assert_final(http("200 OK", padded + b" "), "A's answer has more than 65536 bytes")
        chunk = b"800\r\n" + b" " * 2048 + b"\r\n"
        self.assert_final(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 40,
            "A's answer has more than 65536 bytes",
        )

    def test_not_http(self) -> None:
        """An answer that is not HTTP is final."""
        for answer in (
            b"220 smtp.example ESMTP\r\n\r\n",
            b"SSH-2.0-OpenSSH\r\n",
            b"\r\n\r\n",
            b"HTTP/1.1 OK\r\n\r\n",
            b"HTTP/x.y 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 2000,
        ):
            self.assert_final(answer, "A's answer is not HTTP")

    def test_compressed(self) -> None:
        """A compressed answer is decompressed. An invalid one, or one that grows beyond the limit,
        is final.
        """
        packed = gzip.compress(OK)
        for coding in ("gzip", "GZIP", "x-gzip", "identity, gzip"):
            self.assert_completed(http("200 OK", packed, f"Content-Encoding: {coding}"))
        self.assert_completed(http("200 OK", OK, "Content-Encoding: Identity"))
        twice = gzip.compress(packed)
        self.assert_completed(http("200 OK", twice, "Content-Encoding: gzip, X-Gzip"))
        outcome = self.call()
        self.say(http("200 OK", OK, "Content-Encoding: gzip"))
        self.assertIs(self.successResultOf(outcome)[0], State.FAILED)
        bomb = gzip.compress(b" " * 10_000_000)
        self.assert_final(
            http("200 OK", bomb, "Content-Encoding: gzip"), "A's answer has more than 65536 bytes"
        )

    def test_memory_for_a_compressed_answer(self) -> None:
        """However often an answer is compressed, it takes little memory to see that it is too
        large.
        """
        bomb = gzip.compress(gzip.compress(bytes(20_000_000), 1))
        self.assertLess(len(bomb), 2000)
        answer = http("200 OK", bomb, "Content-Encoding: gzip, gzip")
        tracemalloc.start()
        try:
            self.assert_final(answer, "A's answer has more than 65536 bytes")
            self.assertLess(tracemalloc.get_traced_memory()[1], 2_000_000)
        finally:
            tracemalloc.stop()

    def test_byte_order_mark(self) -> None:
        """JSON with a byte order mark is accepted."""
        self.assert_completed(http("200 OK", b"\xef\xbb\xbf" + OK))

    def test_gateways(self) -> None:
        """A gateway's 502, 503 or 504 is an outage, even if its page exceeds a limit."""
        for status in ("502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"):
            for answer in (
                http(status, b"<html>" * 20_000),
                http(status, b"", field(17_000)),
                http(status, b"", *[field(1000)] * 70),
                CONTINUE + http(status, b"", field(17_000)),
            ):
                outcome = self.call()
                self.say(answer)
                self.assertIn(f"A answered HTTP {status[:3]}", str(self.assertUnreachable(outcome)))

    def test_only_the_status_of_a_gateway_counts(self) -> None:
        """However its answer goes on, or if it does not go on, the task is tried again at the time
        that the gateway asked for. The connection is closed.
        """
        head = "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n"
        for rest in (
            "Content-Length: 50\r\n\r\nhello",
            "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            "Transfer-Encoding: chunked\r\n\r\nno size\r\n",
            "Transfer-Encoding: gzip, chunked\r\n\r\n",
            "Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
            "no colon\r\n\r\n",
            f"X: {'x' * 17_000}\r\n\r\n",
            f"X: {'x' * 17_000}",
            f"Content-Length: 70000\r\n\r\n{'x' * 70_000}",
        ):
            answer = (head + rest).encode()
            for pieces in ([answer], [answer[:12], answer[12:40], answer[40:]]):
                outcome = self.call()
                for piece in pieces:
                    self.say(piece)
                self.assertEqual(self.assertUnreachable(outcome).retry_after_s, 7.0)
                self.assertFalse(self.server().connected)

    def test_another_protocol(self) -> None:
        """An answer that switches to another protocol is final: rtprov asks for none."""
        self.assert_final(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
            "A switched to another protocol, which it was not asked for",
        )

    def test_cut(self) -> None:
        """A connection that is lost within the head, the body or a chunk is an outage."""
        for beginning in (
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000,
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{",
        ):
            outcome = self.call()
            self.say(beginning)
            self.server().loseConnection()
            self.network.settle()
            self.assertUnreachable(outcome)


class Connections(CallsTestCase):
    """Connection attempts, before the request is sent."""

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        ca = Path(folder.name) / "ca.pem"
        ca.write_bytes(Authority().pem)
        self.servers = VerifiedServers(ca, wall_clock=time)

    def test_tls_never_finished(self) -> None:
        """If A accepts connections but does not finish TLS, it has not got the request: that is an
        outage, reported after the deadline for connecting.
        """
        self.network.listen("silent").listen(Factory.forProtocol(Protocol))
        endpoint = ServerEndpoint(
            self.network.connect("silent"),
            where="a:443",
            secure=lambda: self.servers.server("a"),
            timeout_s=10.0,
            at_once=10,
            clock=self.reactor,
        )
        self.equipment = self.equipment_with(
            equipment_agent(endpoint, concurrency=10, clock=self.reactor)
        )
        outcome = self.call()
        self.network.advance(10)
        text = str(self.assertUnreachable(outcome))
        self.assertIn(
            "A cannot be reached: TLS: a:443 accepted the connection and did not finish the"
            " handshake within 10 s",
            text,
        )

    def test_time_begins_with_the_order(self) -> None:
        """A's time starts when the request is sent, however long connecting took."""
        later = Later(self.network.connect("a"))
        self.equipment = self.equipment_with(
            equipment_agent(later, concurrency=10, clock=self.reactor)
        )
        outcome = self.call()
        self.network.advance(60)
        self.assertEqual(self.received, b"")
        later.go_on()
        self.network.advance(89)
        self.assertNoResult(outcome)
        self.network.advance(2)
        self.failureResultOf(outcome, EquipmentSilent)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_connecting_fails(self) -> None:
        """Each way in which connecting can fail is an outage, with a description."""
        for error, text in (
            (
                NotConnected("could not connect to a:443: Connection refused"),
                "A cannot be reached: could not connect to a:443: Conn",
            ),
            (ConnectionRefusedError(), "A cannot be reached: ConnectionRefusedError"),
        ):
            self.equipment = self.equipment_with(
                equipment_agent(Later(None, [error]), concurrency=10, clock=self.reactor)
            )
            self.assertIn(text, str(self.assertUnreachable(self.call())))


class Shortages(CallsTestCase):
    """Shortages of this machine."""

    def test_said_once_a_minute(self) -> None:
        """The call counts as not made. The log names the limit once a minute, not for each call."""
        errors: list[Exception] = [
            OutOfResources("no open file left (ulimit -n)") for _ in range(1000)
        ]
        self.equipment = self.equipment_with(
            equipment_agent(Later(None, errors), concurrency=10, clock=self.reactor)
        )
        for _ in range(150):
            self.failureResultOf(self.call(), OutOfResources)
            self.network.advance(1)
        self.assertEqual(len(self.logged), 3)
        for line in self.logged:
            self.assertIn(
                "calls to A wait for resources of this machine (tasks lose no patience meanwhile):"
                " no open file left",
                line,
            )


@implementer(IStreamClientEndpoint)
class Later:
    """Connects to `endpoint` when it is told to. Before that, each attempt fails with the next of
    `errors`.
    """

    def __init__(
        self, endpoint: IStreamClientEndpoint | None, errors: list[Exception] | None = None
    ) -> None:
        self._endpoint = endpoint
        self._errors = errors or []
        self._told: Deferred[None] = Deferred()

    def go_on(self) -> None:
        self._told.callback(None)

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        if self._errors:
            return fail(self._errors.pop(0))
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        if not self._told.called:
            await self._told
        assert self._endpoint is not None
        return await self._endpoint.connect(factory)
