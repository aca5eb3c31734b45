"""The playbooks in ``deploy/ansible`` on two machines, which take all orders of clients meanwhile.

The machines go through the life of an installation; starting them for each part would take minutes.
"""

from __future__ import annotations

import http.client
import json
import shutil
import ssl
import tempfile
import threading
from collections import Counter
from itertools import count, cycle
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from rtprov import __version__
from rtprov.security.development import ensure_seal_key, make_development_set
from rtprov.security.sealer import load_keys
from tests.support.ansible_hosts import Hosts, Playbooks, build_image
from tests.support.deploy import require, require_docker, require_image
from tests.support.machine import CommandFailed
from tests.support.processes import reactor
from tests.support.scale import FULL

ORDER = json.dumps({"timeoutInSeconds": 14, "parameters": [{"vlan": 534}]})
DEADLINE_S = 60.0
PACE_S = 0.3
CLIENTS = 2
DELAY_S = 2
VERSION, NEXT = __version__, "99"
SERVICES = ("rtprov-worker@0", "rtprov-frontend")
NOTHING = {"host1": 0, "host2": 0}


@attrs.define
class Stream:
    """Clients that order tasks at all front ends in turn, each on a connection of its own, until
    `enough` is set.
    """

    addresses: list[str]
    trust: ssl.SSLContext
    enough: threading.Event = attrs.Factory(threading.Event)
    accepted: list[str] = attrs.Factory(list)
    failures: Counter[str] = attrs.Factory(Counter)

    def ask(self, address: str, method: str, path: str, body: str | None = None) -> Any:
        """Return the JSON of a request's answer. Raises `RuntimeError` for another status."""
        connection = http.client.HTTPSConnection(
            address, 8443, context=self.trust, timeout=DEADLINE_S
        )
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
            if answer.status != 200:
                raise RuntimeError(f"{address}: {method} {answer.status} {text}")
            return json.loads(text)
        finally:
            connection.close()

    def order(self, address: str, serial: str) -> str:
        """Order a task; return the path of its status."""
        answer = self.ask(address, "POST", f"/api/v1/equipment/cpe/{serial}", ORDER)
        path = f"/api/v1/equipment/cpe/{serial}/task/{answer['taskId']}"
        self.accepted.append(path)
        return path

    def run(self, client: int) -> None:
        """Order tasks and ask for them. Blocks."""
        numbers = count()
        for address in cycle(self.addresses):
            if self.enough.wait(PACE_S):
                return
            try:
                path = self.order(address, f"CLIENT{client}X{next(numbers):05}")
                self.ask(address, "GET", path)
            except Exception as error:  # each failure counts
                self.failures[f"{type(error).__name__}: {error}"] += 1

    def finals(self) -> Counter[str]:
        """Return how many tasks ended in which way, when all have ended. Blocks."""
        ended: Counter[str] = Counter()
        for path in self.accepted:
            while (answer := self.ask(self.addresses[0], "GET", path))["code"] == 204:
                self.enough.wait(PACE_S)
                threading.Event().wait(PACE_S)
            ended[answer["message"]] += 1
        return ended


class TwoHosts(TestCase):
    """Two machines, each with a stub of A, a worker and a front end; and RabbitMQ."""

    if not FULL:
        skip = "takes about ten minutes; .ci/full runs it"

    timeout = 3600.0

    def setUp(self) -> None:
        self.docker = require_docker()
        for image in ("python:3.13-slim", "rabbitmq:4-management"):
            require_image(image)
        self.program = require("ansible-playbook")
        require("ssh")
        self.folder = Path(tempfile.mkdtemp(prefix="rtprov-"))
        self.addCleanup(shutil.rmtree, self.folder)

    @property
    def certs(self) -> Path:
        return self.folder / "certs"

    def stream(self) -> Stream:
        trust = ssl.create_default_context(cafile=str(self.certs / "ca.pem"))
        return Stream(self.hosts.addresses, trust)

    async def test_life(self) -> None:
        """Installation, upgrade and rotations, as documented."""
        await build_image(self.docker)
        self.hosts = Hosts(self.docker, self.folder)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.hosts.remove()))
        await self.hosts.start()
        make_development_set(self.certs, self.hosts.addresses)
        ensure_seal_key(self.certs / "seal.key")
        self.playbooks = Playbooks(
            self.program,
            self.hosts,
            {
                "rtprov_version": VERSION,
                "rtprov_wheels": f"{self.folder}/wheels.tar.gz",
                "rtprov_packages": [],
                "rtprov_certs": str(self.certs),
                "rtprov_broker_url": f"amqp://guest:guest@{self.hosts.broker}/",
                "rtprov_environment": {
                    "RTPROV_FRONTEND_OPEN": "yes",
                    "RTPROV_STUB_DELAY": str(DELAY_S),
                },
            },
        )
        for part in (
            self.installation,
            self.second_run,
            self.upgrade,
            self.another_option,
            self.sealing_key,
            self.certificates,
            self.shards,
        ):
            began = reactor.seconds()
            try:
                await part()
            except CommandFailed as error:
                raise AssertionError(f"{part.__doc__}: {error}") from None
            print(f"{part.__name__}: {reactor.seconds() - began:.0f} s")  # noqa: T201 - measured

    async def invocations(self) -> dict[tuple[int, str], str]:
        """Return what identifies the current run of each service, by machine and service."""
        return {
            (number, service): await self.hosts.on(
                number, f"systemctl show --property=InvocationID {service}"
            )
            for number in (1, 2)
            for service in SERVICES
        }

    async def under_load(self, playbook: str, **extra: object) -> dict[str, int]:
        """Run a playbook while clients order tasks. Nothing is refused, and all tasks complete."""
        stream = self.stream()
        clients = [deferToThread(stream.run, number) for number in range(CLIENTS)]
        try:
            changed = await self.playbooks.run(playbook, **extra)
            await deferLater(reactor, 1)
        finally:
            stream.enough.set()
            for client in clients:
                await client
        self.assertEqual(len(stream.failures), 0, f"{stream.failures} of {len(stream.accepted)}")
        self.assertGreater(len(stream.accepted), 20)
        self.assertEqual(await deferToThread(stream.finals), {"Completed": len(stream.accepted)})
        return changed

    async def installation(self) -> None:
        """After the first run, tasks complete."""
        await self.playbooks.run("site.yml")
        stream = self.stream()
        for address in self.hosts.addresses:
            await deferToThread(stream.order, address, "FIRST00001")
        self.assertEqual(await deferToThread(stream.finals), {"Completed": 2})

    async def second_run(self) -> None:
        """A second run changes nothing."""
        before = await self.invocations()
        self.assertEqual(await self.playbooks.run("site.yml"), NOTHING)
        self.assertEqual(await self.invocations(), before)

    async def upgrade(self) -> None:
        """Each service restarts once, and runs the new version. Nothing is lost or refused."""
        before = await self.invocations()
        self.playbooks.variables |= {
            "rtprov_version": NEXT,
            "rtprov_wheels": f"{self.folder}/next.tar.gz",
        }
        await self.under_load("upgrade.yml")
        after = await self.invocations()
        self.assertEqual([each for each in before if before[each] == after[each]], [])
        for number, service in before:
            starts = await self.hosts.on(
                number,
                f"journalctl --unit={service} --output=cat --grep='^Started ' | wc -l;"
                f" tr '\\0' ' ' </proc/$(systemctl show -P MainPID {service})/cmdline",
            )
            self.assertEqual(starts.split()[0], "2", (number, service))
            self.assertIn(f"/{NEXT}/bin/", starts)
        self.assertEqual(await self.playbooks.run("upgrade.yml"), NOTHING)

    async def another_option(self) -> None:
        """An option of the front end restarts front ends only."""
        before = await self.invocations()
        self.playbooks.variables["rtprov_environment"]["RTPROV_FRONTEND_RATE"] = "1000"
        await self.under_load("site.yml")
        after = await self.invocations()
        same = {each for each in before if after[each] == before[each]}
        self.assertEqual(same, {(1, "rtprov-worker@0"), (2, "rtprov-worker@0")})

    def keys(self) -> list[bytes]:
        """Return the sealing keys in the file on this machine."""
        return load_keys((self.certs / "seal.key").read_text())

    async def sealing_key(self) -> None:
        """The key is replaced in three rounds, without a restart, and nothing is refused."""
        (old,) = self.keys()
        before = await self.invocations()
        await self.under_load("rotate-sealing-key.yml", rtprov_round=1)
        both = self.keys()
        self.assertEqual((both[0], len(both)), (old, 2))
        await self.under_load("rotate-sealing-key.yml", rtprov_round=2)
        self.assertEqual(
            await self.playbooks.run("rotate-sealing-key.yml", rtprov_round=0), NOTHING
        )
        with self.assertRaises(CommandFailed):  # too early
            await self.playbooks.run("rotate-sealing-key.yml", rtprov_round=3)
        await self.under_load("rotate-sealing-key.yml", rtprov_round=3, rtprov_key_age=0)
        self.assertEqual(self.keys(), [both[1]])
        for number in (1, 2):
            shown = await self.hosts.on(number, "cat /etc/rtprov/certs/seal.key")
            self.assertEqual(load_keys(shown), [both[1]])
        self.assertEqual(await self.invocations(), before)

    async def certificates(self) -> None:
        """New certificates are shown without a restart."""
        before = await self.invocations()
        for file in self.certs.iterdir():
            if file.name != "seal.key":
                file.unlink()
        make_development_set(self.certs, self.hosts.addresses)
        await self.playbooks.run("rotate-certificates.yml")
        shown = ssl.get_server_certificate((self.hosts.addresses[0], 8443)).split()
        self.assertEqual((self.certs / "frontend.pem").read_text().split()[: len(shown)], shown)
        self.assertEqual(await self.invocations(), before)
        stream = self.stream()
        for address in self.hosts.addresses:
            await deferToThread(stream.order, address, "RENEWED001")
        self.assertEqual(await deferToThread(stream.finals), {"Completed": 2})

    async def shards(self) -> None:
        """The number of shards is changed; tasks from before and after are known."""
        stream = self.stream()
        await deferToThread(stream.order, self.hosts.addresses[0], "BEFORE0001")
        with self.assertRaises(CommandFailed):  # the inventory has no worker for shard 1
            await self.playbooks.run("change-shards.yml", rtprov_shards=2)
        self.playbooks.variables["rtprov_worker_shards"] = [0, 1]
        await self.playbooks.run("change-shards.yml", rtprov_shards=2)
        for number in range(4):
            await deferToThread(stream.order, self.hosts.addresses[1], f"AFTER0000{number}")
        self.assertEqual(await deferToThread(stream.finals), {"Completed": 5})
