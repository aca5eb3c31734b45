"""``docs/api.md``: each command in it is run, in order, against a real front end, and gives the
answer that is printed below it.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.support.processes import ProcessTestCase

DOCS = Path(__file__).resolve().parent.parent.parent / "docs" / "api.md"
STUB_DELAY_S = "6"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_PROCESS = re.compile(r'(?<="acceptedBy":")[0-9a-f]{12}(?=")')
_RECEIPT = re.compile(r'(?<="taskId":")[0-9a-f]{32}(?="}$)')


def examples(text: str) -> list[tuple[str, str]]:
    """Return the commands of all console blocks, and their printed output."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for command, printed in re.findall(
            r"^\$ (.*(?:\\\n.*)*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE
        ):
            found.append((command, printed.strip()))
    return found


def masked(command: str, printed: str) -> str:
    """Return a text without the parts that differ each time: times, processes, and ids of tasks
    without a key.
    """
    printed = _PROCESS.sub("PROCESS", _TIME.sub("TIME", printed))
    return printed if "Idempotency-Key" in command else _RECEIPT.sub("ID", printed)


class ApiDocs(ProcessTestCase):
    timeout = 300.0

    async def test_every_command(self) -> None:
        """Every answer in the documentation is the real one, apart from times."""
        process = self.twistd(
            "rtprov",
            "--port",
            "0",
            "--stub-port",
            "0",
            "--broker-port",
            "0",
            "--stub-delay",
            STUB_DELAY_S,
        )
        port = await process.port("service B (front end)")
        await process.logged("ready; try")
        commands = examples(DOCS.read_text("utf-8"))
        self.assertGreater(len(commands), 15)
        for command, expected in commands:
            printed = await self.run_in_shell(
                command.replace("localhost:8443", f"localhost:{port}")
            )
            self.assertEqual(masked(command, printed), masked(command, expected), command)
        await self.stop(process)

    async def run_in_shell(self, command: str) -> str:
        """Run a command in a shell; return its output."""
        shell = self.spawn(["/bin/sh", "-c", command])
        self.assertEqual(await shell.ended, 0, f"{command}\n{shell.log}{shell.errors}")
        return shell.log.strip()


if shutil.which("curl") is None:
    ApiDocs.skip = "curl is not installed"
