"""A name server that does not answer look-ups of A's name, with real processes."""

from __future__ import annotations

import os
from pathlib import Path

import rtprov
from rtprov.security.development import make_development_set
from tests.support.processes import ANY_PORT, ProcessTestCase

SOURCE = str(Path(rtprov.__file__).resolve().parent.parent)

# Python runs a module of this name at its start.
SITE = """
import socket
import time

getaddrinfo = socket.getaddrinfo


def block(host, *arguments, **options):
    if host == "hang.example":
        time.sleep(600)
    return getaddrinfo(host, *arguments, **options)


socket.getaddrinfo = block
"""


class NameServer(ProcessTestCase):
    timeout = 300.0

    async def test_silent(self) -> None:
        """A worker whose look-ups of A's name hang still finds its broker by name when the broker
        is back, and stops when it is told to.
        """
        make_development_set(self.folder / "certs")
        (self.folder / "site").mkdir()
        (self.folder / "site" / "sitecustomize.py").write_text(SITE)
        broker = self.twistd("rtprov-broker", "--listen", ANY_PORT)
        port = await broker.port("the AMQP broker")
        url = f"amqp://guest:guest@localhost:{port}/"
        frontend = self.twistd("rtprov-frontend", "--listen", ANY_PORT, "--broker", url)
        path = os.pathsep.join([str(self.folder / "site"), SOURCE])
        options = ("--broker", url, "--equipment-url", "https://hang.example", "--drain", "1")
        worker = self.twistd("rtprov-worker", *options, environment={"PYTHONPATH": path})
        await worker.logged("worker: connected to amqp://guest@localhost")
        client = self.client(await frontend.port("service B (front end)"))
        for number in range(30):
            await client.accepted(f"DEVICE{number}")
        await worker.logged(
            "A cannot be reached: the name hang.example was not found within 5 s: the name server"
            " does not answer"
        )
        await self.stop(broker)
        self.twistd("rtprov-broker", "--listen", f"tcp:{port}:interface=127.0.0.1")
        await worker.logged("(?s)not connected to .*worker: connected to amqp://guest@localhost")
        await self.stop(worker)
        await self.stop(frontend)
