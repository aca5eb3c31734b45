"""docs/deployment/move.md, as it is written: from the embedded broker to RabbitMQ, under load."""

from __future__ import annotations

import signal
import sys
from typing import Any

from rtprov.security.development import make_development_set
from tests.chaos.equipment import RecordingA
from tests.support.daemons import DaemonTestCase
from tests.support.deploy import takes_minutes
from tests.support.pages import DOCS, install_programs, run_block, shell_blocks
from tests.support.ports import free_port
from tests.support.processes import ANY_PORT
from tests.support.rabbitmq import rabbitmq
from tests.support.steady_load import SteadyLoad

PAGE = DOCS / "deployment" / "move.md"
OLD_FILE, NEW_FILE = "old-broker", "new-broker"


class Move(DaemonTestCase):
    timeout = 600.0

    def setUp(self) -> Any:
        takes_minutes()
        super().setUp()

    async def test_as_written(self) -> None:
        """All tasks end once, none is unknown, and no key gives two tasks, although the move is
        interrupted once. The old state is not used again.
        """
        stop, serve, move, stop_broker, start = shell_blocks(PAGE, "The steps")
        _, _, url = await (await rabbitmq()).add_roles()
        port = free_port()
        for name, text in ((OLD_FILE, f"amqp://guest:guest@127.0.0.1:{port}/"), (NEW_FILE, url)):
            (self.folder / name).write_text(f"{text}\n")
        make_development_set(self.folder / "certs")
        a = RecordingA(self.folder / "certs", delay_s=0.5)
        a.start()
        self.addCleanup(a.stop)
        environment = {
            "PATH": install_programs(self.folder / "programs"),
            "RTPROV_BROKER_LISTEN": f"tcp:{port}:interface=127.0.0.1",
            "RTPROV_FRONTEND_LISTEN": ANY_PORT,
            "RTPROV_EQUIPMENT_URL": a.url,
            "RTPROV_CONCURRENCY": "5",
        }
        self.kill_at_end("broker", "worker", "frontend")

        arguments = ("--port", "0", "--broker-port", "0")
        everything = self.twistd(
            "rtprov", *arguments, environment=environment, pidfile="twistd.pid"
        )
        await everything.logged("ready; try: curl ")
        load = SteadyLoad(a)
        self.addCleanup(load.cancel)
        load.use([self.client(await everything.port("service B (front end)"))])
        load.start()
        await load.progress(30)

        await run_block(self, stop, environment)
        self.assertIn(await everything.ended, (0, -signal.SIGTERM))
        await run_block(self, serve, environment)
        await self.daemon_logged("broker", "the AMQP broker listens on ")
        await self.interrupt_a_move(environment)
        said = await run_block(self, move, environment)
        self.assertRegex(said, "All tasks were moved; start the workers on the new broker\n\\Z")
        await self.assert_unused(port)
        await run_block(self, stop_broker, environment)
        await run_block(self, start, environment)
        found = await self.daemon_logged(
            "frontend", r"service B \(front end\) listens on 127\.0\.0\.1:(\d+)\n"
        )
        load.use([self.client(int(found[1]))])
        await load.progress(30)
        await load.end()
        load.check({})
        self.assertTrue(any(task.final for task in load.tasks))

    async def interrupt_a_move(self, environment: dict[str, str]) -> None:
        """Begin to move, and kill the command in the middle."""
        command = ["-m", "rtprov.move", "--from-file", OLD_FILE, "--to-file", NEW_FILE]
        process = self.spawn([sys.executable, *command], environment)
        await process.logged("Moving the tasks of 1 shard\n")
        process.signal("KILL")
        await process.ended

    async def assert_unused(self, port: int) -> None:
        """Check that a worker does not connect to the old broker."""
        url = f"amqp://guest:guest@127.0.0.1:{port}/"
        worker = self.twistd("rtprov-worker", "--broker", url)
        await worker.logged("not connected to .*: The tasks of this broker were moved")
        await self.stop(worker)
