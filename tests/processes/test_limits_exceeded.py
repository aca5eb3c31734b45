"""Each limit of a front end is exceeded over real connections, and other clients are not
affected.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import ssl
import time
from contextlib import ExitStack
from statistics import median
from typing import Any

from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from rtprov.http.request import MAX_BODY_BYTES
from rtprov.security.tokens import new_token
from tests.support.front import BODY, POST_PATH
from tests.support.front_end_process import ASK, FrontEndCase
from tests.support.processes import ANY_PORT, Twistd
from tests.support.raw_http import request
from tests.support.sockets import Wire, dial, message

STALLED = 1000
POST = request("POST", POST_PATH, BODY)


class Requests(FrontEndCase):
    async def test_sizes(self) -> None:
        """A body, a head and a URL that are too large are a 413, a 431 and a 414. Those at the
        limit are accepted.
        """
        port = await self.start()
        fits, too_large = (BODY + b" " * (MAX_BODY_BYTES + more - len(BODY)) for more in (0, 1))
        for data, status in (
            (request("POST", POST_PATH, fits), 503),  # accepted, apart from the missing broker
            (request("POST", POST_PATH, too_large), 413),
            (request("GET", "/", None, ["X: " + "x" * 17_000]), 431),
            (request("GET", "/", None, [f"X{number}: x" for number in range(600)]), 431),
            (request("GET", "/" + "x" * 17_000), 414),
        ):
            with Wire(port, self.tls()) as wire:
                self.assertEqual(message(wire.ask(data))[0], status)
        await self.stop(self.frontend)

    async def test_time(self) -> None:
        """A request that does not arrive in time is a 408. A connection without a request is closed
        without an answer.
        """
        port = await self.start("--request-timeout", "1")
        with Wire(port, self.tls()) as slow, Wire(port, self.tls()) as idle:
            slow.send(POST[:-1])
            self.assertEqual(message(slow.answer()), (408, "The request did not arrive within 1 s"))
            self.assertTrue(slow.closed)
            self.assertTrue(idle.closed)
        await self.stop(self.frontend)

    async def test_rate(self) -> None:
        """A client that sends too many requests is told when to try again, on any connection. Other
        clients are served.
        """
        tokens = [new_token(name) for name in ("billing", "dash")]
        (self.folder / "tokens").write_text("".join(f"{token.line}\n" for token, _ in tokens))
        port = await self.start("--rate", "0.01", "--tokens", "tokens")
        statuses = []
        for secret in (tokens[0][1], tokens[0][1], tokens[1][1], "wrong", "wrong"):
            with Wire(port, self.tls()) as wire:
                answer = wire.ask(request("GET", "/", None, [f"Authorization: Bearer {secret}"]))
                statuses.append(answer.status)
                if answer.status == 429:
                    self.assertIn(answer.header("Retry-After"), ("99", "100"))
        self.assertEqual(statuses, [404, 429, 404, 401, 429])
        await self.stop(self.frontend)

    async def test_unconfirmed(self) -> None:
        """While the broker does not confirm, a limited number of tasks wait for it. One more is a
        503 at once.
        """
        broker = self.twistd("rtprov-broker", "--listen", ANY_PORT)
        url = f"amqp://guest:guest@127.0.0.1:{await broker.port('the AMQP broker')}/"
        port = await self.start("--max-unconfirmed", "1", "--broker", url)
        await self.frontend.logged("ready; try: curl ")
        broker.signal("STOP")
        with Wire(port, self.tls()) as first, Wire(port, self.tls()) as second:
            first.send(POST)
            with Wire(port, self.tls()) as other:  # answered, so the first has arrived
                self.assertEqual(other.ask(ASK).status, 404)
            began = time.monotonic()
            refused = second.ask(POST)
            self.assertLess(time.monotonic() - began, 3)
            self.assertEqual(message(refused), (503, "The service is temporarily unavailable"))
            self.assertIsNotNone(refused.header("Retry-After"))
            self.assertEqual(message(first.answer())[0], 503)
        self.let_go_on(broker)
        await self.stop(self.frontend)
        await self.stop(broker)

    def let_go_on(self, stopped: Twistd) -> None:
        transport: Any = stopped.transport
        os.kill(transport.pid, signal.SIGCONT)


class Connections(FrontEndCase):
    async def test_per_address(self) -> None:
        """One connection too many from an address is closed before TLS. When another is closed,
        there is room again.
        """
        port = await self.start("--max-connections-per-address", "2")
        with Wire(port, self.tls()) as first, dial(port) as silent:
            self.assert_closed(port)
            self.assertEqual(first.ask(ASK).status, 404)
            silent.shutdown(socket.SHUT_RDWR)
            silent.close()
            await self.frontend.logged("too many connections: closed one from 127.0.0.1")
            self.assert_room(port)
        await self.stop(self.frontend)

    async def test_in_all(self) -> None:
        """The same holds for the number of all connections."""
        port = await self.start("--max-connections", "1")
        with Wire(port, self.tls()) as first:
            self.assert_closed(port)
            self.assertEqual(first.ask(ASK).status, 404)
        self.assert_room(port)
        await self.stop(self.frontend)

    def assert_closed(self, port: int) -> None:
        with dial(port) as refused:
            self.assertIn(self.end_of(refused), (b"", None))

    def end_of(self, connection: socket.socket) -> bytes | None:
        """Return what is received on an idle connection until its end; None for a reset."""
        try:
            return connection.recv(1)
        except ConnectionResetError:
            return None

    def assert_room(self, port: int) -> None:
        """Check that there is room as soon as the server has noticed that a connection was
        closed.
        """
        for _ in range(100):
            try:
                with Wire(port, self.tls()) as wire:
                    self.assertEqual(wire.ask(ASK).status, 404)
                    return
            except (ssl.SSLError, ConnectionError):
                continue
        self.fail("there is no room")

    async def test_a_thousand_stalled(self) -> None:
        """A thousand connections that send nothing, half a request, or half a TLS handshake do not
        slow down others.
        """
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most < 2 * STALLED + 200:
            self.skipTest(f"only {most} files may be open at once")
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        port = await self.start()
        before = median(await self.times(port))
        with ExitStack() as stack:
            stalled = [stack.enter_context(dial(port)) for _ in range(STALLED // 2)]
            for number, connection in enumerate(stalled):
                if number % 2:
                    # the beginning of a ClientHello
                    connection.sendall(b"\x16\x03\x01\x02\x00\x01")
            wires = [stack.enter_context(Wire(port, self.tls())) for _ in range(STALLED // 2)]
            for number, wire in enumerate(wires):
                wire.send(POST[:-1] if number % 2 else b"GET /")
            times = await self.times(port)
            self.assertLess(median(times), 5 * before + 0.1, (before, times))
            self.assertLess(max(times), 4.5)
            wires[1].send(POST[-1:])
            self.assertEqual(wires[1].answer().status, 503)
        await self.stop(self.frontend)

    async def times(self, port: int) -> list[float]:
        """Return how long the requests of four clients took, including the connections."""

        def ask() -> list[float]:
            times = []
            for _ in range(15):
                began = time.monotonic()
                with Wire(port, self.tls()) as wire:
                    self.assertEqual(wire.ask(ASK).status, 404)
                times.append(time.monotonic() - began)
            return times

        return [
            each
            for times in await gatherResults([deferToThread(ask) for _ in range(4)])
            for each in times
        ]
