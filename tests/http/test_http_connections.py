"""Connections: time limits, how they end, and errors outside of handlers."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.testing import StringTransport
from twisted.web.resource import Resource

from rtprov.frontend.deadline import DEADLINE_S
from rtprov.http.channel import CLOSE_TIMEOUT_S
from rtprov.http.request import MAX_BODY_BYTES
from rtprov.http.site import IDLE_TIMEOUT_S, JsonChannel, JsonSite
from rtprov.tap.listening import OPEN_WITHIN_S
from tests.support.front import BODY, CPE, GET_PATH, ID, POST_PATH, TASK
from tests.support.http_case import CHUNKED, HttpTestCase
from tests.support.memory import HIGH_WATER, MemoryTransport
from tests.support.raw_http import WebTestCase, chunked, request


class Times(HttpTestCase):
    """No client can hold a connection for ever."""

    def test_idle(self) -> None:
        """An idle connection is closed without an answer, from its start or after an answer."""
        fresh, used = self.connect(), self.connect()
        used.send(request("GET", "/"))
        used.received.clear()
        self.network.advance(IDLE_TIMEOUT_S - 1)
        self.assertEqual((fresh.lost, used.lost), (False, False))
        self.network.advance(2)
        self.assertEqual((fresh.lost, used.lost), (True, True))
        self.assertEqual((fresh.received, used.received), (b"", b""))

    def test_trickle(self) -> None:
        """A request that is not complete in time is a 408, however steadily bytes of its head or
        body arrive.
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
        """The time limit of a request starts when its first byte arrives, on a connection that was
        idle and for the next request.
        """
        client = self.connect()
        for _ in range(3):
            self.network.advance(IDLE_TIMEOUT_S - 1)
            data = request("POST", POST_PATH, BODY)
            client.send(data[:50])
            self.network.advance(IDLE_TIMEOUT_S - 1)
            client.send(data[50:])
        self.assertEqual([answer.status for answer in client.answers()], [200] * 3)

    def test_a_request_behind_another(self) -> None:
        """The time limit of a pipelined request starts when the request before it is answered."""
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

    def test_before_requests_are_read(self) -> None:
        """While a front end that starts reads no requests, no time limit passes."""
        self.site.hold()
        slow, idle = self.connect(), self.connect()
        data = request("POST", POST_PATH, BODY)
        slow.send(data[:-1])
        self.network.advance(IDLE_TIMEOUT_S + 1)
        self.assertEqual((slow.lost, idle.lost), (False, False))
        self.site.open()
        self.network.advance(IDLE_TIMEOUT_S - 1)
        self.assertEqual((slow.lost, idle.lost), (False, True))
        self.network.advance(2)
        self.assertClosed(slow, 408, f"The request did not arrive within {IDLE_TIMEOUT_S} s")

    def test_held_requests(self) -> None:
        """The time in which a front end that starts holds a request counts: the answer comes within
        5 s of the request, on the fast lane and on Twisted's way. A request that arrives later has
        all its time.
        """
        self.tasks.silent = self.statuses.silent = self.directory.silent = True
        self.site.hold()
        held = []
        for data in (
            request("POST", POST_PATH, BODY),
            request("POST", POST_PATH, BODY, ["TE: trailers"]),
            request("GET", GET_PATH),
            request("GET", GET_PATH, headers=["TE: trailers"]),
            request("DELETE", GET_PATH),
            request("GET", f"{CPE}{ID}/task"),
            request("GET", f"/api/v1/tasks/{TASK}"),
            request("GET", "/api/v1/tasks"),
            request("GET", "/api/v1/tasks/failures"),
            request("GET", "/api/v1/summary"),
            request("GET", "/readyz"),
        ):
            held.append(self.connect())
            held[-1].send(data)
        late = self.connect()
        self.network.advance(OPEN_WITHIN_S)
        self.site.open()
        late.send(request("POST", POST_PATH, BODY))
        self.network.advance(DEADLINE_S - OPEN_WITHIN_S)
        for client in held:
            self.assertEqual(len(client.answers()), 1)
        self.assertEqual(late.answers(), [])
        self.network.advance(OPEN_WITHIN_S)
        self.assertEqual([answer.status for answer in late.answers()], [503])

    def test_others_are_served(self) -> None:
        """While a request is incomplete, other connections are served."""
        slow = self.connect()
        data = request("POST", POST_PATH, BODY)
        slow.send(data[:-1])
        self.assertAccepted(self.post())
        self.assertEqual(len(self.tasks.submitted), 1)
        slow.send(data[-1:])
        self.assertEqual(len(self.tasks.submitted), 2)

    def test_gone_before_its_request_is_whole(self) -> None:
        """A client that hangs up during its request leaves no timer."""
        for size in (0, 1, 30, 120, -1):
            client = self.connect()
            client.send(request("POST", POST_PATH, BODY)[:size])
            client.hang_up()
        self.assertEqual(self.tasks.submitted, [])

    def test_a_client_that_does_not_let_go(self) -> None:
        """If a connection is not closed in time (TLS waits for the client's close), it is
        aborted.
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
        """If the client closes the connection before it is aborted, no timer is left."""
        client = self.connect()
        client.send(b"nonsense\r\n\r\n")
        self.assertTrue(client.lost)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Pipelining(HttpTestCase):
    """A client that sends many requests at once delays no other client and uses limited memory."""

    def test_in_turn(self) -> None:
        """Other connections are served between the requests that arrive in one piece."""
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
        """Answers are sent only as fast as the client reads. When it reads, all are sent, including
        those to later requests.
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
        """The same holds if each request arrives in a piece of its own, as with TLS."""
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
        """A client that never reads is disconnected, and its requests are dropped."""
        client = self.connect()
        client.stop_reading()
        client.send(request("GET", "/") * 2000)
        self.network.advance(IDLE_TIMEOUT_S + CLOSE_TIMEOUT_S + 1)
        self.assertTrue(client.lost)


class AnyTransport(WebTestCase):
    """Behaviour on a transport that still delivers data after it was told to close, as TLS does."""

    def begin(self) -> JsonChannel:
        protocol = cast(
            "JsonChannel", JsonSite(Resource(), reactor=self.reactor).buildProtocol(None)
        )
        self.transport = StringTransport()
        protocol.makeConnection(self.transport)
        return protocol

    def test_one_refusal(self) -> None:
        """A connection is refused only once, whatever else is wrong in the data after that."""
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
        """Closing twice leaves no timer."""
        protocol = self.begin()
        protocol.loseConnection()
        protocol.loseConnection()
        protocol.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class LastResort(WebTestCase):
    def test_a_resource_that_breaks(self) -> None:
        """An exception outside of a handler is logged once, and answered with a plain 500."""

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
        """An exception after the start of an answer does not add a second answer."""

        class Broken(Resource):
            isLeaf = True

            def render(self, request: Any) -> bytes:
                request.write(b"part")
                raise KeyError("internals")

        self.serve(Broken())
        self.assertEqual(self.ask("GET", "/").body, b"part")
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_http_2_is_not_offered(self) -> None:
        """TLS negotiates HTTP/1.1 or HTTP/1.0, and nothing else."""
        self.assertEqual(
            JsonSite(Resource(), reactor=self.reactor).acceptableProtocols(),
            [b"http/1.1", b"http/1.0"],
        )
