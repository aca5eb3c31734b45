"""``twistd -n rtprov``: all services in one process."""

from __future__ import annotations

import stat

from rtprov.security.development import FILES, SEAL_KEY
from tests.support.processes import Client, ProcessTestCase, Twistd

PORTS = ("--port", "0", "--stub-port", "0", "--broker-port", "0")
COMPLETED = {"code": 200, "message": "Completed"}
RUNNING = {"code": 204, "message": "Task is still running"}


class AllInOne(ProcessTestCase):
    async def start(self, *arguments: str) -> tuple[Twistd, Client]:
        """Start the process; once it is ready, return it and a client of its front end."""
        process = self.twistd("rtprov", *PORTS, *arguments)
        await process.logged("ready; try: curl --cacert .*/certs/ca.pem ")
        return process, self.client(await process.port("service B (front end)"))

    async def test_quick_start(self) -> None:
        """Without any preparation, a task is accepted, seen running, and completed. SIGTERM ends
        the process, and no password was logged.
        """
        process, client = await self.start("--stub-delay", "0.5")
        location = await client.accepted("ABC123456")
        running = await client.request("GET", location)
        self.assertEqual((running.status, running.json), (200, RUNNING))
        final = await client.final(location)
        self.assertEqual((final.status, final.json), (200, COMPLETED))
        await self.stop(process)

    async def test_certificates(self) -> None:
        """The first start makes certificates whose keys only their owner can read. The second start
        uses them.
        """
        process, _ = await self.start()
        self.assertIn("made development certificates", process.log)
        await self.stop(process, "INT")
        made = {name: (self.folder / "certs" / name).read_bytes() for name in (*FILES, SEAL_KEY)}
        for name in made:
            mode = stat.S_IMODE((self.folder / "certs" / name).stat().st_mode)
            self.assertEqual(mode & 0o077 if name.endswith(".key") else 0, 0, name)
        process, client = await self.start("--stub-delay", "0")
        self.assertNotIn("made", process.log)
        self.assertEqual({name: (self.folder / "certs" / name).read_bytes() for name in made}, made)
        self.assertEqual((await client.final(await client.accepted("ABC123456"))).json, COMPLETED)
        await self.stop(process)

    async def test_drain(self) -> None:
        """After SIGTERM the process lets running calls end before it exits."""
        process, client = await self.start("--stub-delay", "1", "--drain", "20")
        await client.accepted("ABC123456")
        await process.logged("call 1: ABC123456")
        await self.stop(process)
        self.assertIn("draining 1 call", process.log)
        self.assertNotIn("cancelling the calls that are still running", process.log)

    async def test_drain_is_over(self) -> None:
        """Calls that take longer than --drain are cancelled."""
        process, client = await self.start("--stub-delay", "0", "--drain", "0.2")
        await client.accepted("HANG123456")
        await process.logged("call 1: HANG123456")
        await self.stop(process)
        self.assertIn("cancelling the calls that are still running", process.log)

    async def test_told_twice(self) -> None:
        """A second signal ends the wait that the first one began."""
        process, client = await self.start("--stub-delay", "0", "--drain", "60")
        await client.accepted("HANG123456")
        await process.logged("call 1: HANG123456")
        process.signal("TERM")
        await process.logged("draining 1 calls to A, for up to 60 s; a second signal cancels them")
        await self.stop(process)
        self.assertIn("second stop signal", process.log)
