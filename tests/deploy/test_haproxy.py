"""The configuration of haproxy in ``deploy/``, in front of two front ends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from threading import Event

from attrs import Factory, define
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.support.front import BODY
from tests.support.ports import free_port
from tests.support.processes import ANY_PORT, Twistd, reactor
from tests.support.proxies import Proxy, ProxyTestCase, find_program
from tests.support.raw_http import request
from tests.support.sockets import Wire, context

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "haproxy" / "haproxy.cfg"
STOP_DELAY_S = 5
LOAD_S = 1
PACE_S = 0.05  # between two requests of a client
SOURCES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
REQUESTS_PER_CONNECTION = 7


@define
class Load:
    """Clients that post tasks and ask for them, each from an address of its own, until `enough`
    is set. They keep a connection for some requests, unless an answer ends it.
    """

    port: int
    ca: Path
    enough: Event = Factory(Event)
    accepted: dict[str, str] = Factory(dict)
    failures: list[str] = Factory(list)

    def run(self, source: str) -> None:
        """Send requests from `source`. Blocks."""
        devices = (f"DEVICE{source.rpartition('.')[2]}{number:05}" for number in count())
        while not self.enough.is_set():
            try:
                with Wire(self.port, context(self.ca), source) as wire:
                    self._converse(wire, devices)
            except Exception as error:  # each failure counts
                self.failures.append(repr(error))

    def _converse(self, wire: Wire, devices: Iterator[str]) -> None:
        for _ in range(REQUESTS_PER_CONNECTION):
            path = f"/api/v1/equipment/cpe/{next(devices)}"
            answer = wire.ask(request("POST", path, BODY))
            if answer.status != 200:
                self.failures.append(f"{answer.status} {answer.body!r}")
                return
            self.accepted[str(answer.json["taskId"])] = path
            if answer.header("connection") == "close" or self.enough.wait(PACE_S):
                return


class TwoFrontEnds(ProxyTestCase):
    timeout = 240.0

    async def start(self) -> None:
        """Start a broker, A, a worker, two front ends, and haproxy."""
        self.broker = self.twistd("rtprov-broker", "--listen", ANY_PORT)
        self.url = f"amqp://guest:guest@127.0.0.1:{await self.broker.port('the AMQP broker')}/"
        self.stub = self.twistd("rtprov-stub", "--listen", ANY_PORT, "--delay", "0")
        a = f"https://localhost:{await self.stub.port('service A (stub)')}"
        self.worker = self.twistd("rtprov-worker", "--broker", self.url, "--equipment-url", a)
        await self.worker.logged("connected to")
        self.ports = [free_port(), free_port()]
        self.frontends = [await self.front_end(port) for port in self.ports]
        self.proxy = await self.configured_haproxy()
        for number in (1, 2):
            await self.proxy.checked(f"rtprov/b{number}")

    async def front_end(self, port: int) -> Twistd:
        listen = ("--listen", f"tcp:{port}:interface=127.0.0.1", "--broker", self.url)
        delay = ("--stop-delay", str(STOP_DELAY_S))
        process = self.twistd("rtprov-frontend", *listen, "--proxy-protocol", "127.0.0.1", *delay)
        await process.logged("ready; try")
        return process

    async def configured_haproxy(self) -> Proxy:
        """Start haproxy with the configuration in ``deploy/``, on this machine's addresses."""
        program, port = find_program("haproxy"), free_port()
        text = CONFIGURATION.read_text()
        for old, new in (
            (r"log /dev/log local0 notice", "log stdout format raw local0 notice"),
            (r" +(user|group) haproxy\n", ""),
            (r"/run/haproxy/admin.sock", str(self.folder / "haproxy.sock")),
            (r"maxconn 20000", "maxconn 1000"),
            (r"bind :443\b", f"bind 127.0.0.1:{port}"),
            (r"10\.0\.0\.21:8443", f"127.0.0.1:{self.ports[0]}"),
            (r"10\.0\.0\.22:8443", f"127.0.0.1:{self.ports[1]}"),
            (r"/etc/haproxy/rtprov-ca\.pem", str(self.certs / "ca.pem")),
            (r"b\.example", "localhost"),
        ):
            text, found = re.subn(old, new, text)
            self.assertGreater(found, 0, old)
        file = self.folder / "haproxy.cfg"
        file.write_text(text)
        return await self._started(port, program, "-db", "-f", str(file))

    async def test_rolling_restart(self) -> None:
        """While clients post tasks, both front ends are restarted, one after the other. haproxy
        sees that each is not ready before it closes its port: no request fails, and each task is
        completed. The audit trail has the clients' own addresses.
        """
        await self.start()
        load = Load(self.proxy.port, self.certs / "ca.pem")
        clients = [deferToThread(load.run, source) for source in SOURCES]
        stopped = []
        try:
            for index in range(2):
                await deferLater(reactor, LOAD_S)
                stopped.append(self.frontends[index])
                await self.stop(self.frontends[index])
                self.frontends[index] = await self.front_end(self.ports[index])
                name = f"Server rtprov/b{index + 1}"
                await self.proxy.process.logged(f"{name} is DOWN, reason: Layer7 wrong status")
                await self.proxy.process.logged(f"(?s)({name} is UP.*){{2}}")
            await deferLater(reactor, LOAD_S)
        finally:
            load.enough.set()
            await gatherResults(clients)
        self.assertEqual(load.failures, [])
        await self.assert_completed(load)
        for frontend in (*stopped, *self.frontends):
            callers = set(re.findall(r"accepted: task .* from address:(\S+)", frontend.log))
            self.assertTrue(callers, "a front end has accepted nothing")
            self.assertLessEqual(callers, set(SOURCES))
        for process in (*self.frontends, self.worker, self.stub, self.broker):
            await self.stop(process)

    async def assert_completed(self, load: Load) -> None:
        client = self.client(self.proxy.port)
        for task, path in load.accepted.items():
            answer = await client.final(f"{path}/task/{task}")
            self.assertEqual(answer.json, {"code": 200, "message": "Completed"})
        self.assertGreater(len(load.accepted), 100)
