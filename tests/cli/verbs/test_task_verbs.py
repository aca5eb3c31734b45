"""``rtprov order``, ``status``, ``wait`` and ``cancel``, on the whole system in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from rtprov.cli.main import main
from rtprov.http.site import JsonSite
from tests.support.cli_case import URL, MemoryProcess
from tests.support.system_case import SystemTestCase

ORDER = ("--username", "admin", "--vlan", "534", "--interfaces", "1,2", "--parameter", 'x={"a":1}')


class OneTask(SystemTestCase):
    def setUp(self) -> None:
        super().setUp()
        folder = Path(self.mktemp())
        folder.mkdir()
        environ = {"RTPROV_API_URL": URL}
        self.process = MemoryProcess(self.system.network, self.system.clock, folder, environ)

    def verb(self, *arguments: str, status: int = 0, text: str | None = None) -> str:
        done = CliRunner().invoke(main, arguments, obj=self.process, input=text)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        self.assertEqual(done.exit_code, status, done.output)
        self.errors = done.stderr
        return done.stdout

    def order(self, equipment: str, *options: str) -> str:
        return self.verb("order", equipment, *ORDER, *options).strip()

    def state(self, equipment: str, task: str, status: int = 0) -> Any:
        return json.loads(self.verb("status", equipment, task, "-o", "json", status=status))

    def test_completed(self) -> None:
        """A task is ordered, runs, is waited for, and has completed."""
        task = self.order("ABC123456")
        self.assertEqual(self.state("ABC123456", task)["phase"], "calling")
        (row,) = json.loads(f"[{self.verb('wait', 'ABC123456', task, '-o', 'json')}]")
        self.assertEqual((row["taskId"], row["state"]), (task, "completed"))
        self.assertAlmostEqual(self.system.clock.seconds(), 60.0, delta=10.0)

    def test_body(self) -> None:
        """The body is a list of single-key objects; a password comes from a file."""
        self.verb("order", "ABC123456", *ORDER, "--password-file", "-", text="s3cr3t-пароль\n")
        self.system.network.advance(61)
        self.verb("order", "ABC123456", "--body", "-", text='{"timeoutInSeconds": 1}', status=2)
        self.assertIn("parameters", self.errors)
        self.verb("order", "ABC123456", "--parameter", "password=x", status=2)
        self.verb("order", "ABC123456", status=2)
        self.verb("order", "ABC123456", "--vlan", "5000", status=2)
        self.assertIn("vlan: expected an integer from 1 to 4094", self.errors)
        self.verb("order", "ABC123456", "--parameter", "note=\udcff", status=2)
        self.assertIn("not valid UTF-8", self.errors)

    def test_failed(self) -> None:
        """A task that failed ends its verbs with 1; a device that A does not know, with 4."""
        self.verb("order", "FAIL123456", *ORDER, "--wait", status=1)
        task = self.errors.strip()
        self.assertEqual(self.state("FAIL123456", task, 1)["state"], "failed")
        unknown = self.order("NOTFOUND123456")
        self.verb("wait", "NOTFOUND123456", unknown, status=4)
        lines = f"FAIL123456 {task}\nNOTFOUND123456 {unknown}\n"
        self.verb("wait", "-", text=lines, status=1)

    def test_not_in_time(self) -> None:
        """--timeout ends the wait with 6."""
        task = self.order("ABC123456")
        self.verb("wait", "ABC123456", task, "--timeout", "25", status=6)
        self.assertIn("1 of 1 task had not ended after 25 s", self.errors)
        self.system.network.advance(60)

    def test_unknown(self) -> None:
        """A task that is unknown, or of another device, ends with 4."""
        task = self.order("ABC123456")
        self.verb("status", "ABC999999", task, status=4)
        self.verb("wait", "ABC999999", task, status=4)
        self.verb("status", "ABC123456", "0" * 32, status=4)
        self.verb("cancel", "ABC123456", "0" * 32, status=4)
        self.system.network.advance(61)

    def test_cancel(self) -> None:
        """A task that waits is cancelled; one that was sent is not (1)."""
        first, second = self.order("ABC123456"), self.order("ABC123456")
        self.assertIn("1 ahead", self.verb("status", "ABC123456", second))
        self.assertEqual(
            self.verb("cancel", "ABC123456", second, "--reason", "typo"), "Cancelled\n"
        )
        self.verb("cancel", "ABC123456", first, status=1)
        self.assertEqual(self.state("ABC123456", second, 1)["state"], "cancelled")
        self.verb("wait", "ABC123456", first, "ABC123456", second, status=1)

    def test_device(self) -> None:
        """All tasks of a device are listed, newest first."""
        tasks = [self.order("ABC123456") for _ in range(3)]
        rows = [
            json.loads(line)
            for line in self.verb("device", "ABC123456", "-o", "jsonl").splitlines()
        ]
        self.assertEqual([row["taskId"] for row in rows], tasks[::-1])
        self.system.network.advance(200)

    def test_download(self) -> None:
        """All tasks are downloaded, and the events begin with a summary."""
        task = self.order("ABC123456")
        for format in ("csv", "jsonl"):
            self.assertIn(task, self.verb("tasks", "--all", "-o", format))
        self.assertIn("summary", self.verb("events"))
        self.system.network.advance(61)

    def test_front_end_returns(self) -> None:
        """wait goes on if the front end is away for a while, and says so once."""
        task = self.order("ABC123456")
        clock, network = self.system.clock, self.system.network

        def away() -> None:
            network.factories.pop("b")
            network.cut("b")
            clock.callLater(30, self.listen)

        self.process.at_start = lambda: void(clock.callLater(5, away))
        self.verb("wait", "ABC123456", task)
        self.assertLess(self.errors.count("\n"), 5)

    def listen(self) -> None:
        resource = self.system.frontends["b"].frontend.resource()
        self.system.network.listen("b").listen(JsonSite(resource, reactor=self.system.clock))


def void(result: object) -> None:
    """Drop a result."""
