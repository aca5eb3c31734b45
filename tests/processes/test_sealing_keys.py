"""Sealing key files that differ, are replaced, or are missing, with real processes; the same tests
on the embedded broker and on RabbitMQ.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from twisted.internet.task import deferLater

from rtprov.security.development import SEAL_KEY, make_development_set
from rtprov.security.sealer import key_id, new_key
from tests.support.processes import ANY_PORT, POLL_EVERY_S, Client, ProcessTestCase, Twistd, reactor
from tests.support.rabbitmq import rabbitmq

if TYPE_CHECKING:
    _Base = ProcessTestCase
else:
    _Base = object

COMPLETED = {"code": 200, "message": "Completed"}
NO_NEW_KEY = (
    r"{}: \S+/seal\.key is missing, and rtprov\.{}\.0of1 holds tasks that are sealed with a key, so"
    r" no new key was made\. Restore .*"
)
RUNNING = {"code": 204, "message": "Task is still running"}


class SealingKeysMixin(_Base):
    """The tests, for either broker. A subclass starts the broker in `start_broker`."""

    async def start_broker(self) -> str:
        """Return the broker's URL."""
        raise NotImplementedError

    async def start(self) -> Client:
        """Start broker, stub and front end. The front end makes the first key. The worker's key
        file, `self.file`, has another key.
        """
        self.certs = self.folder / "certs"
        self.file = self.folder / "other.key"
        make_development_set(self.certs)
        self.file.write_text(new_key() + "\n")
        self.broker_url = await self.start_broker()
        self.stub = self.twistd("rtprov-stub", "--listen", ANY_PORT, "--delay", "0")
        self.stub_port = await self.stub.port("service A (stub)")
        self.frontend = await self.start_frontend()
        self.ours = (self.certs / SEAL_KEY).read_text().splitlines()[-1]
        return self.client(await self.frontend.port("service B (front end)"))

    async def start_frontend(self, *arguments: str) -> Twistd:
        frontend = self.twistd(
            "rtprov-frontend",
            "--listen",
            ANY_PORT,
            *arguments,
            environment={"RTPROV_BROKER": self.broker_url},
        )
        await frontend.logged("ready; try: curl ")
        return frontend

    def worker(self, *arguments: str) -> Twistd:
        url = f"https://localhost:{self.stub_port}"
        return self.twistd(
            "rtprov-worker",
            "--equipment-url",
            url,
            *arguments,
            environment={"RTPROV_BROKER": self.broker_url},
        )

    def replace(self, text: str) -> None:
        """Replace the worker's key file atomically."""
        temporary = self.folder / "new.key"
        temporary.write_text(text)
        temporary.replace(self.file)

    async def until(self, client: Client, status: int) -> str:
        """Poll the front end's readiness until it has this status; return the message."""
        while True:
            answer = await client.request("GET", "/readyz")
            if answer.status == status:
                return str(answer.json["message"])
            await deferLater(reactor, POLL_EVERY_S)

    async def test_another_key_file(self) -> None:
        """A backlog waits for a worker with the wrong key file. When the file gets the right key
        the tasks are done, without a restart.
        """
        client = await self.start()
        tasks = [await client.accepted(f"DEVICE{number:04}") for number in range(5)]
        worker = self.worker("--seal-keys", str(self.file))
        key = key_id(self.ours.encode())
        await worker.logged(rf"sealing key {key} is missing: 5 tasks wait for it")
        for task in tasks:
            self.assertEqual((await client.request("GET", task)).json, RUNNING)
        told = (await client.request("GET", "/api/v1/tasks/" + tasks[0].rpartition("/")[2])).json[
            "task"
        ]
        self.assertEqual((told["state"], told["waitsFor"]["reason"]), ("running", "key"))
        self.assertIn(f"this front end's first sealing key, {key}", await self.until(client, 503))
        refused = await client.post("DEVICE9999")
        self.assertEqual((refused.status, refused.json["code"]), (503, 503))
        self.replace("not a key\n")
        await worker.logged(
            "sealing keys not reloaded, the previous version stays in use: .*line 1 is not a"
            " Fernet key"
        )
        self.replace(f"{new_key()}\n{self.ours}\n")
        for task in tasks:
            self.assertEqual((await client.final(task)).json, COMPLETED)
        await self.until(client, 200)
        self.assertEqual((await client.final(await client.accepted("DEVICE9999"))).json, COMPLETED)
        self.assertNotIn("call 7", self.stub.log)
        for process in (worker, self.frontend):
            self.assertNotIn(self.ours, process.log)
            self.assertEqual(
                len(re.findall("POSTs are refused", process.log)), int(process is self.frontend)
            )
            await self.stop(process)

    async def test_no_new_key(self) -> None:
        """If the broker holds tasks, a process without a key file does not make one: it logs one
        line and exits with status 78. It starts when the file is restored.
        """
        client = await self.start()
        task = await client.accepted("DEVICE0001")
        await self.stop(self.frontend)
        (self.certs / SEAL_KEY).unlink()
        await self.assert_no_new_key("rtprov-worker", "work")
        await self.assert_no_new_key("rtprov-frontend", "work", "--listen", ANY_PORT)
        self.assertFalse((self.certs / SEAL_KEY).exists())
        (self.certs / SEAL_KEY).write_text(self.ours)
        worker, frontend = self.worker(), await self.start_frontend()
        self.assertEqual(
            (await self.client(await frontend.port("service B (front end)")).final(task)).json,
            COMPLETED,
        )
        for process in (worker, frontend):
            await self.stop(process)
        (self.certs / SEAL_KEY).unlink()
        await self.assert_no_new_key("rtprov-frontend", "journal", "--listen", ANY_PORT)

    async def assert_no_new_key(self, command: str, queue: str, *arguments: str) -> None:
        """Check that the command ends with status 78 and one line that names the file and the
        queue.
        """
        process = self.twistd(command, *arguments, environment={"RTPROV_BROKER": self.broker_url})
        await self.assert_refused(process, NO_NEW_KEY.format(command, queue))


class OnEmbeddedBroker(SealingKeysMixin, ProcessTestCase):
    async def start_broker(self) -> str:
        broker = self.twistd("rtprov-broker", "--listen", ANY_PORT)
        return f"amqp://guest:guest@127.0.0.1:{await broker.port('the AMQP broker')}/"


class OnRabbitMQ(SealingKeysMixin, ProcessTestCase):
    timeout = 300.0

    async def start_broker(self) -> str:
        return await (await rabbitmq()).add_vhost()


class AllInOne(ProcessTestCase):
    PORTS = ("--port", "0", "--stub-port", "0", "--broker-port", "0", "--stub-delay", "0")

    async def test_moved_certs(self) -> None:
        """With the previous state and another ``--certs`` folder, nothing is sealed with a new key:
        status 78. With the previous folder it starts.
        """
        first = self.twistd("rtprov", *self.PORTS)
        client = self.client(await first.port("service B (front end)"))
        await first.logged("ready; try: curl ")
        task = await client.accepted("DEVICE0001")
        await client.final(task)
        await self.stop(first)
        second = self.twistd("rtprov", *self.PORTS, "--certs", "other")
        await self.assert_refused(second, NO_NEW_KEY.format("rtprov", "journal"))
        self.assertFalse((self.folder / "other" / SEAL_KEY).exists())
        third = self.twistd("rtprov", *self.PORTS)
        again = self.client(await third.port("service B (front end)"))
        self.assertEqual((await again.final(task)).json, COMPLETED)
        await self.stop(third)
