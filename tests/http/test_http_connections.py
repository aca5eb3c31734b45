"""Connections: how long they may last, how they end, and the last resorts."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.testing import StringTransport
from twisted.web.resource import Resource

from rtprov.http.channel import CLOSE_TIMEOUT_S
from rtprov.http.request import MAX_BODY_BYTES
from rtprov.http.site import IDLE_TIMEOUT_S, JsonChannel, JsonSite
from tests.support.front import BODY, CPE, POST_PATH
from tests.support.http_case import CHUNKED, HttpTestCase
from tests.support.memory import HIGH_WATER, MemoryTransport
from tests.support.raw_http import WebTestCase, chunked, request


class Times(HttpTestCase):
    """No client can hold a connection for ever."""

    def test_idle(self) -> None:
        """A connection on which nothing comes is closed without a word, from its beginning or after
        an answer.
        """
        fresh, used = self.connect(), self.connect()
        used.send(request("GET", "/"))
        used.received.clear()
        self.network.advance(IDLE_TIMEOUT_S - 1)
        self.assertEqual((fresh.lost, used.lost), (False, False))
        self.network.advance(2)
        self.assertEqual((fresh.lost, used.lost), (True, True))
        self.assertEqual((fresh.received, used.received), (b"", b""))

    def test_trickle(self) -> None:
        """A request that has not arrived as a whole in time is a 408, however steadily its bytes
        come, in head or body.
        """
        data = request("POST", POST_PATH, BODY, ["X: " + "x" * 200])
        for start in (0, data.index(BODY) - 30):
            client = self.connect()
            client.send(data[:start])
            for byte in data[start : start + 59]:
                client.send(bytes([byte]))
                self.network.advance(1)
            self.assertFalse(client.lost)
            self.network.advance(2)
            self.assertClosed(client, 408, f"The request did not arrive within {IDLE_TIMEOUT_S} s")

    def test_time_begins_with_the_request(self) -> None:
        """A request on a connection that was idle has its whole time, and so has the next one."""
        client = self.connect()
        for _ in range(3):
            self.network.advance(IDLE_TIMEOUT_S - 1)
            data = request("POST", POST_PATH, BODY)
            client.send(data[:50])
            self.network.advance(IDLE_TIMEOUT_S - 1)
            client.send(data[50:])
        self.assertEqual([answer.status for answer in client.answers()], [200] * 3)

    def test_a_request_behind_another(self) -> None:
        """A request that begins while another is under way has its whole time once that one is
        answered.
        """
        self.tasks.silent = True
        client = self.connect()
        client.send(request("POST", POST_PATH, BODY) + b"GET")
        client.send(b" /")
        self.network.advance(5)
        client.send(b" ")
        self.network.advance(IDLE_TIMEOUT_S - 2)
        client.send(b"HTTP/1.1")
        self.network.advance(2)
        self.assertEqual([answer.status for answer in client.answers()], [503, 408])
        self.assertTrue(client.lost)

    def test_others_are_served(self) -> None:
        """While one request is unfinished, others are served."""
        slow = self.connect()
        data = request("POST", POST_PATH, BODY)
        slow.send(data[:-1])
        self.assertAccepted(self.post())
        self.assertEqual(len(self.tasks.submitted), 1)
        slow.send(data[-1:])
        self.assertEqual(len(self.tasks.submitted), 2)

    def test_gone_before_its_request_is_whole(self) -> None:
        """A client that hangs up within its request leaves nothing."""
        for size in (0, 1, 30, 120, -1):
            client = self.connect()
            client.send(request("POST", POST_PATH, BODY)[:size])
            client.hang_up()
        self.assertEqual(self.tasks.submitted, [])

    def test_a_client_that_does_not_let_go(self) -> None:
        """Where a connection does not close as it is told to (TLS waits for the client's farewell),
        it is cut.
        """
        for data in (
            b"nonsense\r\n\r\n",
            request("GET", "/", None, ["Connection: close"]),
            b"",
            b"G",
        ):
            client = self.connect()
            client.stop_reading()
            client.send(data)
            self.network.advance(CLOSE_TIMEOUT_S - 1 if len(data) > 1 else IDLE_TIMEOUT_S)
            client.send(b"GET / HTTP/1.1\r\n")
            self.assertFalse(client.lost)
            self.network.advance(CLOSE_TIMEOUT_S)
            self.assertTrue(client.lost)

    def test_connection_lost_before_it_is_cut(self) -> None:
        """When a closed connection ends by itself, nothing is left on the clock."""
        client = self.connect()
        client.send(b"nonsense\r\n\r\n")
        self.assertTrue(client.lost)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Pipelining(HttpTestCase):
    """A client that sends many requests at once costs others neither time nor memory."""

    def test_in_turn(self) -> None:
        """Between requests that arrived in one piece, those of other connections are served."""
        greedy, modest = self.connect(), self.connect()
        for client, path, times in ((greedy, "GREEDY01", 3), (modest, "MODEST01", 1)):
            assert client.transport is not None
            client.transport.write(request("POST", CPE + path, BODY) * times)
        self.network.settle()
        self.assertEqual(
            [task.equipment_id for task in self.tasks.submitted],
            ["GREEDY01", "MODEST01", "GREEDY01", "GREEDY01"],
        )
        self.assertEqual((len(greedy.answers()), len(modest.answers())), (3, 1))

    def test_unread(self) -> None:
        """No more is answered than the client reads, and all once it does read, also what comes
        meanwhile.
        """
        client = self.connect()
        client.stop_reading()
        for _ in range(3):
            client.send(request("GET", "/") * 1000)
        self.assertLess(cast("MemoryTransport", client.transport).other.written, 2 * HIGH_WATER)
        cast("MemoryTransport", client.transport).resumeProducing()
        self.network.settle()
        self.assertEqual(len(client.answers()), 3000)

    def test_unread_in_small_pieces(self) -> None:
        """The same where each request is a piece of its own, as TLS hands them on."""
        client = self.connect()
        client.stop_reading()
        server = cast("MemoryTransport", client.transport).other
        for _ in range(3000):
            server.protocol.dataReceived(request("GET", "/"))
        self.network.settle()
        self.assertLess(server.written, 2 * HIGH_WATER)
        cast("MemoryTransport", client.transport).resumeProducing()
        self.network.settle()
        self.assertEqual(len(client.answers()), 3000)

    def test_unread_for_ever(self) -> None:
        """Who never reads is cut off, and what he sent is forgotten."""
        client = self.connect()
        client.stop_reading()
        client.send(request("GET", "/") * 2000)
        self.network.advance(IDLE_TIMEOUT_S + CLOSE_TIMEOUT_S + 1)
        self.assertTrue(client.lost)


class AnyTransport(WebTestCase):
    """What does not depend on a transport that takes nothing more once it is told to close, as TLS
    does.
    """

    def begin(self) -> JsonChannel:
        protocol = cast(
            "JsonChannel", JsonSite(Resource(), reactor=self.reactor).buildProtocol(None)
        )
        self.transport = StringTransport()
        protocol.makeConnection(self.transport)
        return protocol

    def test_one_refusal(self) -> None:
        """A connection is refused once, whatever else is wrong with the rest of what came."""
        for data in (
            request("POST", POST_PATH, None, CHUNKED)
            + chunked(*[b"x" * 60_000] * 40)
            + b"nonsense\r\n" * 3,
            request(
                "POST",
                POST_PATH,
                None,
                [f"Content-Length: {MAX_BODY_BYTES + 1}", "Expect: 100-continue"],
            ),
            b"nonsense\r\n\r\n" * 3,
        ):
            protocol = self.begin()
            protocol.dataReceived(data)
            protocol.dataReceived(data)
            self.assertEqual(self.transport.value().count(b"HTTP/1.1 "), 1, data[:50])
            protocol.connectionLost()

    def test_closed_twice(self) -> None:
        """Closing twice leaves no timer behind."""
        protocol = self.begin()
        protocol.loseConnection()
        protocol.loseConnection()
        protocol.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class LastResort(WebTestCase):
    def test_a_resource_that_breaks(self) -> None:
        """What breaks outside of any handler is logged once, and a plain 500."""

        class Broken(Resource):
            isLeaf = True

            def render(self, request: object) -> bytes:
                raise KeyError("internals")

        self.serve(Broken())
        for _ in range(2):
            answer = self.ask("GET", "/")
            self.assertError(answer, 500, "Internal server error")
            self.assertNotIn(b"internals", answer.body)
            self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_a_resource_that_breaks_too_late(self) -> None:
        """What breaks within its answer does not put another one into it."""

        class Broken(Resource):
            isLeaf = True

            def render(self, request: Any) -> bytes:
                request.write(b"part")
                raise KeyError("internals")

        self.serve(Broken())
        self.assertEqual(self.ask("GET", "/").body, b"part")
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_http_2_is_not_offered(self) -> None:
        """TLS negotiates HTTP/1.1, else HTTP/1.0, and nothing else."""
        self.assertEqual(
            JsonSite(Resource(), reactor=self.reactor).acceptableProtocols(),
            [b"http/1.1", b"http/1.0"],
        )
