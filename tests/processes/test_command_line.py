"""The command line: help, versions, and one line for each mistake."""

from __future__ import annotations

import socket

from rtprov import __version__
from rtprov.security.development import make_development_set
from tests.support.processes import ProcessTestCase

COMMANDS = ("rtprov", "rtprov-broker", "rtprov-frontend", "rtprov-stub", "rtprov-worker")


class Answers(ProcessTestCase):
    async def test_commands(self) -> None:
        """``twistd --help`` lists the five commands."""
        process = self.twistd("--help")
        self.assertEqual(await process.ended, 0)
        for command in COMMANDS:
            self.assertRegex(process.log, rf"\n    {command} +Asynchronous provisioning: ")

    async def test_version(self) -> None:
        """``--version`` of a command is rtprov's version."""
        process = self.twistd("rtprov", "--version")
        self.assertEqual(await process.ended, 0)
        self.assertEqual((process.log, process.errors), (f"rtprov {__version__}\n", ""))

    async def test_help(self) -> None:
        """``--help`` of a command describes its use."""
        process = self.twistd("rtprov-frontend", "--help")
        self.assertEqual(await process.ended, 0)
        self.assertTrue(
            process.log.startswith("Usage: twistd [twistd options] rtprov-frontend [options]\n"),
            process.log,
        )
        self.assertEqual(process.errors, "")


class Mistakes(ProcessTestCase):
    async def test_wrong_options(self) -> None:
        """A wrong option, a wrong value and a wrong variable each end the command with one line
        that names it.
        """
        wrong = (
            (
                self.twistd("rtprov", "--port", "x"),
                "rtprov: --port: expected an integer from 0 to 65535",
            ),
            (
                self.twistd("rtprov-stub", "--dely", "5"),
                "rtprov-stub: option --dely not recognized",
            ),
            (
                self.twistd("rtprov-worker", environment={"RTPROV_BROKER": "amqp://joe:sesame@/"}),
                "rtprov-worker: RTPROV_BROKER: The broker URL names no host",
            ),
        )
        for process, line in wrong:
            await self.assert_refused(process, line, 1)

    async def test_missing_certificates(self) -> None:
        """If there are no certificates, one line says what is missing and how to make a set."""
        commands = {
            "rtprov-frontend": "frontend.pem",
            "rtprov-stub": "stub.pem",
            "rtprov-worker": "ca.pem",
        }
        for process, command, file in [
            (self.twistd(command), command, file) for command, file in commands.items()
        ]:
            await self.assert_refused(
                process,
                rf"{command}: .*/certs/{file} is missing; python -m rtprov.certs .*/certs makes a"
                r" set .*",
            )

    async def test_port_in_use(self) -> None:
        """A port in use ends the command with one line, for each port that it listens on."""
        make_development_set(self.folder / "certs")
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = str(other.getsockname()[1])
            where = f"tcp:{port}:interface=127.0.0.1"
            taken = (
                (self.twistd("rtprov-broker", "--listen", where), "rtprov-broker: the AMQP broker"),
                (self.twistd("rtprov-stub", "--listen", where), r"rtprov-stub: service A \(stub\)"),
                (
                    self.twistd(
                        "rtprov",
                        "--state",
                        "other",
                        "--broker-port",
                        "0",
                        "--stub-port",
                        "0",
                        "--port",
                        port,
                    ),
                    r"rtprov: service B \(front end\)",
                ),
            )
            for process, start in taken:
                line = f"{start} cannot listen on {where}: Address already in use"
                await self.assert_refused(process, line, 1)
