"""Log events as lines of text and of JSON."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from twisted.logger import LogEvent, Logger, LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

import rtprov
from rtprov.history.history import History
from rtprov.queries.directory import TaskQueryServer
from rtprov.queries.report_client import ReportClient
from rtprov.queries.report_server import ReportServer
from rtprov.queries.status import StatusClient, StatusServer
from rtprov.queries.watches import CompletionWatcher
from rtprov.tap.log_lines import (
    ALL_IN_ONE,
    event_id,
    json_lines,
    role_of,
    text_lines,
    with_priorities,
)

# The line ends of `str.splitlines` except for LF; ESC; and NUL, which ends a line for journald.
SEPARATORS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\x1b\0"
AT = 1_795_955_744.25  # 2026-11-29T12:35:44.250Z


def event(text: str, namespace: str = "rtprov.audit", **fields: object) -> LogEvent:
    """Return the event of a log call at `AT`."""
    events: list[LogEvent] = []
    Logger(namespace=namespace, observer=events.append).info(text, **fields)  # type: ignore[arg-type] # an observer is a function
    events[0]["log_time"] = AT
    return events[0]


class Text(SynchronousTestCase):
    def test_line(self) -> None:
        """A line begins with time, level and role."""
        line = text_lines("frontend")
        self.assertEqual(
            line(event("{what} listens", what="service B")),
            "2026-11-29T12:35:44Z INFO frontend service B listens\n",
        )
        warning = event("careful") | {"log_level": LogLevel.warn}
        self.assertEqual(line(warning), "2026-11-29T12:35:44Z WARN frontend careful\n")

    def test_value_with_a_new_line(self) -> None:
        """No value can begin a line of its own."""
        line = text_lines("worker")(event("{caller}", caller="x\n2026-11-29T12:35:44Z INFO worker"))
        self.assertEqual(len([each for each in line.splitlines() if each.startswith("2026")]), 1)

    def test_other_line_ends(self) -> None:
        """Control characters and Unicode's line separators are escaped; other text is not."""
        for each in SEPARATORS:
            line = text_lines("worker")(event("{caller}", caller=f"Zo\xeb\xa0x{each}2026"))
            self.assertEqual(len(line.splitlines()), 1, repr(each))
            self.assertEqual(line.rpartition(" ")[2], f"Zo\xeb\xa0x{ascii(each)[1:-1]}2026\n")

    def test_control_characters(self) -> None:
        """A value's control characters are escaped, so that it cannot change what a terminal shows
        of the line.
        """
        begin = "2026-11-29T12:35:44Z INFO broker "
        for text, shown in (
            ("X\r\x1b[2K2026-11-30T10Z INFO", r"X\r\x1b[2K2026-11-30T10Z INFO"),
            ("\0\x08\x0b\x0c\x1f\x7f", r"\x00\x08\x0b\x0c\x1f\x7f"),
            ("\x80\x85\x9b\x9f\u2028\u2029", r"\x80\x85\x9b\x9f\u2028\u2029"),
            ("a\tb\\ é\xa0\u2027 😀", "a\tb\\ é\xa0\u2027 😀"),
            ("a\r\nb", "a\\r\n\tb"),
        ):
            for template in ("{line}", "{line}."):  # the first is formatted in a shorter way
                line = text_lines("broker")(event(template, line=text))
                self.assertEqual(line, begin + template.format(line=shown) + "\n")

    def test_traceback(self) -> None:
        """An unexpected error has its traceback."""
        failed = event("could not") | {"log_failure": Failure(ZeroDivisionError("x"))}
        self.assertIn("ZeroDivisionError: x\n", text_lines("worker")(failed))


class Priorities(SynchronousTestCase):
    def test_text(self) -> None:
        """Each line begins with the priority of its event."""
        lines = with_priorities(text_lines("worker"))
        self.assertEqual(
            lines(event("a\nb") | {"log_level": LogLevel.warn}),
            "<4>2026-11-29T12:35:44Z WARN worker a\n<4>\tb\n",
        )

    def test_json(self) -> None:
        """A value stays as it is, with line separators that journald does not know."""
        for each in SEPARATORS:
            line = with_priorities(json_lines("worker"))(event("{path}", path=f"/a{each}b"))
            self.assertEqual((line[:4], line.count("\n")), ("<6>{", 1))
            self.assertEqual(json.loads(line[3:])["message"], f"/a{each}b")


class Json(SynchronousTestCase):
    def parsed(self, text: str, **fields: object) -> Any:
        line = json_lines("worker")(event(text, "rtprov.audit", **fields))
        self.assertEqual(line.count("\n"), 1)
        return json.loads(line)

    def test_fields(self) -> None:
        """The fields of a task have the contract's names. Other values are in the message only."""
        self.assertEqual(
            self.parsed(
                "{state}: task {task_id} for {equipment_id}, {n}",
                event="task.failed",
                state="failed",
                task_id="1de0",
                equipment_id="ABC123456",
                caller="token:billing",
                reason="A answered 500",
                trace="4bf92f3577b34da6a3ce929d0e0e4736",
                n=7,
            ),
            {
                "ts": "2026-11-29T12:35:44.250Z",
                "level": "info",
                "role": "worker",
                "event": "task.failed",
                "task": "1de0",
                "equipment": "ABC123456",
                "caller": "token:billing",
                "reason": "A answered 500",
                "trace": "4bf92f3577b34da6a3ce929d0e0e4736",
                "message": "failed: task 1de0 for ABC123456, 7",
            },
        )

    def test_traceback(self) -> None:
        """A traceback is a field of its own, on the same line."""
        failed = event("could not") | {"log_failure": Failure(ZeroDivisionError("x"))}
        document = json.loads(json_lines("worker")(failed))
        self.assertEqual(document["message"], "could not")
        self.assertIn("ZeroDivisionError: x", document["traceback"])


class Ids(SynchronousTestCase):
    def test_given(self) -> None:
        """The id of a log call is used as it is given."""
        self.assertEqual(event_id(event("x", event="task.completed")), "task.completed")

    def test_derived(self) -> None:
        """Other ids come from the module and the first words, whatever the values are."""
        ids = {
            event_id(event("{what} was lost at {at}", "rtprov.broker.server.X", what=what, at=7))
            for what in ("this", "that")
        }
        self.assertEqual(ids, {"broker.server.was-lost-at"})
        self.assertEqual(event_id({}), "other")

    def test_different(self) -> None:
        """Different log calls of one module have different ids."""
        package = Path(rtprov.__file__).parent
        for file in package.rglob("*.py"):
            namespace = ".".join(file.relative_to(package.parent).with_suffix("").parts)
            texts = set(formats(ast.parse(file.read_text("utf-8"))))
            ids = [event_id({"log_namespace": namespace, "log_format": text}) for text in texts]
            self.assertEqual(len(set(ids)), len(ids), f"give one an event=…: {sorted(ids)}")


def formats(tree: ast.AST) -> list[str]:
    """Return the constant texts of a module's log calls that give no id."""
    return [
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("info", "warn", "error", "critical", "failure", "debug")
        and ast.unparse(node.func.value) in ("_log", "self._log")
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
        and not any(keyword.arg == "event" for keyword in node.keywords)
    ]


class Roles(SynchronousTestCase):
    def test_all_in_one(self) -> None:
        """In a process with all roles, a line has the role that wrote it."""
        for namespace, role in (
            ("rtprov.audit", "frontend"),
            ("rtprov.worker.presence.Presence", "worker"),
            ("rtprov.broker.server.broker", "broker"),
            ("rtprov.equipment.stub", "stub"),
            ("rtprov.tap.listening", "rtprov"),
        ):
            self.assertEqual(role_of(event("x", namespace), ALL_IN_ONE), role)
            self.assertEqual(role_of(event("x", namespace), "worker"), "worker")
        for kind, role in (
            (TaskQueryServer, "worker"),
            (ReportServer, "worker"),
            (StatusServer, "worker"),
            (History, "worker"),
            (StatusClient, "frontend"),
            (ReportClient, "frontend"),
            (CompletionWatcher, "frontend"),
        ):
            self.assertEqual(role_of(event("x", kind._log.namespace), ALL_IN_ONE), role, kind)
        connected = event("x", "rtprov.amqp.client.service.BrokerConnection", name="worker")
        self.assertEqual(role_of(connected, ALL_IN_ONE), "worker")
