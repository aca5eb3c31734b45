"""``rtprov backup`` and ``rtprov restore`` with real processes, from one broker to an empty one."""

from __future__ import annotations

import sys

from tests.support.processes import ANY_PORT, Client, ProcessTestCase, Twistd
from tests.support.rabbitmq import rabbitmq
from tests.support.separate_roles import COMPLETED, RolesStarter


class BackupMixin(RolesStarter):
    """A task that had ended keeps its status and is not called; one that had not is called."""

    async def second_broker(self) -> tuple[str, str]:
        """Return the URLs of another, empty broker, for front ends and for workers."""
        raise NotImplementedError

    async def rtprov(self, url: str, *arguments: str) -> Twistd:
        verb = self.spawn([sys.executable, "-m", "rtprov.cli", *arguments], {"RTPROV_BROKER": url})
        await verb.ended
        return verb

    async def test_backup(self) -> None:
        await self.start(delay_s=0)
        worker = await self.start_worker()
        client = await self.front_end()
        done = await client.accepted("DONE00001")
        self.assertEqual((await client.final(done)).json, COMPLETED)
        await self.stop(worker)
        still_open = await client.accepted("OPEN00001")  # no worker: it waits
        saved = await self.rtprov(self.worker_url, "backup", "a.backup")
        self.assertEqual(saved.status, 0, saved.errors)
        self.assertRegex(saved.log, r"^a\.backup: \d+ events of 1 shard\n$")
        content = (self.folder / "a.backup").read_bytes()
        self.assertNotIn(b"s3cr3t", content)
        self.assertEqual((self.folder / "a.backup").stat().st_mode & 0o777, 0o600)

        refused = await self.rtprov(self.worker_url, "restore", "a.backup")
        self.assertEqual(refused.status, 2, refused.errors)
        self.assertIn("rtprov restore: The broker is in use", refused.errors)
        await self.stop(self.frontend)
        await self.restored(await self.second_broker(), done, still_open)

    async def restored(self, urls: tuple[str, str], done: str, still_open: str) -> None:
        frontend_url, self.worker_url = urls
        restored = await self.rtprov(self.worker_url, "restore", "a.backup")
        self.assertEqual(restored.status, 0, restored.errors)
        self.assertIn("tasks that had not ended and will be called: 1", restored.log)
        self.frontend = self.twistd(
            "rtprov-frontend", "--listen", ANY_PORT, environment={"RTPROV_BROKER": frontend_url}
        )
        worker = await self.start_worker()
        await self.frontend.logged("ready; try: curl ")
        client: Client = await self.front_end()
        self.assertEqual((await client.final(still_open)).json, COMPLETED)
        self.assertEqual((await client.final(done)).json, COMPLETED)
        self.assertEqual(self.stub.log.count(": DONE00001"), 1, self.stub.log)
        for process in (worker, self.frontend, self.stub):
            await self.stop(process)


class OnEmbeddedBroker(BackupMixin, ProcessTestCase):
    async def start_broker(self) -> tuple[str, str]:
        return await self.another("state")

    async def second_broker(self) -> tuple[str, str]:
        return await self.another("state2")

    async def another(self, state: str) -> tuple[str, str]:
        broker = self.twistd("rtprov-broker", "--listen", ANY_PORT, "--state", state)
        url = f"amqp://guest:guest@127.0.0.1:{await broker.port('the AMQP broker')}/"
        return url, url

    async def test_damaged(self) -> None:
        """What is no backup is refused with one line, and nothing is written."""
        _, url = await self.another("state")
        (self.folder / "a.backup").write_text("{}\n")
        for name, words in (("a.backup", "is not a backup"), ("none", "No such file")):
            refused = await self.rtprov(url, "restore", name)
            self.assertEqual(refused.status, 2)
            self.assertIn(words, refused.errors)
        saved = await self.rtprov(url, "backup", "b.backup")
        self.assertIn("rtprov has not run on it", saved.errors)
        self.assertEqual(list(self.folder.glob("*b.backup*")), [])


class OnRabbitMQ(BackupMixin, ProcessTestCase):
    """Two virtual hosts of RabbitMQ, with users who have exactly the documented permissions."""

    timeout = 300.0  # includes the start of RabbitMQ in the first test

    async def start_broker(self) -> tuple[str, str]:
        _, frontend_url, worker_url = await (await rabbitmq()).add_roles()
        return frontend_url, worker_url

    async def second_broker(self) -> tuple[str, str]:
        return await self.start_broker()
