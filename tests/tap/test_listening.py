"""Listening: addresses, ports that cannot be opened, and what a stop waits for."""

from __future__ import annotations

import socket
from typing import cast

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from rtprov.errors import ConfigurationError
from rtprov.http.counting_site import CountingSite
from rtprov.tap.listening import (
    ANSWERED_WITHIN_S,
    FIRST_REQUEST_WITHIN_S,
    FLUSH_S,
    OPEN_WITHIN_S,
    Answering,
    Listening,
)
from tests.support.memory import MemoryNetwork, http_client


class Port:
    """A port on the given address."""

    def __init__(self, host: IAddress) -> None:
        self._host = host

    def getHost(self) -> IAddress:
        return self._host

    def stopListening(self) -> None: ...


class ListeningTests(SynchronousTestCase):
    def listening(self, reactor: MemoryReactor) -> Listening:
        return Listening("the broker", "tcp:5673", TCP4ServerEndpoint(reactor, 5673), Factory())

    def test_address(self) -> None:
        """The log has host and port, with brackets around an IPv6 address. For other sockets it has
        the description.
        """
        listening = self.listening(MemoryReactor())
        self.assertEqual(listening.address, "tcp:5673")
        listening.privilegedStartService()
        self.assertEqual((listening.address, listening.port_number), ("0.0.0.0:5673", 5673))
        for host, address in (
            (IPv6Address("TCP", "::1", 5673), "[::1]:5673"),
            (UNIXAddress("socket"), "tcp:5673"),
        ):
            listening.port = Port(host)  # type: ignore[assignment] # no more than that is used
            self.assertEqual(listening.address, address)

    def test_cannot_listen(self) -> None:
        """The error for a port in use is one line that says what, where and why."""
        from twisted.internet import reactor

        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            listening = Listening(
                "the broker",
                "tcp:x",
                TCP4ServerEndpoint(reactor, port, interface="127.0.0.1"),
                Factory(),
            )
            error = self.assertRaises(ConfigurationError, listening.privilegedStartService)
        self.assertEqual(str(error), "the broker cannot listen on tcp:x: Address already in use")
        self.successResultOf(listening.stopService())

    def test_no_such_port(self) -> None:
        """The error for an invalid port number is one line."""
        from twisted.internet import reactor

        listening = Listening(
            "the broker",
            "tcp:70000",
            TCP4ServerEndpoint(reactor, 70000, interface="127.0.0.1"),
            Factory(),
        )
        error = self.assertRaises(ConfigurationError, listening.privilegedStartService)
        self.assertIn("the broker cannot listen on tcp:70000: ", str(error))
        self.assertNotIn("\n", str(error))


class BeyondThisMachine(SynchronousTestCase):
    def listen(self, host: IAddress, public_bind_refusal: str | None) -> Listening:
        """Listen on a reactor whose port has the address `host`."""

        class Reactor(MemoryReactor):
            def listenTCP(self, *arguments: object, **more: object) -> Port:
                return Port(host)

        endpoint = TCP4ServerEndpoint(Reactor(), 5673)
        listening = Listening("the broker", "tcp:5673", endpoint, Factory(), public_bind_refusal)
        listening.privilegedStartService()
        return listening

    def test_refused(self) -> None:
        """If only this machine may connect, any other address is refused with one line that says
        why.
        """
        for host, address in (
            (IPv4Address("TCP", "0.0.0.0", 5673), "0.0.0.0:5673"),  # noqa: S104 - nothing listens
            (IPv4Address("TCP", "192.0.2.7", 5673), "192.0.2.7:5673"),
            (IPv6Address("TCP", "::", 5673), "[::]:5673"),
            (IPv6Address("TCP", "::ffff:192.0.2.7", 5673), "[::ffff:192.0.2.7]:5673"),
            (IPv6Address("TCP", "fe80::1%eth0", 5673), "[fe80::1%eth0]:5673"),
        ):
            error = self.assertRaises(ConfigurationError, self.listen, host, "so and so")
            self.assertEqual(
                str(error),
                f"the broker must not listen on {address}, which other machines can reach: so"
                " and so",
            )
            self.listen(host, None)

    def test_this_machine(self) -> None:
        """Loopback addresses and Unix sockets are accepted."""
        for host in (
            IPv4Address("TCP", "127.0.0.1", 5673),
            IPv4Address("TCP", "127.8.7.6", 5673),
            IPv6Address("TCP", "::1", 5673),
            IPv6Address("TCP", "::ffff:127.0.0.1", 5673),
            UNIXAddress("socket"),
        ):
            self.listen(host, "so and so")


class Slow(Resource):
    """Answers when `answer` is called."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[IRequest] = []

    def render(self, request: IRequest) -> int:
        self.requests.append(request)
        return NOT_DONE_YET

    def answer(self) -> None:
        request = self.requests.pop(0)
        request.write(b"done")
        request.finish()


class Client(Protocol):
    """Collects the received bytes, and whether the connection was closed."""

    def __init__(self) -> None:
        self.heard, self.closed = b"", False

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed = True


class AnsweringTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        self.resource = Slow()
        site = CountingSite(self.resource, reactor=self.clock)
        self.service = Answering("service B", "b", self.network.listen("b"), site, self.clock)
        self.service.privilegedStartService()
        self.service.startService()
        self.client = http_client(self.network)

    def request(self) -> Deferred[bytes]:
        """Send a request; the Deferred fires with the body of the answer."""

        async def request() -> bytes:
            response = await self.client.get("http://b/")
            return await response.content()

        requested = Deferred.fromCoroutine(request())
        self.network.settle()
        return requested

    def test_nothing_under_way(self) -> None:
        """Without running requests a stop ends at once, although connections are open."""
        requested = self.request()
        self.resource.answer()
        self.network.settle()
        self.assertEqual(self.successResultOf(requested), b"done")
        self.successResultOf(self.service.stopService())

    def test_too_early(self) -> None:
        """Requests that arrive before the service is ready, on old and new connections, wait and
        are then answered.
        """
        ready: Deferred[None] = Deferred()
        self.service.open_when(ready)
        first = self.request()
        self.network.advance(OPEN_WITHIN_S - 0.1)
        second = self.request()
        self.assertEqual(len(self.resource.requests), 0)
        ready.callback(None)
        self.network.settle()
        for requested in (first, second):
            self.resource.answer()
            self.network.settle()
            self.assertEqual(self.successResultOf(requested), b"done")
        third = self.request()
        self.assertEqual(len(self.resource.requests), 1)
        self.resource.answer()
        self.network.settle()
        self.assertEqual(self.successResultOf(third), b"done")

    def test_never_ready(self) -> None:
        """Requests wait at most 3 s. Then the service answers, ready or not."""
        self.service.open_when(Deferred())
        requested = self.request()
        self.network.advance(OPEN_WITHIN_S)
        self.assertEqual(len(self.resource.requests), 1)
        self.resource.answer()
        self.network.settle()
        self.assertEqual(self.successResultOf(requested), b"done")

    def test_answered(self) -> None:
        """A stop refuses new connections. It waits for all answers and for their bytes to be
        sent.
        """
        first, second = self.request(), self.request()
        stopped = self.service.stopService()
        refused = self.request()
        self.failureResultOf(refused)
        self.resource.answer()
        self.network.advance(1)
        self.assertEqual(self.successResultOf(first), b"done")
        self.assertNoResult(stopped)
        self.resource.answer()
        self.network.settle()
        self.assertEqual(self.successResultOf(second), b"done")
        self.assertNoResult(stopped)
        self.network.advance(FLUSH_S)
        self.successResultOf(stopped)

    def raw(self) -> Client:
        """Open a connection that stays open."""
        connected = self.network.connect("b").connect(Factory.forProtocol(Client))
        self.network.settle()
        return cast("Client", self.successResultOf(connected))

    def say(self, client: Client, text: bytes = b"GET / HTTP/1.1\r\nHost: b\r\n\r\n") -> None:
        assert client.transport is not None
        client.transport.write(text)
        self.network.settle()

    def test_kept_connections(self) -> None:
        """A stop closes idle connections. On others the answer is the last one, says ``Connection:
        close``, and no further request is accepted.
        """
        idle, asking, arriving = (self.raw() for _ in range(3))
        self.say(idle)
        self.resource.answer()
        self.say(asking)
        self.say(arriving, b"GET / HTTP/1.1\r\n")
        stopped = self.service.stopService()
        self.network.settle()
        self.assertEqual(
            [client.closed for client in (idle, asking, arriving)], [True, False, False]
        )
        self.say(arriving, b"Host: b\r\n\r\n")
        for client in (asking, arriving):
            self.assertEqual(len(self.resource.requests), 2 if client is asking else 1)
            self.resource.answer()
            self.say(client)
            self.assertIn(b"\r\nConnection: close\r\n", client.heard)
            self.assertTrue(client.closed)
        self.assertEqual(self.resource.requests, [])
        self.network.advance(FLUSH_S)
        self.successResultOf(stopped)

    def test_new_connection(self) -> None:
        """A connection on which no request has begun gets its first answer. It may have been
        accepted just before the stop.
        """
        new = self.raw()
        stopped = self.service.stopService()
        self.network.advance(FIRST_REQUEST_WITHIN_S - FLUSH_S)
        self.assertFalse(new.closed)
        self.say(new)
        self.network.advance(FLUSH_S)
        self.assertNoResult(stopped)
        self.resource.answer()
        self.say(new, b"")
        self.assertIn(b"\r\nConnection: close\r\n", new.heard)
        self.assertTrue(new.closed)
        self.network.advance(FLUSH_S)
        self.successResultOf(stopped)

    def test_new_connection_without_a_request(self) -> None:
        """A stop waits for a first request for a limited time."""
        self.raw()
        stopped = self.service.stopService()
        self.network.advance(FIRST_REQUEST_WITHIN_S - FLUSH_S)
        self.assertNoResult(stopped)
        self.network.advance(2 * FLUSH_S)
        self.successResultOf(stopped)

    def test_released(self) -> None:
        """`release` ends requests that wait, after the port was closed."""
        self.service._release = self.resource.answer
        requested = self.request()
        stopped = self.service.stopService()
        self.network.advance(FLUSH_S)
        self.assertEqual(self.successResultOf(requested), b"done")
        self.successResultOf(stopped)

    def leaving(self) -> tuple[list[str], Deferred[None]]:
        """Begin a stop with a delay of 5 s. The list says when the service was left."""
        left: list[str] = []
        self.service.stop_delay_s = 5
        self.service.leave = lambda: left.append("left")
        return left, self.service.stopService()

    def test_stop_delay(self) -> None:
        """With a delay, a stop makes the service not ready first. Until the delay is over, new and
        idle connections are served, and each answer is the last one on its connection.
        """
        idle, kept = self.raw(), self.raw()
        self.say(idle)
        self.resource.answer()
        self.network.settle()
        left, stopped = self.leaving()
        self.assertEqual(left, ["left"])
        self.network.advance(4.9)
        for client in (kept, self.raw()):
            self.say(client)
            self.resource.answer()
            self.network.settle()
            self.assertIn(b"\r\nConnection: close\r\n", client.heard)
            self.assertTrue(client.closed)
        self.assertFalse(idle.closed)
        self.network.advance(0.1)
        self.assertTrue(idle.closed)
        self.failureResultOf(self.request())
        self.successResultOf(stopped)

    def test_no_more_delay(self) -> None:
        """`stop_now` ends the delay, also before the stop."""
        _, stopped = self.leaving()
        self.network.advance(1)
        self.assertNoResult(stopped)
        self.service.stop_now()
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.setUp()
        self.service.stop_delay_s = 5
        self.service.stop_now()
        self.successResultOf(self.service.stopService())

    def test_hung_up(self) -> None:
        """A stop does not wait for a client that has closed its connection."""
        requested = self.request()
        stopped = self.service.stopService()
        self.network.cut("b")
        self.network.advance(FLUSH_S)
        self.failureResultOf(requested)
        self.successResultOf(stopped)

    def test_no_answer(self) -> None:
        """A stop waits for a limited time. An answer after that does no harm."""
        requested = self.request()
        stopped = self.service.stopService()
        self.network.advance(ANSWERED_WITHIN_S)
        self.assertNoResult(stopped)
        self.network.advance(FLUSH_S)
        self.successResultOf(stopped)
        self.resource.answer()
        self.network.settle()
        self.assertEqual(self.successResultOf(requested), b"done")
