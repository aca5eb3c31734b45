"""Real proxies in front of B, and between the worker and A."""

from __future__ import annotations

import re
import socket
import ssl
from collections import Counter

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.support.front import BODY, ID, POST_PATH
from tests.support.processes import ANY_PORT, Client, Twistd, reactor
from tests.support.proxies import Proxy, ProxyTestCase
from tests.support.raw_http import request
from tests.support.sockets import Wire, context, dial

COMPLETED = (200, {"code": 200, "message": "Completed"})
RUNNING = (200, {"code": 204, "message": "Task is still running"})
PROXY_WAITS_S = 2
KEEP_ALIVE_S = 1
DEVICES = 20
ROUNDS = 3
RTPROV = ("rtprov", "--port", "0", "--stub-port", "0", "--broker-port", "0", "--drain", "0")
CHECKED = "check inter 2s fastinter 20ms rise 10 fall 2"  # poll often while the result is unknown


class BeforeB(ProxyTestCase):
    """All of rtprov, and a proxy in front of the front end."""

    async def start(self) -> int:
        self.everything = self.twistd(*RTPROV, "--stub-delay", "0")
        await self.everything.logged("ready; try")
        return await self.everything.port("service B (front end)")

    async def use(self, proxy: Proxy) -> None:
        """Tasks are accepted through it, errors stay JSON, and B answers a client that waits as
        long as the proxy does.
        """
        client = self.client(proxy.port)
        running = await client.accepted("HANG123456")
        self.assertEqual(await self.told(client, await client.accepted(ID)), COMPLETED)
        refused = await client.request("POST", POST_PATH, {"timeoutInSeconds": 0})
        self.assertEqual((refused.status, refused.json["code"]), (400, 400))
        self.assertEqual((await client.request("GET", "/nowhere")).status, 404)
        self.assertEqual(
            await gatherResults([self.told(client, running) for _ in range(3)]), [RUNNING] * 3
        )
        await self.stop_proxy(proxy)

    def told(self, client: Client, path: str) -> Deferred[tuple[int, object]]:
        """Return a task's status, requested with the longest wait that the proxy allows."""

        async def ask() -> tuple[int, object]:
            answer = await client.request("GET", path, Prefer=f"wait={PROXY_WAITS_S}")
            return answer.status, answer.json

        return Deferred.fromCoroutine(ask())

    async def stop_proxy(self, proxy: Proxy) -> None:
        proxy.process.signal("KILL")
        await proxy.process.ended

    async def test_nginx(self) -> None:
        """nginx with its defaults, which uses HTTP/1.0 towards B and closes, and nginx that keeps
        connections open.
        """
        port = await self.start()
        waits = f"proxy_read_timeout {PROXY_WAITS_S}s;"
        await self.use(await self.nginx(port, waits))
        kept = f'{waits} proxy_http_version 1.1; proxy_set_header Connection "";'
        await self.use(await self.nginx(port, kept, "keepalive 8; keepalive_timeout 30s;"))
        await self.stop(self.everything)

    async def test_haproxy(self) -> None:
        """haproxy, whose frequent readiness checks leave no line in B's log."""
        port = await self.start()
        checks = f"option httpchk GET /readyz\n    timeout server {PROXY_WAITS_S}s"
        proxy = await self.haproxy(port, defaults=checks, server=CHECKED)
        before = self.everything.log
        await proxy.checked()
        self.assertEqual(self.everything.log, before)
        await self.use(proxy)
        await self.stop(self.everything)


class ProxyProtocol(ProxyTestCase):
    """A front end behind haproxy, which passes TLS through and sends the client's address."""

    async def start(self, *arguments: str, listen: str = f"haproxy:{ANY_PORT}") -> int:
        """Start a front end; by default, one that expects a PROXY header from every peer."""
        self.broker = self.twistd("rtprov-broker", "--listen", ANY_PORT)
        url = f"amqp://guest:guest@127.0.0.1:{await self.broker.port('the AMQP broker')}/"
        self.frontend = self.twistd(
            "rtprov-frontend", "--listen", listen, "--broker", url, *arguments
        )
        await self.frontend.logged("ready; try")
        return await self.frontend.port("service B (front end)")

    def wire(self, proxy: Proxy, source: str) -> Wire:
        """Connect a client from `source`."""
        return Wire(proxy.port, context(self.certs / "ca.pem"), source)

    async def test_addresses(self) -> None:
        """Audit log and limits use the client's address, with either version of the protocol.
        Health checks leave no line.
        """
        port = await self.start("--max-connections-per-address", "2")
        await self.frontend.logged("no worker answers")  # the last line of its start
        for version, source in (("send-proxy", "127.0.0.2"), ("send-proxy-v2", "127.0.0.3")):
            proxy = await self.haproxy(port, mode="tcp", server=f"{version} {CHECKED}")
            before = self.frontend.log
            await proxy.checked()
            self.assertEqual(self.frontend.log, before)
            for _ in range(3):  # a closed connection no longer counts
                first, second = self.two_wires(proxy, source)
                with first, second:
                    with self.assertRaises((ConnectionError, ssl.SSLError)):
                        self.wire(proxy, source)
                    with self.wire(proxy, "127.0.0.9") as other:
                        self.assertEqual(other.ask(request("GET", "/")).status, 404)
                    self.assertEqual(first.ask(request("POST", POST_PATH, BODY)).status, 200)
            await self.frontend.logged(rf"accepted: task \w+ for {ID} from address:{source} ")
        self.assertNotIn("from address:127.0.0.1 ", self.frontend.log)
        await self.stop(self.frontend)
        await self.stop(self.broker)

    async def test_from_network(self) -> None:
        """With ``--proxy-protocol``, the same port serves clients of the proxy, known by their own
        addresses, and clients that connect directly. Those cannot pretend to be a proxy.
        """
        port = await self.start("--proxy-protocol", "127.0.0.1", listen=ANY_PORT)
        proxy = await self.haproxy(port, mode="tcp", server=f"send-proxy-v2 {CHECKED}")
        await proxy.checked()
        tls = context(self.certs / "ca.pem")
        for where, source in ((proxy.port, "127.0.0.2"), (port, "127.0.0.3")):
            with Wire(where, tls, source) as wire:
                self.assertEqual(wire.ask(request("POST", POST_PATH, BODY)).status, 200)
            await self.frontend.logged(rf"accepted: task \w+ for {ID} from address:{source} ")
        with dial(port, "127.0.0.3") as liar:
            liar.sendall(b"PROXY TCP4 127.0.0.4 127.0.0.1 1 2\r\n")
            with self.assertRaises((ConnectionError, ssl.SSLError)):
                tls.wrap_socket(liar, server_hostname="localhost")
        with dial(port) as silent:  # from the proxy's address, without a header
            silent.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            self.assertEqual(self.end_of(silent), b"")
        await self.frontend.logged("closed a connection from 127.0.0.1: it did not begin with")
        self.assertNotIn("127.0.0.4", self.frontend.log)
        await self.stop(self.frontend)
        await self.stop(self.broker)

    def two_wires(self, proxy: Proxy, source: str) -> list[Wire]:
        """Open all the connections that one address may have, once the front end has noticed that
        the earlier ones are closed.
        """
        for _ in range(100):
            wires: list[Wire] = []
            try:
                for _ in range(2):
                    wires.append(self.wire(proxy, source))
                    self.assertEqual(wires[-1].ask(request("GET", "/")).status, 404)
            except (ConnectionError, ssl.SSLError):
                for wire in wires:
                    wire.socket.close()
            else:
                return wires
        self.fail("there is no room")

    async def test_no_header(self) -> None:
        """A connection without a PROXY header, or with a bad or slow one, is closed in time, and
        counts from its beginning.
        """
        port = await self.start("--max-connections", "3", "--request-timeout", "0.5")
        with dial(port) as silent, dial(port) as slow, dial(port) as third:
            slow.sendall(b"PROXY TCP4 ")
            with dial(port) as too_many:
                self.assertEqual(self.end_of(too_many), b"")
            for each in (silent, slow, third):
                self.assertEqual(self.end_of(each), b"")
        for data in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"PROXY TCP4 x 127.0.0.1 1 2\r\n",
            b"PROXY TCP4 127.0.0.1 127.0.0.1 a b\r\n",
        ):
            with dial(port) as bad:
                bad.sendall(data)
                self.assertEqual(self.end_of(bad), b"")
        await self.frontend.logged("did not begin with a PROXY header")
        await self.stop(self.frontend)
        await self.stop(self.broker)

    def end_of(self, connection: socket.socket) -> bytes:
        """Return what is received on a connection until it is closed."""
        try:
            return connection.recv(1)
        except ConnectionResetError:
            return b""


class BeforeA(ProxyTestCase):
    """A proxy between worker and A that closes connections after a second without traffic, often
    just when the worker uses them.
    """

    async def start(self) -> int:
        self.stub = self.twistd("rtprov-stub", "--listen", ANY_PORT, "--delay", "0")
        return await self.stub.port("service A (stub)")

    async def order(self, proxy: Proxy) -> None:
        """Post tasks for many devices, in rounds that are as far apart as the proxy keeps
        connections. All are called once.
        """
        everything = self.twistd(*RTPROV, "--equipment-url", f"https://localhost:{proxy.port}")
        await everything.logged("ready; try")
        client = self.client(await everything.port("service B (front end)"))
        devices = [f"DEVICE{number:04}" for number in range(DEVICES)]
        for number in range(ROUNDS):
            if number:
                await deferLater(reactor, KEEP_ALIVE_S)
            paths = await gatherResults(
                [Deferred.fromCoroutine(client.accepted(device)) for device in devices]
            )
            answers = await gatherResults(
                [Deferred.fromCoroutine(client.final(path)) for path in paths]
            )
            self.assertEqual({answer.json["message"] for answer in answers}, {"Completed"})
        calls = Counter(re.findall(r"call \d+: (\w+)", self.stub.log))
        self.assertEqual(calls, dict.fromkeys(devices, ROUNDS))
        for process in (everything, self.stub):
            await self.stop(process)
        self.assert_no_trouble(everything)

    def assert_no_trouble(self, everything: Twistd) -> None:
        """Check that no connection failed for the worker."""
        for words in ("cannot be reached", "in trouble", "tried again"):
            self.assertNotIn(words, everything.log)

    async def test_nginx(self) -> None:
        """nginx, which keeps connections to A open for as long."""
        port = await self.start()
        settings = (
            f"keepalive_timeout {KEEP_ALIVE_S}s; proxy_http_version 1.1; proxy_set_header"
            ' Connection "";'
        )
        await self.order(
            await self.nginx(port, settings, f"keepalive 8; keepalive_timeout {KEEP_ALIVE_S}s;")
        )

    async def test_haproxy(self) -> None:
        """haproxy, whose health checks leave no line in A's log."""
        port = await self.start()
        proxy = await self.haproxy(
            port, defaults=f"timeout http-keep-alive {KEEP_ALIVE_S}s", server=CHECKED
        )
        before = self.stub.log
        await proxy.checked()
        self.assertEqual(self.stub.log, before)
        await self.order(proxy)
