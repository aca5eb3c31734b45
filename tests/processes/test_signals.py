"""SIGHUP never ends a command, at any time after rtprov's code is loaded."""

from __future__ import annotations

import re
import sys

from rtprov.security.development import SEAL_KEY, ensure_seal_key, make_development_set
from tests.support.processes import ANY_PORT, ProcessTestCase
from tests.support.rabbitmq import OPERATIONS

ENDPOINTS = {
    "rtprov": ["--port=0", "--stub-port=0", "--broker-port=0"],
    "rtprov-stub": ["--listen", ANY_PORT],
    "rtprov-frontend": ["--listen", ANY_PORT],
    "rtprov-worker": ["--health-listen", ANY_PORT],
    "rtprov-broker": ["--listen", ANY_PORT],
}
# Sends itself a SIGHUP whenever an rtprov module is imported, from the first one on, and before
# each step of the start.
HASTY = """
import os, signal, sys
from twisted.application import app, service

def hang_up():
    os.kill(os.getpid(), signal.SIGHUP)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("rtprov"):
            hang_up()

sys.meta_path.insert(0, Finder())
STEPS = (
    (app.ApplicationRunner, "createOrGetApplication"),
    (app.AppLogger, "start"),
    (service.MultiService, "startService"),
)
for owner, name in STEPS:
    def step(self, *arguments, original=getattr(owner, name)):
        hang_up()
        try:
            return original(self, *arguments)
        finally:
            hang_up()
    setattr(owner, name, step)
from twisted.scripts.twistd import run
run()
"""


class Hangup(ProcessTestCase):
    async def test_from_the_first_moment(self) -> None:
        """SIGHUP does not end a command while it is imported, made and started, nor later, whether
        or not it has files to reload, nor while it stops.
        """
        make_development_set(self.folder / "certs")
        ensure_seal_key(self.folder / "certs" / SEAL_KEY)
        commands = {}
        for name, where in ENDPOINTS.items():
            options = [] if name != "rtprov" else ["--state", "another"]
            commands[name] = self.spawn(
                [sys.executable, "-c", HASTY, "-n", "--pidfile=", name, *where, *options]
            )
        for process in commands.values():
            await process.logged(r"listens on 127\.0\.0\.1:\d+\n")
        for process in commands.values():
            process.signal("HUP")
            process.signal("HUP")
        for name in ("rtprov", "rtprov-stub", "rtprov-frontend", "rtprov-worker"):
            await commands[name].logged("certificates reloaded")
        for process in commands.values():
            process.signal("TERM")
            process.signal("HUP")
            status = await process.ended
            self.assertIn(status, (0, -15), process.log + process.errors)
            self.assert_clean(process)

    async def test_before_our_code(self) -> None:
        """Nor while the interpreter and Twisted load, if the command is started as
        docs/operations.md says. Later it handles SIGHUP.
        """
        (line,) = re.findall(r"(?m)^(env .*)/opt/rtprov/bin/twistd ", OPERATIONS.read_text())
        make_development_set(self.folder / "certs")
        script = [
            sys.executable,
            "-c",
            "import os, signal; os.kill(os.getpid(), signal.SIGHUP)" + HASTY,
        ]
        stub = self.spawn(
            [*line.split(), *script, "-n", "--pidfile=", "rtprov-stub", "--listen", ANY_PORT]
        )
        await stub.port("service A (stub)")
        stub.signal("HUP")
        await stub.logged("certificates reloaded")
        await self.stop(stub)

    async def test_daemon(self) -> None:
        """SIGHUP does not end a process that becomes a daemon."""
        script = [sys.executable, "-c", HASTY]
        process = self.spawn([*script, "rtprov-broker", "--listen", ANY_PORT])
        self.assertEqual(await process.ended, 0, process.errors)
        stopping = self.spawn([sys.executable, "-c", STOP, str(self.folder / "twistd.pid")])
        self.assertEqual(await stopping.ended, 0, stopping.errors)
        self.assertIn("the AMQP broker listens on", (self.folder / "twistd.log").read_text())


# Send SIGHUP and SIGTERM, and wait for the end.
STOP = """
import os, signal, sys, time
process_id = int(open(sys.argv[1]).read())
os.kill(process_id, signal.SIGHUP)
os.kill(process_id, signal.SIGTERM)
try:
    while True:
        os.kill(process_id, signal.SIGHUP)
        time.sleep(0.05)
except ProcessLookupError:
    pass
"""
