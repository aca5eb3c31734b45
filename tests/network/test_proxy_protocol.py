"""The PROXY protocol: connections through a proxy that sends the client's address in a header,
which may be good, bad or late.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource

import tests.support.strategies  # noqa: F401 # Hypothesis settings
from rtprov.http.admission import Admission
from rtprov.http.request import caller_of
from rtprov.http.site import IDLE_TIMEOUT_S, JsonSite
from rtprov.network.address_networks import parse_network
from rtprov.network.proxy_protocol import (
    MAX_V1_BYTES,
    WARN_EVERY_S,
    BadHeader,
    Header,
    ProxiedEndpoint,
    parse_header,
)
from rtprov.security.limits import Connections, Rate
from rtprov.security.tls_server import TLSEndpoint
from tests.support.memory import MemoryNetwork
from tests.support.raw_http import RawClient, request
from tests.support.tls_peers import Peers
from tests.support.tls_server_case import Everybody, ServerTestCase

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def v1(source: str, destination: str = "192.0.2.1", ports: tuple[int, int] = (1234, 443)) -> bytes:
    family = 6 if ":" in source else 4
    return f"PROXY TCP{family} {source} {destination} {ports[0]} {ports[1]}\r\n".encode()


def v2(rest: bytes = b"", command: int = 0x21, family: int = 0x11) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest)) + rest


def v2_tcp(source: str, destination: str = "192.0.2.1", tlvs: bytes = b"") -> bytes:
    packed = ip_address(source).packed + ip_address(destination).packed
    return v2(packed + struct.pack("!HH", 1234, 443) + tlvs, family=0x21 if ":" in source else 0x11)


LOCAL = v2(b"\x04\x00\x01x", command=0x20, family=0)
UNKNOWN = b"PROXY UNKNOWN\r\n"
GOOD: tuple[tuple[bytes, IAddress | None, IAddress | None], ...] = (
    (
        v1("198.51.100.7"),
        IPv4Address("TCP", "198.51.100.7", 1234),
        IPv4Address("TCP", "192.0.2.1", 443),
    ),
    (
        v1("198.51.100.7", ports=(0, 65535)),
        IPv4Address("TCP", "198.51.100.7", 0),
        IPv4Address("TCP", "192.0.2.1", 65535),
    ),
    (
        v1("2001:DB8:0::7", "::1"),
        IPv6Address("TCP", "2001:db8::7", 1234),
        IPv6Address("TCP", "::1", 443),
    ),
    (UNKNOWN, None, None),
    (b"PROXY UNKNOWN ffff::1 whatever 1 2\r\n", None, None),
    (
        v2_tcp("198.51.100.7"),
        IPv4Address("TCP", "198.51.100.7", 1234),
        IPv4Address("TCP", "192.0.2.1", 443),
    ),
    (
        v2_tcp("2001:db8::7", "::1", b"\x04\x00\x01x"),
        IPv6Address("TCP", "2001:db8::7", 1234),
        IPv6Address("TCP", "::1", 443),
    ),
    (
        v2(b"/a".ljust(108, b"\x00") + b"/b".ljust(108, b"\x00"), family=0x31),
        UNIXAddress(b"/a"),
        UNIXAddress(b"/b"),
    ),
    (LOCAL, None, None),
    (v2(command=0x20, family=0x11), None, None),
    (v2(b"anything", family=0), None, None),
)
BAD = (
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01\x02\x00\x01",  # TLS without a header
    b"proxy TCP4 198.51.100.7 192.0.2.1 1 2\r\n",
    b"PROXY\r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP5 198.51.100.7 192.0.2.1 1 2\r\n",
    b"PROXY UDP4 198.51.100.7 192.0.2.1 1 2\r\n",
    b"PROXY UNKNOWNS\r\n",
    v1("198.51.100"),
    v1("198.51.100.256"),
    b"PROXY TCP4 ::1 ::1 1 2\r\n",
    b"PROXY TCP6 198.51.100.7 192.0.2.1 1 2\r\n",
    v1("fe80::1%eth0", "::1"),
    v1("evil.example"),
    b"PROXY TCP4 198.51.100.7\n 192.0.2.1 1 2\r\n",
    b"PROXY TCP4 \xd9\xa1.1.1.1 192.0.2.1 1 2\r\n",
    v1("198.51.100.7", ports=(65536, 1)),
    v1("198.51.100.7", ports=(-1, 1)),
    b"PROXY TCP4 198.51.100.7 192.0.2.1 01 2\r\n",
    b"PROXY TCP4 198.51.100.7 192.0.2.1 x 2\r\n",
    b"PROXY TCP4 198.51.100.7 192.0.2.1 1\r\n",
    b"PROXY TCP4 198.51.100.7 192.0.2.1 1 2 \r\n",
    b"PROXY UNKNOWN " + b"x" * MAX_V1_BYTES,
    v2(b"\x00" * 11),
    v2(b"\x00" * 35, family=0x21),
    v2(b"\x00" * 215, family=0x31),
    v2(b"\x00" * 12, family=0x12),
    v2(b"\x00" * 12, family=0x41),
    v2(b"\x00" * 12, command=0x22),
    v2(b"\x00" * 12, command=0x11),
    v2(b"\x00" * 5000),
    v2(b"\x00" * 5000)[:16],
)


class Headers(SynchronousTestCase):
    def test_good(self) -> None:
        """A header of either version gives both addresses, or none, and its length. It may arrive
        in pieces.
        """
        for data, source, destination in GOOD:
            for end in range(len(data)):
                self.assertIsNone(parse_header(data[:end]), data[:end])
            for rest in (b"", b"\r\n", b"PROXY"):
                self.assertEqual(parse_header(data + rest), Header(len(data), source, destination))

    def test_bad(self) -> None:
        """Data that is not a header, or has an invalid address, is refused."""
        for data in BAD:
            self.assertRaises(BadHeader, parse_header, data)

    @given(
        st.sampled_from([data for data, *_ in GOOD]), st.integers(0, 300), st.binary(max_size=300)
    )
    def test_anything(self, data: bytes, start: int, garbage: bytes) -> None:
        """Arbitrary bytes raise no other error, and a header is never longer than the data."""
        for text in (garbage, data[:start] + garbage):
            try:
                header = parse_header(text)
            except BadHeader:
                continue
            self.assertTrue(header is None or header.length <= len(text))


class _WhoAmI(Resource):
    """Answers with the caller's name."""

    isLeaf = True

    def render(self, request: IRequest) -> bytes:
        return caller_of(request).name.encode()


class Announcing(WrappingFactory[Any]):
    """Connections that begin with a header."""

    def __init__(self, header: bytes, factory: IProtocolFactory) -> None:
        super().__init__(factory)

        class Announced(ProtocolWrapper):
            def makeConnection(self, transport: Any) -> None:
                transport.write(header)
                super().makeConnection(transport)

        self.protocol = Announced


class ProxiedTestCase(ServerTestCase):
    """A site at "b", without TLS, and peers at "a", with TLS and at most three connections, one for
    each address. Both expect a PROXY header.
    """

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.reactor = cast("IReactorTime", self.clock)
        self.network = MemoryNetwork(self.clock)
        self.connections = Connections(total=3, per_address=1)
        self.everybody = Everybody()
        secure = ProxiedEndpoint(self.network.listen("a"), self.reactor)
        TLSEndpoint(secure, self.identity, self.reactor, self.connections).listen(self.everybody)
        admission = Admission(now=self.clock.seconds, wall_clock=self.clock.seconds, rate=Rate(1))
        site = JsonSite(_WhoAmI(), reactor=self.reactor, admission=admission)
        ProxiedEndpoint(self.network.listen("b"), self.reactor).listen(site)
        self.log: list[str] = []
        observer = cast("ILogObserver", self._observe)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def _observe(self, event: LogEvent) -> None:
        if event["log_namespace"] in (
            "rtprov.security.tls_server",
            "rtprov.network.proxy_protocol",
        ):
            self.log.append(formatEvent(event))

    def dial(self, where: str, data: bytes = b"") -> RawClient:
        """Connect and send this."""
        client = RawClient(self.network, None)
        connecting = self.network.connect(where).connect(Factory.forProtocol(lambda: client))
        connecting.addErrback(lambda _: setattr(client, "lost", True))
        self.network.settle()
        if not client.lost:
            client.send(data)
        return client

    def handshake_behind(self, header: bytes) -> Peers:
        """Return a TLS client behind a proxy that sends this header first."""
        peers = Peers()
        factory = Announcing(header, TLSMemoryBIOFactory(self.client(), True, peers, self.clock))
        self.network.connect("a").connect(factory).addErrback(lambda _: None)
        self.network.settle()
        return peers


class Callers(ProxiedTestCase):
    def ask(self, header: bytes) -> str:
        (answer,) = self.dial("b", header + request("GET", "/")).answers()
        return answer.body.decode() if answer.status == 200 else str(answer.status)

    def test_names(self) -> None:
        """A client is known by its own address, also in the audit log. If the header has none, it
        is known by the proxy's.
        """
        for header, name in (
            (v1("198.51.100.7"), "address:198.51.100.7"),
            (v2_tcp("198.51.100.8"), "address:198.51.100.8"),
            (v1("::ffff:198.51.100.9", "::1"), "address:198.51.100.9"),
            (v2_tcp("2001:db8:1:2:3:4:5:6", "::1"), "address:2001:db8:1:2::/64"),
            (v2(b"/a".ljust(216, b"\x00"), family=0x31), "address:local"),
            (UNKNOWN, "address:127.0.0.1"),
        ):
            self.assertEqual(self.ask(header), name)

    def test_rate(self) -> None:
        """Requests are counted by that address, in any spelling."""
        self.assertEqual(
            [self.ask(v1("198.51.100.7")), self.ask(v1("198.51.100.8"))],
            ["address:198.51.100.7", "address:198.51.100.8"],
        )
        self.assertEqual(
            [self.ask(v2_tcp("198.51.100.7")), self.ask(v1("::ffff:198.51.100.8", "::1"))],
            ["429", "429"],
        )

    def test_in_pieces(self) -> None:
        """A header and the first request may arrive together, or byte by byte."""
        client = self.dial("b")
        for byte in v1("198.51.100.7") + request("GET", "/"):
            client.send(bytes([byte]))
        self.assertEqual([answer.body for answer in client.answers()], [b"address:198.51.100.7"])


class Limits(ProxiedTestCase):
    def test_by_the_clients_address(self) -> None:
        """Connections are counted by the client's address, whatever proxy they come through, and
        are released for the same address.
        """
        for _ in range(5):
            peers = [
                self.handshake_behind(header)
                for header in (
                    v1("198.51.100.7"),
                    v2_tcp("198.51.100.8"),
                    v1("::ffff:198.51.100.7", "::1"),
                )
            ]
            self.assertEqual([bool(each.peer.heard) for each in peers], [True, True, False])
            self.assertEqual((self.connections.open, len(self.connections)), (2, 2))
            self.network.cut("a")
            self.network.settle()
            self.assertEqual((self.connections.open, len(self.connections)), (0, 0))
        self.assertEqual(
            self.log,
            ["too many connections: closed one from 198.51.100.7; more are not logged for 60 s"],
        )

    def test_by_the_proxys_address(self) -> None:
        """Connections of the proxy itself count for the proxy's address."""
        self.assertEqual(
            [self.dial("a", header).lost for header in (LOCAL, UNKNOWN, v1("127.0.0.1"))],
            [False, True, True],
        )

    def test_at_once(self) -> None:
        """A connection with an address that has too many is closed after its header, before TLS."""
        self.assertEqual(
            [self.dial("a", v1("198.51.100.7")).lost for _ in range(3)], [False, True, True]
        )

    def test_in_all(self) -> None:
        """A connection counts towards the total from its start, even before its header arrives."""
        silent = [self.dial("a", b"PROXY TCP4 " if number else b"") for number in range(3)]
        self.assertTrue(self.dial("a").lost)
        self.assertEqual(
            self.log,
            ["too many connections: closed one from a proxy; more are not logged for 60 s"],
        )
        silent[0].hang_up()
        self.assertFalse(self.dial("a", v1("198.51.100.7")).lost)

    def test_no_room_on_top(self) -> None:
        """A connection that the factory refuses is closed, and nothing fails."""
        self.everybody.room = 0
        self.assertTrue(self.dial("a").lost)
        self.assertEqual((self.connections.open, self.log), (0, []))


class BadHeaders(ProxiedTestCase):
    def test_closed(self) -> None:
        """A connection without a valid header is closed without an answer and no longer counted.
        This is logged once a minute.
        """
        for where in ("a", "b"):
            for data in BAD:
                client = self.dial(where, data)
                self.assertEqual((client.lost, bytes(client.received)), (True, b""), data)
        self.assertEqual(self.connections.open, 0)
        line = (
            "closed a connection from 127.0.0.1: it did not begin with a PROXY header; more are not"
            " logged for 60 s"
        )
        self.assertEqual(self.log, [line] * 2)  # two ports
        self.network.advance(WARN_EVERY_S)
        self.dial("b", b"x" * 100)
        self.assertEqual(self.log, [line] * 3)

    def test_no_word_of_health_checks(self) -> None:
        """A proxy's health check, which only connects, leaves no log line, with or without a
        header.
        """
        for data in (b"", LOCAL, UNKNOWN):
            self.dial("a", data).hang_up()
            self.dial("b", data).hang_up()
        self.assertEqual((self.log, self.connections.open), ([], 0))

    def test_late(self) -> None:
        """A header that does not arrive, or arrives slowly, holds a connection for as long as a
        request may take to arrive, and no longer.
        """
        silent, slow = self.dial("b"), self.dial("b")
        for byte in v1("198.51.100.7")[: IDLE_TIMEOUT_S // 2 - 1]:
            slow.send(bytes([byte]))
            self.network.advance(2)
        self.assertEqual((silent.lost, slow.lost), (False, False))
        self.network.advance(2.1)
        self.assertEqual((silent.lost, slow.lost), (True, True))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class FromNetworks(ProxiedTestCase):
    """The same two ports, whose proxies are in two networks."""

    def setUp(self) -> None:
        super().setUp()
        networks = [parse_network(text) for text in ("10.0.0.0/8", "2001:db8::/64")]

        def listen(where: str) -> ProxiedEndpoint:
            return ProxiedEndpoint(self.network.listen(where), self.reactor, networks)

        TLSEndpoint(listen("a"), self.identity, self.reactor, self.connections).listen(
            self.everybody
        )
        admission = Admission(now=self.clock.seconds, wall_clock=self.clock.seconds, rate=Rate(1))
        listen("b").listen(JsonSite(_WhoAmI(), reactor=self.reactor, admission=admission))

    def ask(self, source: str, header: bytes = b"") -> str:
        """Return the answer to a request from `source`; "closed" if there is none."""
        self.network.source = source
        client = self.dial("b", header + request("GET", "/"))
        if client.lost and not client.received:
            return "closed"
        (answer,) = client.answers()
        return answer.body.decode() if answer.status == 200 else str(answer.status)

    def test_proxies(self) -> None:
        """A connection from a proxy must begin with a header, and its client is the one named
        there. The proxy's own connections are the proxy's.
        """
        for source, header, answer in (
            ("10.1.2.3", v1("198.51.100.7"), "address:198.51.100.7"),
            ("10.1.2.3", v2_tcp("198.51.100.7"), "429"),
            ("::ffff:10.1.2.3", v2_tcp("198.51.100.8"), "address:198.51.100.8"),
            ("2001:db8::9", v2_tcp("198.51.100.9"), "address:198.51.100.9"),
            ("10.1.2.3", LOCAL, "address:10.1.2.3"),
            ("10.1.2.4", UNKNOWN, "address:10.1.2.4"),
            ("10.1.2.5", b"", "closed"),
        ):
            self.assertEqual(self.ask(source, header), answer, (source, header))
        (line,) = self.log
        self.assertIn("closed a connection from 10.1.2.5: it did not begin with a PROXY", line)

    def test_others(self) -> None:
        """Another client is served without a header. One that sends a header is not believed: it
        is no HTTP request.
        """
        self.assertEqual(self.ask("192.0.2.1"), "address:192.0.2.1")
        self.assertEqual(self.ask("192.0.2.1"), "429")
        self.assertEqual(self.ask("2001:db8:0:1::9"), "address:2001:db8:0:1::/64")
        for header in (v1("10.1.2.3"), v2_tcp("10.1.2.3"), LOCAL, UNKNOWN):
            self.assertEqual(self.ask("192.0.2.2", header), "400", header)
        self.assertEqual(self.log, [])

    def test_limits(self) -> None:
        """A client's connections through a proxy and its own ones count together. A header before
        TLS ends a connection of one that is no proxy.
        """
        self.network.source = "10.1.2.3"
        self.assertTrue(self.handshake_behind(v2_tcp("192.0.2.1")).peer.heard)
        self.network.source = "192.0.2.1"
        self.assertTrue(self.dial("a").lost)
        self.network.source = "192.0.2.2"
        self.assertTrue(self.handshake_behind(b"").peer.heard)
        self.network.source = "192.0.2.3"
        self.assertFalse(self.handshake_behind(v2_tcp("192.0.2.4")).peer.heard)
        self.network.cut("a")
        self.network.settle()
        self.assertEqual((self.connections.open, len(self.connections)), (0, 0))
