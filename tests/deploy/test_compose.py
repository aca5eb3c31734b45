"""compose.yaml: what it declares, and a running stack whose parts are killed and restarted."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionLost
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import (
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
)

from tests.support.compose import Stack, config, reactor, require_compose
from tests.support.deploy import require
from tests.support.processes import Client, ProcessTestCase
from tests.support.scale import FULL

_log = Logger()
DRAIN_S = 120  # the default of --drain
MOST_ABOVE_BASE_BYTES = 150_000_000
BREAKS = {
    "KILLWORKER": [["kill", "worker"], ["up", "-d", "--wait", "worker"]],
    "KILLSTANDBY": [["kill", "standby"], ["up", "-d", "--wait", "standby"]],
    "BROKER": [["restart", "rabbitmq"]],
    "SCALE": [["up", "-d", "--wait", "--scale", "worker=3", "worker"]],
    "FRONTEND": [["restart", "frontend"]],
}
MORE_BREAKS = {
    "KILLBROKER": [["kill", "rabbitmq"], ["up", "-d", "--wait", "rabbitmq"]],
    "RESTARTS": [["restart", "worker", "standby"]],
    "ALL": [["stop"], ["up", "-d", "--wait"]],
}
# Calls under way may be made again if the worker dies, or if the standby reconnects before it.
CALLED_AGAIN = {"KILLWORKER", "KILLSTANDBY", "BROKER", "KILLBROKER"}
FRONT_END_STOPPED = {"FRONTEND", "ALL"}
COMPLETED = {"code": 200, "message": "Completed"}
POST_EVERY_S = 0.2
POSTS_AFTERWARDS = 5
ACCEPTED_WITHIN_S = 120.0
NO_ANSWER = (
    ConnectError,
    ConnectionLost,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
)


class Declared(SynchronousTestCase):
    """``docker compose config`` accepts the file. It needs no engine."""

    def setUp(self) -> None:
        self.services: dict[str, Any] = config(require_compose())["services"]
        self.ours = {
            name: each for name, each in self.services.items() if each["image"] == "rtprov"
        }

    def test_services(self) -> None:
        """They are RabbitMQ, the stub of A, a front end, two workers, and one that makes keys."""
        self.assertEqual(
            set(self.services), {"rabbitmq", "certs", "stub", "frontend", "worker", "standby"}
        )
        self.assertEqual(self.services["rabbitmq"]["image"], "rabbitmq:4-management")
        self.assertEqual(set(self.services) - set(self.ours), {"rabbitmq"})

    def test_image(self) -> None:
        """One service builds the image of all, and no other pulls it."""
        self.assertEqual([name for name, each in self.ours.items() if "build" in each], ["certs"])
        self.assertEqual({each["pull_policy"] for each in self.ours.values()}, {"never"})

    def test_published(self) -> None:
        """Only the front end is reached from outside, and only from this machine."""
        published = {name: each["ports"] for name, each in self.services.items() if "ports" in each}
        self.assertEqual(list(published), ["frontend"])
        (port,) = published["frontend"]
        self.assertEqual(
            (port["host_ip"], port["published"], port["target"]), ("127.0.0.1", "8443", 8443)
        )

    def test_confined(self) -> None:
        """No process of rtprov can write to its image or gain privileges. Only the service that
        makes keys can write to their volume.
        """
        for name, each in self.ours.items():
            self.assertTrue(each["read_only"], name)
            self.assertEqual(each["cap_drop"], ["ALL"], name)
            self.assertEqual(each["security_opt"], ["no-new-privileges:true"], name)
            (volume,) = each["volumes"]
            self.assertEqual((volume["source"], volume["target"]), ("certs", "/certs"), name)
            self.assertEqual(volume.get("read_only", False), name != "certs", name)

    def test_drain(self) -> None:
        """A worker that is told to stop may finish its calls, and so stops before broker and A."""
        for name in ("worker", "standby"):
            grace = re.fullmatch(r"(\d+)m(\d+)s", self.services[name]["stop_grace_period"])
            assert grace is not None
            self.assertGreater(int(grace[1]) * 60 + int(grace[2]), DRAIN_S)
            self.assertLessEqual({"rabbitmq", "stub"}, set(self.services[name]["depends_on"]))


@define
class Traffic:
    """Tasks that are posted one after the other while something is broken.

    Each POST is for another device. `accepted` are the paths of the tasks whose POST was answered
    200, by device. `refused` counts the other answers by status; 0 stands for no answer.
    """

    client: Client
    name: str
    accepted: dict[str, str] = field(factory=dict)
    refused: Counter[int] = field(factory=Counter)

    async def post_until(self, broken: Deferred[str]) -> None:
        """Post until `broken` has fired, and then until a few more are accepted."""
        number = afterwards = 0
        deadline = 0.0
        while afterwards < POSTS_AFTERWARDS:
            number += 1
            was_broken = broken.called
            if await self._post(f"{self.name}{number:04}") and was_broken:
                afterwards += 1
            if was_broken:
                deadline = deadline or reactor.seconds() + ACCEPTED_WITHIN_S
                assert reactor.seconds() < deadline, (self.name, self.refused)
            await deferLater(reactor, POST_EVERY_S)

    async def _post(self, device: str) -> bool:
        try:
            answer = await self.client.post(device)
        except NO_ANSWER:
            self.refused[0] += 1
            return False
        if answer.status != 200:
            self.refused[answer.status] += 1
            return False
        self.accepted[device] = answer.headers.getRawHeaders("Location", [])[0]
        return True


class RunningStack(ProcessTestCase):
    """``docker compose up --build`` of this folder, from the base images that Docker has."""

    timeout = 1200.0 if FULL else 600.0

    def setUp(self) -> None:
        super().setUp()
        require("curl")
        self.stack = Stack(self.folder)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.remove()))

    async def test_breaks(self) -> None:
        """The stack is ready after one command. While its parts are killed, restarted and
        multiplied, each task whose POST is answered 200 is completed. A is called a second time
        only for tasks whose worker, or its connection to the broker, was lost during the call.
        """
        await self.stack.run("up", "--build", "-d", "--wait")
        await self.assert_image()
        await self.assert_first_command()
        client = Client(self.folder / "ca.pem", self.stack.port)
        self.addCleanup(client.close)
        everything: list[Traffic] = []
        for name, commands in (BREAKS | MORE_BREAKS if FULL else BREAKS).items():
            everything.append(await self.broken(Traffic(client, name), commands))
        calls = await self.stack.calls()
        for traffic in everything:
            counts = {device: calls[device] for device in traffic.accepted}
            most = 2 if traffic.name in CALLED_AGAIN else 1
            self.assertEqual({d: n for d, n in counts.items() if not 1 <= n <= most}, {})
            unanswered = {0} if traffic.name in FRONT_END_STOPPED else set()
            self.assertEqual(set(traffic.refused) - {503} - unanswered, set(), traffic.name)
        self.assertEqual(
            await self.stack.run("exec", "-T", "frontend", "sh", "-c", "cat $RTPROV_CERTS/ca.pem"),
            (self.folder / "ca.pem").read_text(),
        )

    async def remove(self) -> None:
        """Keep the end of the logs in the test's log, and remove the stack."""
        try:
            logs = await self.stack.run("logs", "--no-color", "--tail", "100")
            for line in logs.splitlines():  # "trial -j" accepts no event of more than 64 KiB
                _log.info("{line}", line=line)
        finally:
            await self.stack.remove()

    async def broken(self, traffic: Traffic, commands: list[list[str]]) -> Traffic:
        """Post tasks while these commands of docker compose run; wait for the end of the tasks."""

        async def run() -> str:
            for command in commands:
                await deferLater(reactor, 5 * POST_EVERY_S)
                await self.stack.run(*command)
            return ""

        broken = Deferred.fromCoroutine(run())
        await traffic.post_until(broken)
        await broken
        _log.info(
            "{name}: {accepted} tasks accepted, other answers: {refused}",
            name=traffic.name,
            accepted=len(traffic.accepted),
            refused=dict(traffic.refused),
        )
        for device, path in traffic.accepted.items():
            final = await traffic.client.final(path)
            self.assertEqual((device, final.status, final.json), (device, 200, COMPLETED))
        return traffic

    async def assert_image(self) -> None:
        """The image is small; its processes have no privileges and cannot write to it."""
        image, base = await self.stack.inspect("image", self.stack.image, "python:3.13-slim")
        self.assertLess(image["Size"] - base["Size"], MOST_ABOVE_BASE_BYTES)
        self.assertEqual(image["Config"]["User"], "rtprov")
        for container in await self.stack.containers("stub", "frontend", "worker", "standby"):
            self.assertTrue(container["HostConfig"]["ReadonlyRootfs"], container["Name"])
            self.assertEqual(container["State"]["Health"]["Status"], "healthy", container["Name"])
        identity = await self.stack.run("exec", "-T", "frontend", "id", "-u")
        self.assertEqual(identity.strip(), "10001")
        caches = await self.stack.run(
            "exec", "-T", "frontend", "find", "/opt/rtprov", "-name", "dropin.cache"
        )
        self.assertRegex(caches, r"twisted/plugins/dropin\.cache\n")

    async def assert_first_command(self) -> None:
        """The command in the front end's log works as it is, but for the port of this test."""
        shown = re.search(r"ready; try: (.*:8443/.*)", await self.stack.logs("frontend"))
        assert shown is not None
        command = shown[1].replace(":8443/", f":{self.stack.port}/")
        answer = await self.stack.shell(command, self.folder)
        self.assertRegex(answer, r'\{"code":200,"taskId":"[0-9a-f]{32}"\}')
