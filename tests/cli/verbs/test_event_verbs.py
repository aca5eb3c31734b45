"""``rtprov events``, and the stream that it shares with ``rtprov top``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.trial.unittest import SynchronousTestCase

from rtprov.cli.api import Api
from rtprov.cli.profile import Profile
from rtprov.cli.sse import Parser, StreamBroken, events
from rtprov.cli.verbs.top import Screen
from tests.support.cli_case import VerbTestCase
from tests.support.fake_front_end import SUMMARY, Canned, task_document


class Events(VerbTestCase):
    def test_until_the_first_summary(self) -> None:
        """Without -f, the verb ends after the first summary."""
        line = self.verb("events", "-o", "jsonl")
        self.assertEqual(json.loads(line), {"event": "summary", "id": "0", "data": SUMMARY})
        self.assertIn("waiting 812, calling 10, retrying 3; done in", self.verb("events"))

    def test_csv(self) -> None:
        """CSV has a header line; what an event does not have is an empty cell."""

        def script() -> None:
            self.clock.callLater(5, self.front.send, "task", task_document(1, "=1,2"), "7")
            self.clock.callLater(6, self.front.answers.append, Canned(403, {"message": "no"}))
            self.clock.callLater(7, self.front.hang_up)

        self.process.at_start = script
        rows = list(csv.reader(io.StringIO(self.verb("events", "-f", "-o", "csv", status=3))))
        self.assertEqual(
            rows,
            [
                ["event", "id", "taskId", "equipmentId", "state"],
                ["summary", "0", "", "", ""],
                ["task", "7", f"{1:032x}", "ABC000001", "'=1,2"],
            ],
        )

    def test_follow(self) -> None:
        """With -f, events are written as they come, and a lost stream is opened where it ended."""

        def script() -> None:
            self.clock.callLater(5, self.front.send, "task", task_document(1), "7")
            self.clock.callLater(6, self.front.hang_up)
            self.clock.callLater(20, self.front.send, "skipped", {"count": 12}, "8")
            self.clock.callLater(30, self.front.answers.append, Canned(403, {"message": "no"}))
            self.clock.callLater(31, self.front.hang_up)

        self.process.at_start = script
        written = self.verb("events", "-f", "--kind", "task", "--kind", "skipped", status=3)
        lines = written.splitlines()
        self.assertEqual(len(lines), 2, written)
        self.assertIn("ABC000001 failed: A answered 500", lines[0])
        self.assertIn("count 12", lines[1])
        asked = [each.headers.get("last-event-id") for each in self.front.requests]
        self.assertEqual(asked[:2], [None, "7"])
        self.assertIn("opening it again", self.errors)

    def test_silent(self) -> None:
        """A stream that is silent for a minute is opened again."""
        self.process.at_start = lambda: None

        def script() -> None:
            self.clock.callLater(70, self.front.answers.append, Canned(403, {"message": "no"}))
            self.clock.callLater(71, self.front.hang_up)

        self.process.at_start = script
        self.verb("events", "-f", status=3)
        self.assertEqual(len(self.front.requests), 3)

    def test_refused(self) -> None:
        """A front end that has no events ends the verb at once."""
        self.front.answers.append(Canned(404, {"code": 404, "message": "There is nothing"}))
        self.verb("events", "-f", status=4)

    def test_kinds(self) -> None:
        """A kind that does not exist, such as a misspelt one, is refused."""
        self.verb("events", "--kind", "tasks", status=2)
        self.assertIn("'tasks' is not one of 'summary', 'task', 'skipped'", self.errors)
        self.assertEqual(self.front.requests, [])

    def test_not_sent(self) -> None:
        """A request that cannot be made is not made again."""
        http, _ = self.process.http(Profile("https://b", Path("ca.pem")))
        api = Api(http, "https://b", cast("IReactorTime", self.clock), self.process.now)
        first = cast("Coroutine[Any, Any, Any]", anext(events(api, last_id="\udcff")))
        self.failureResultOf(Deferred.fromCoroutine(first), UnicodeEncodeError)


class Parsing(SynchronousTestCase):
    def test_pieces(self) -> None:
        """Events are found however the bytes are cut; comments and unknown fields are ignored."""
        stream = b': hello\nretry: 5\nevent: task\r\nid: 3\r\ndata: {"a":\ndata: 1}\n\ndata:2\n\n'
        for size in (1, 3, len(stream)):
            parser, found = Parser(), []
            for start in range(0, len(stream), size):
                found += list(parser.feed(stream[start : start + size]))
            kinds = [(each.kind, each.id, each.data) for each in found]
            self.assertEqual(kinds, [("task", "3", {"a": 1}), ("message", "3", 2)])

    def test_broken(self) -> None:
        """What is no event is an error."""
        self.assertRaises(StreamBroken, list, Parser().feed(b"data: {\n\n"))
        self.assertRaises(StreamBroken, list, Parser().feed(b"x" * 2_000_000))


class Screens(SynchronousTestCase):
    def test_bounded(self) -> None:
        """The screen keeps a minute of numbers and the newest ends, and no growing list."""
        from rtprov.cli.sse import ServerEvent

        screen = Screen("https://b")
        for number in range(500):
            screen.take(ServerEvent("summary", None, SUMMARY))
            screen.take(ServerEvent("task", None, task_document(number)))
        self.assertEqual((len(screen.waiting), len(screen.ends)), (60, 100))
        screen.take(None)
        self.assertIn("connection is lost", screen.warning)
        screen.take(ServerEvent("summary", None, SUMMARY))
        self.assertEqual(screen.warning, "")
