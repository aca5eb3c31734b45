"""Errors that end a command: one line on standard error, and an exit status for supervisors."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys

from twisted.trial.unittest import SkipTest

from rtprov.security.development import make_development_set
from tests.support.processes import ANY_PORT, TWISTD, ProcessTestCase, Twistd

# A front end whose broker contradicts its configuration shortly after the start.
CONTRADICTED = """
import sys
from rtprov.messaging.topology import Topology
from rtprov.errors import ConfigurationError

async def attach(self, connection):
    raise ConfigurationError("the broker holds 4 shards, and --shards says 1")

Topology.attach = attach
from twisted.scripts.twistd import run
run()
"""


def without_root() -> list[str]:
    """Return a command prefix that makes file permissions apply to a process that root starts."""
    if os.getuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise SkipTest("root needs setpriv for that")
    return [setpriv, "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]


class Files(ProcessTestCase):
    async def test_not_usable(self) -> None:
        """A file or folder that is of another kind, does not exist or cannot be written is named in
        one line.
        """
        make_development_set(self.folder / "certs")
        (self.folder / "file").touch()
        for process, line in (
            (
                self.twistd("rtprov-stub", "--certs", "file"),
                "rtprov-stub: .*/file/stub.pem is missing; .*",
            ),
            (
                self.twistd("rtprov-stub", "--certs", "a" * 300),
                "rtprov-stub: .*/stub.pem: File name too long",
            ),
            (
                self.twistd("rtprov-frontend", "--tokens", "certs"),
                "rtprov-frontend: .*/certs: cannot read the tokens: Is a directory",
            ),
            (
                self.twistd("rtprov-worker", "--ca", "certs/worker.key"),
                "rtprov-worker: .*/worker.key: holds no PEM certificate",
            ),
            (
                self.twistd("rtprov-stub", "--private-key", "certs/worker.key"),
                "rtprov-stub: .*/worker.key: is not the PEM private key for .*/stub.pem",
            ),
            (
                self.twistd("rtprov-broker", "--state", "file"),
                "rtprov-broker: .*/file: cannot keep the broker's state here: File exists",
            ),
            (
                self.twistd("rtprov-broker", "--state", "/proc/state"),
                (
                    "rtprov-broker: /proc/state: cannot keep the broker's state here: No such file"
                    " or directory"
                ),
            ),
            (
                self.twistd("rtprov-frontend", "--broker-file", "file"),
                "rtprov-frontend: .*/file: expected one line with the broker's URL, .*",
            ),
        ):
            await self.assert_refused(process, line)

    async def test_no_permission(self) -> None:
        """So are those without permission: a folder of certificates, and one in which twistd.pid or
        twistd.log cannot be written.
        """
        make_development_set(self.folder / "certs")
        closed = self.folder / "closed"
        closed.mkdir()
        for folder, mode in ((closed, 0o000), (self.folder, 0o555)):
            folder.chmod(mode)
            self.addCleanup(folder.chmod, 0o755)
        for options, line in (
            (
                ["-n", "--pidfile=", "rtprov-stub", "--certs=closed"],
                r"rtprov-stub: .*/closed/stub\.pem: Permission denied",
            ),
            (
                ["-n", "--pidfile=", "rtprov", "--certs=closed"],
                r"rtprov: .*/closed/ca\.pem: Permission denied",
            ),
            (
                ["-n", "rtprov-stub"],
                r"rtprov-stub: .*/twistd\.pid: cannot write the pid file: Permission denied; .*",
            ),
            (
                ["--pidfile=", "rtprov-stub", "--listen", ANY_PORT],
                r"rtprov-stub: .*/twistd\.log: Permission denied",
            ),
            (
                ["-n", "--pidfile=", "rtprov-broker"],
                r"rtprov-broker: .*/state: cannot keep the broker's state here: Permission denied",
            ),
        ):
            await self.assert_refused(self.spawn([*without_root(), *TWISTD, *options]), line)

    async def test_files_of_twistd(self) -> None:
        """The same holds for twistd's own files."""
        make_development_set(self.folder / "certs")
        for arguments, line in (
            (["-n", "--pidfile=certs"], "rtprov-stub: .*/certs: Is a directory"),
            (
                ["-n", "--pidfile=no/twistd.pid"],
                (
                    "rtprov-stub: .*/no/twistd.pid: cannot write the pid file: No such file or"
                    " directory; .*"
                ),
            ),
            (
                ["--pidfile=", "--logfile=no/log"],
                "rtprov-stub: .*/no/log: No such file or directory",
            ),
            (["--pidfile=", "--rundir=no"], "rtprov-stub: no: No such file or directory"),
        ):
            await self.assert_refused(
                self.spawn([*TWISTD, *arguments, "rtprov-stub", "--listen", ANY_PORT]), line
            )


class Addresses(ProcessTestCase):
    async def test_not_ours(self) -> None:
        """An address that this machine does not have is a configuration error."""
        make_development_set(self.folder / "certs")
        where = "tcp:0:interface=192.0.2.1"
        for command, option, what in (
            ("rtprov-broker", "--listen", "the AMQP broker"),
            ("rtprov-stub", "--listen", r"service A \(stub\)"),
            ("rtprov-stub", "--health-listen", "health"),
        ):
            other = [] if option == "--listen" else ["--listen", ANY_PORT]
            process = self.twistd(command, option, where, *other)
            reason = "Cannot assign requested address"
            line = (
                rf"{command}: {what} cannot listen on {where}: {reason}; set {option} to an address"
                r" and port that this process may use, .*"
            )
            await self.assert_refused(process, line)

    async def test_state_in_use(self) -> None:
        """A state folder in use by another broker is a temporary error, as is a port in use."""
        first = self.twistd("rtprov-broker", "--listen", ANY_PORT)
        await first.port("the AMQP broker")
        second = self.twistd("rtprov-broker", "--listen", ANY_PORT)
        await self.assert_refused(
            second, "rtprov-broker: .*/state: another broker is running on this state; .*", 1
        )


class Daemons(ProcessTestCase):
    """Commands without ``-n``."""

    def daemon(self, *arguments: str) -> Twistd:
        return self.spawn([*TWISTD, *arguments])

    async def test_refused(self) -> None:
        """The process that was started shows the error, before and after it has made a daemon, and
        exits with the right status.
        """
        await self.assert_refused(
            self.daemon("rtprov-frontend"), "rtprov-frontend: .*/certs/frontend.pem is missing; .*"
        )
        make_development_set(self.folder / "certs")
        line = (
            r"rtprov-stub: service A \(stub\) cannot listen on tcp:0:interface=192.0.2.1: Cannot"
            r" assign requested address; .*"
        )
        await self.assert_refused(
            self.daemon("rtprov-stub", "--listen", "tcp:0:interface=192.0.2.1"), line
        )
        self.assertRegex((self.folder / "twistd.log").read_text(), line)
        self.assertFalse((self.folder / "twistd.pid").exists())
        await self.assert_refused(
            self.daemon("--pidfile=no/twistd.pid", "rtprov-stub"),
            "rtprov-stub: .*/no/twistd.pid: cannot write .*",
        )
        line = (
            "rtprov-broker: .*/certs: cannot be .*|rtprov-broker: /proc/state: cannot keep the"
            " broker's state here: .*"
        )
        await self.assert_refused(self.daemon("rtprov-broker", "--state", "/proc/state"), line)
        with socket.create_server(("127.0.0.1", 0)) as other:
            where = f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"
            process = self.daemon("rtprov-broker", "--listen", where)
            line = (
                f"rtprov-broker: the AMQP broker cannot listen on {where}: Address already in use"
            )
            await self.assert_refused(process, line, 1)

    async def test_started(self) -> None:
        """If the daemon starts, the first process exits with 0. The daemon writes its own log,
        without Twisted's lines.
        """
        process = self.daemon("rtprov-broker", "--listen", ANY_PORT)
        status = await process.ended
        pid_file = self.folder / "twistd.pid"
        self.addCleanup(os.kill, int(pid_file.read_text()), 9)
        self.assertEqual((status, process.log, process.errors), (0, "", ""))
        lines = (self.folder / "twistd.log").read_text().splitlines()
        self.assertRegex(
            lines[0],
            r"Z INFO broker the AMQP broker listens on 127\.0\.0\.1:\d+",
        )


class Later(ProcessTestCase):
    async def test_broker_contradicts(self) -> None:
        """A configuration error that is found later stops the command in the regular way, with the
        line and the exit status of such an error.
        """
        make_development_set(self.folder / "certs")
        broker = self.twistd("rtprov-broker", "--listen", ANY_PORT)
        url = f"amqp://guest:guest@127.0.0.1:{await broker.port('the AMQP broker')}/"
        script = [sys.executable, "-c", CONTRADICTED]
        for options in (["-n", "--pidfile=pid"], ["-n", "--pidfile=", "--logfile=log"]):
            process = self.spawn(
                [*script, *options, "rtprov-frontend", "--listen", ANY_PORT, "--broker", url]
            )
            self.assertEqual(await process.ended, 78, process.log)
            self.assertEqual(
                process.errors, "rtprov-frontend: the broker holds 4 shards, and --shards says 1\n"
            )
        self.assertFalse((self.folder / "pid").exists())
        self.assertIn(
            "rtprov-frontend: the broker holds 4 shards", (self.folder / "log").read_text()
        )


class Log(ProcessTestCase):
    async def test_own_lines(self) -> None:
        """The log begins with rtprov's own lines. Of Twisted's lines it has only the one for the
        signal.
        """
        make_development_set(self.folder / "certs")
        process = self.twistd("rtprov-frontend", "--listen", ANY_PORT)
        client = self.client(await process.port("service B (front end)"))
        self.assertEqual((await client.request("GET", "/livez")).status, 200)
        await self.stop(process)
        lines = process.log.splitlines()
        self.assertRegex(lines[0], r"\A\d+-\d\d-\d\dT[\d:]{8}Z INFO frontend starting front end ")
        for word in ("reactor class", "starting up", "Starting factory", "JsonSite"):
            self.assertNotIn(word, process.log)
        self.assertIn("Z INFO frontend Received SIGTERM, shutting down.", process.log)

    async def test_json(self) -> None:
        """With ``--log-format json`` each line is an object. No secret is in it."""
        everything = self.twistd(
            "rtprov",
            *("--port=0", "--stub-port=0", "--broker-port=0", "--stub-delay=0.1"),
            *("--log-format", "json"),
        )
        address = await everything.logged(r'\(front end\) listens on 127\.0\.0\.1:(\d+)"')
        client = self.client(int(address[1]))
        await everything.logged("ready; try")
        path = await client.accepted("ABC123456")
        self.assertEqual((await client.final(path)).status, 200)
        await self.stop(everything)
        lines = [json.loads(line) for line in everything.log.splitlines()]
        for line in lines:
            self.assertLessEqual({"ts", "level", "role", "event", "message"}, set(line))
        task_id = path.rpartition("/")[2]
        ours = [line for line in lines if line.get("task") == task_id]
        self.assertEqual(
            [(line["event"], line["role"], line["equipment"], line["caller"]) for line in ours],
            [
                ("task.accepted", "frontend", "ABC123456", "address:127.0.0.1"),
                ("task.completed", "worker", "ABC123456", "address:127.0.0.1"),
            ],
        )
        self.assertEqual(ours[1]["reason"], "A answered 200")


class Environment(ProcessTestCase):
    async def test_kubernetes(self) -> None:
        """A container next to a Kubernetes service called rtprov starts, and logs once which
        variables it ignores. A misspelt variable is a warning.
        """
        environment = {
            "RTPROV_PORT": "tcp://10.0.0.1:8443",
            "RTPROV_SERVICE_HOST": "10.0.0.1",
            "RTPROV_BROKER_LISTEN": ANY_PORT,
            "RTPROV_LISTEN": "tcp:0:interface=192.0.2.1",
            "RTPROV_STAET": "elsewhere",
        }
        process = self.twistd("rtprov-broker", environment=environment)
        await process.port("the AMQP broker")
        self.assertIn(
            "INFO broker ignoring variables that Kubernetes sets for services: RTPROV_PORT,"
            " RTPROV_SERVICE_HOST\n",
            process.log,
        )
        self.assertIn(
            "WARN broker RTPROV_STAET is set, but no option reads it; the nearest name is"
            " RTPROV_STATE\n",
            process.log,
        )
        await self.stop(process)
