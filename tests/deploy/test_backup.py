"""docs/deployment/backup.md, as it is written, with processes."""

from __future__ import annotations

import shutil
import signal
from typing import Any

from twisted.internet.task import deferLater

from rtprov.security.development import make_development_set
from tests.chaos.equipment import RecordingA, reactor
from tests.support.daemons import DaemonTestCase
from tests.support.deploy import takes_minutes
from tests.support.pages import DOCS, install_program, install_programs, run_block, shell_blocks
from tests.support.processes import POLL_EVERY_S, Client, Twistd
from tests.support.rabbitmq import rabbitmq
from tests.support.system import REQUEST

PAGE = DOCS / "deployment" / "backup.md"
COMPLETED, RUNNING, UNKNOWN = 200, 204, 404
STOPPED, PAUSED, KEYS = shell_blocks(PAGE, "Back up the embedded broker")
END, REPLACE, START = shell_blocks(PAGE, "Restore the embedded broker")


class EmbeddedBroker(DaemonTestCase):
    timeout = 300.0

    def setUp(self) -> Any:
        takes_minutes()
        super().setUp()
        make_development_set(self.folder / "certs")
        self.a = RecordingA(self.folder / "certs", delay_s=0.5)
        self.a.start()
        self.addCleanup(self.a.stop)
        self.environment = {
            "PATH": install_programs(self.folder / "programs"),
            "RTPROV_PORT": "0",
            "RTPROV_BROKER_PORT": "0",
            "RTPROV_EQUIPMENT_URL": self.a.url,
            "RTPROV_CONCURRENCY": "1",
        }
        self.kill_at_end("twistd")

    async def start(self) -> tuple[Twistd, Client]:
        process = self.twistd("rtprov", environment=self.environment, pidfile="twistd.pid")
        await process.logged("ready; try: curl ")
        return process, self.client(await process.port("service B (front end)"))

    async def order(self, client: Client, *numbers: int) -> list[str]:
        """POST the tasks of these numbers, each with its own key; return the paths."""
        return [await self.post(client, number) for number in numbers]

    async def post(self, client: Client, number: int) -> str:
        path = f"/api/v1/equipment/cpe/BACKUP{number:04}"
        while True:
            answer = await client.request("POST", path, REQUEST, Idempotency_Key=f"key-{number}")
            if answer.status == 200:
                return f"{path}/task/{answer.json['taskId']}"
            self.assertEqual(answer.status, 503, answer)
            await deferLater(reactor, POLL_EVERY_S)

    async def codes(self, client: Client, paths: list[str]) -> list[int]:
        return [(await client.request("GET", path)).json["code"] for path in paths]

    async def back_up_and_lose(self, backup: str, *, stops: bool) -> tuple[list[str], list[str]]:
        """Order tasks before and after the backup, and lose all files. Return the paths."""
        process, client = await self.start()
        before = await self.order(client, *range(8))
        await client.final(before[0])
        await run_block(self, backup, self.environment)
        await run_block(self, KEYS, self.environment)
        if stops:
            self.assertIn(await process.ended, (0, -signal.SIGTERM))
            process, client = await self.start()
        self.assertIn(RUNNING, await self.codes(client, before))
        after = await self.order(client, 20, 21)
        for path in before:
            self.assertEqual((await client.final(path)).json["code"], COMPLETED)
        process.signal("KILL")
        await process.ended
        for folder in ("state", "certs"):
            shutil.rmtree(self.folder / folder)
        return before, after

    async def check(self, backup: str, *, stops: bool) -> None:
        before, after = await self.back_up_and_lose(backup, stops=stops)
        for block in (END, REPLACE, START):
            await run_block(self, block, self.environment)
        port = int((await self.daemon_logged("twistd", r"front end\) listens on .*:(\d+)\n"))[1])
        await self.daemon_logged("twistd", "ready; try: curl ")
        client = self.client(port)
        codes = await self.codes(client, before)
        self.assertEqual(codes[0], COMPLETED)
        self.assertEqual(set(codes), {COMPLETED, RUNNING})
        self.assertEqual(await self.codes(client, after), [UNKNOWN] * len(after))
        self.assertEqual(await self.order(client, *range(8), 20, 21), before + after)
        for path in before + after:
            self.assertEqual((await client.final(path)).json["code"], COMPLETED)

    async def test_stopped(self) -> None:
        """A copy of the folder of a stopped process is restored: what was accepted before it has
        its status or is called, and a key gives the same task as before.
        """
        await self.check(STOPPED, stops=True)

    async def test_paused(self) -> None:
        """The same holds for a copy that is made while the process is paused in the middle of its
        calls.
        """
        await self.check(PAUSED, stops=False)


class OnRabbitMQ(DaemonTestCase):
    timeout = 300.0

    async def test_definitions(self) -> None:
        """The exported definitions bring back a virtual host that was lost, with its users'
        permissions and rtprov's queues.
        """
        node = await rabbitmq()
        url, _, _ = await node.add_roles()
        vhost = url.rpartition("/")[2]
        where = {"PATH": install_programs(self.folder / "programs")}
        install_program(
            self.folder / "programs" / "rabbitmqctl", [str(node.program)], node.settings
        )
        export, restore = (
            # a program of another root has another working folder
            block.replace("backup/", f"{self.folder}/backup/")
            for block in shell_blocks(PAGE, "RabbitMQ")
        )
        broker = ("--broker", url)
        make_development_set(self.folder / "certs")
        worker = self.twistd("rtprov-worker", *broker)
        await worker.logged("worker: connected to amqp://")
        await self.stop(worker)
        (self.folder / "backup").mkdir(mode=0o777)
        await run_block(self, export, where)
        await node.ctl("delete_vhost", vhost)
        await run_block(self, restore, where)
        listed = await node.ctl("list_permissions", "--quiet", "-p", vhost)
        for role in ("rtprov-frontend", "rtprov-worker"):
            self.assertIn(role, listed)
        worker = self.twistd("rtprov-worker", *broker)
        await worker.logged("worker: connected to amqp://")
        await self.stop(worker)
