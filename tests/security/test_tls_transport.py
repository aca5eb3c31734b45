"""The server's TLS transport: a short message each way takes one read and one write, and nothing
else changes.
"""

from __future__ import annotations

import inspect
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet.interfaces import IReactorTime, IReadWriteDescriptor
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

import tests.support.strategies  # noqa: F401 # Hypothesis settings
from rtprov.security.tls_server import LimitedTLS
from rtprov.security.tls_transport import MAX_RECORD_BYTES, PromptTLS, Records
from tests.support.tls_peers import Old
from tests.support.tls_server_case import ServerTestCase
from twisted import __version__


class PrivateNames(SynchronousTestCase):
    def test_version(self) -> None:
        """The private names of Twisted 26.10 are there. With another version, compare the methods
        that `PromptTLS` replaces with the new ones, and change the version here.
        """
        self.assertEqual(__version__.split(".")[:2], ["26", "10"])
        for name, value in (
            ("_handshakeDone", False),
            ("_lostTLSConnection", False),
            ("_aborted", False),
        ):
            self.assertIs(getattr(TLSMemoryBIOProtocol, name), value)
        source = inspect.getsource(TLSMemoryBIOProtocol)
        for name in (
            "self._tlsConnection = ",
            "self._appSendBuffer = ",
            "def _flushReceiveBIO(",
            "def _tlsShutdownFinished(",
        ):
            self.assertIn(name, source)
        self.assertIn("self._aggregator = ", inspect.getsource(BufferingTLSTransport))


class Boundaries(SynchronousTestCase):
    @given(st.lists(st.integers(0, 600), max_size=6), st.lists(st.integers(1, 700), min_size=1))
    def test_any_pieces(self, sizes: list[int], steps: list[int]) -> None:
        """The end of each record is found, however the records are cut."""
        stream = b"".join(
            b"\x17\x03\x03%b%b" % (size.to_bytes(2, "big"), bytes(size)) for size in sizes
        )
        ends = [0]
        for size in sizes:
            ends.append(ends[-1] + 5 + size)
        records, start = Records(), 0
        self.assertTrue(records.complete)
        while start < len(stream):
            step = steps[start % len(steps)]
            records.feed(stream[start : start + step])
            start = min(start + step, len(stream))
            self.assertEqual(records.complete, start in ends)


class App(Protocol):
    """Keeps each piece of data that it receives, and why the connection ended."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.reason: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.heard.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason


class Apps:
    """A factory of one `App`."""

    def __init__(self, app: App) -> None:
        self.app = app

    def buildProtocol(self, addr: object) -> App:
        return self.app

    def doStart(self) -> None: ...
    def doStop(self) -> None: ...


@implementer(IReadWriteDescriptor)
class Socket(StringTransport):
    """A TCP transport that counts its system calls. `doWrite` sends `room` bytes at most."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.calls = 0
        self.room = 10**6

    def doRead(self) -> None: ...
    def connectionLost(self, reason: Failure) -> None: ...
    def fileno(self) -> int:
        return -1

    def logPrefix(self) -> str:
        return "-"

    def doWrite(self) -> None:
        waiting = self.value()
        self.clear()
        self.calls += 1
        self.sent += waiting[: self.room]
        if waiting[self.room :]:
            self.write(waiting[self.room :])


class Transport(ServerTestCase):
    """Server and client of one connection, whose bytes the test carries."""

    version = SSL.TLS1_3_VERSION

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.app, self.client_app = App(), App()
        clock = cast("IReactorTime", self.clock)
        self.tls = cast(
            "PromptTLS",
            LimitedTLS(self.identity, cast("Any", Apps(self.app)), clock, None).buildProtocol(None),
        )
        self.there = TLSMemoryBIOFactory(
            cast("Any", Old(self.version)), True, cast("Any", Apps(self.client_app)), clock
        ).buildProtocol(cast("Any", None))
        self.socket, self.client_socket = Socket(), StringTransport()
        self.tls.makeConnection(self.socket)
        assert self.there is not None
        self.there.makeConnection(self.client_socket)
        self.exchange()

    def exchange(self) -> None:
        """Carry all bytes, until there are none."""
        assert self.there is not None
        for _ in range(20):
            self.clock.advance(0)
            self.socket.doWrite()
            up, down = self.client_socket.value(), self.socket.sent
            self.client_socket.clear()
            self.socket.sent = b""
            if up:
                self.tls.dataReceived(up)
            if down:
                self.there.dataReceived(down)

    def record(self, data: bytes) -> bytes:
        """Return the records in which the client sends `data`."""
        assert self.there is not None
        self.there.write(data)
        self.clock.advance(0)
        sent: bytes = self.client_socket.value()
        self.client_socket.clear()
        return sent

    def reads(self) -> list[int]:
        """Return a list to which each read from OpenSSL is added from now on."""
        connection: Any = self.tls.getHandle()
        sizes: list[int] = []

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(connection, name)

            def recv(self, size: int) -> bytes:
                sizes.append(size)
                return cast("bytes", connection.recv(size))

        cast("Any", self.tls)._tlsConnection = Counting()
        return sizes

    def test_one_read(self) -> None:
        """A single record takes one read, also of the largest size."""
        for size in (1, 300, MAX_RECORD_BYTES):
            data, reads = self.record(b"x" * size), self.reads()
            self.tls.dataReceived(data)
            self.assertEqual((self.app.heard.pop(), len(reads)), (b"x" * size, 1))

    def test_any_pieces(self) -> None:
        """Records arrive complete and in order, however they are cut or joined."""
        sent = [b"a" * 10, b"b" * 300, b"c", b"d" * 20_000]
        for step in (1, 4, 5, 6, 100, 333, 10**6):
            stream = b"".join(self.record(each) for each in sent)
            for start in range(0, len(stream), step):
                self.tls.dataReceived(stream[start : start + step])
            self.tls.dataReceived(self.record(b"end"))
            self.assertEqual(b"".join(self.app.heard), b"".join(sent) + b"end")
            self.app.heard.clear()

    def test_one_write(self) -> None:
        """`write_now` sends in the same turn, behind what was written before."""
        self.tls.write(b"first ")
        self.tls.write_now(b"second")
        self.assertEqual(self.socket.calls and self.socket.value(), b"")
        sent, self.socket.sent = self.socket.sent, b""
        assert self.there is not None
        self.there.dataReceived(sent)
        self.assertEqual(b"".join(self.client_app.heard), b"first second")

    def test_a_full_socket(self) -> None:
        """What the socket does not accept stays in the transport's buffer, in order."""
        self.socket.room = 10
        self.tls.write_now(b"x" * 1000)
        self.tls.write_now(b"y" * 1000)
        self.assertEqual(len(self.socket.sent), 20)
        self.socket.room = 10**6
        self.exchange()
        self.assertEqual(b"".join(self.client_app.heard), b"x" * 1000 + b"y" * 1000)

    def test_a_transport_of_another_kind(self) -> None:
        """On a transport that is no descriptor, the data waits for the transport."""
        cast("Any", self.tls)._descriptor = None
        calls = self.socket.calls
        self.tls.write_now(b"x")
        self.assertEqual(self.socket.calls, calls)
        self.exchange()
        self.assertEqual(self.client_app.heard, [b"x"])

    def test_closing(self) -> None:
        """Nothing is sent early on a transport that closes, and nothing after a close."""
        self.socket.disconnecting = True
        calls = self.socket.calls
        self.tls.write_now(b"x")
        self.assertEqual(self.socket.calls, calls)
        self.socket.disconnecting = False
        self.tls.loseConnection()
        self.tls.write_now(b"y")
        self.exchange()
        self.assertEqual(self.client_app.heard, [b"x"])

    def test_the_client_closes(self) -> None:
        """A close in a record of its own ends the connection, as with Twisted's transport."""
        assert self.there is not None
        self.there.loseConnection()
        self.exchange()
        self.tls.connectionLost(Failure(connectionDone.value))
        assert self.app.reason is not None
        self.assertIs(self.app.reason.type, type(connectionDone.value))

    def test_damaged(self) -> None:
        """A record that cannot be decrypted ends the connection with an error, and delivers
        nothing.
        """
        data = self.record(b"hello")
        self.tls.dataReceived(data[:-1] + bytes([data[-1] ^ 1]))
        self.assertTrue(self.socket.disconnecting)
        self.tls.connectionLost(Failure(connectionDone.value))
        assert self.app.reason is not None
        self.assertIsInstance(self.app.reason.value, SSL.Error)
        self.assertEqual(self.app.heard, [])

    def test_aborted(self) -> None:
        """Nothing is delivered after an abort."""
        data = self.record(b"hello")
        self.tls.abortConnection()
        self.tls.dataReceived(data)
        self.assertEqual(self.app.heard, [])


class OverTls12(Transport):
    version = SSL.TLS1_2_VERSION
