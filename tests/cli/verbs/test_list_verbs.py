"""``rtprov tasks``, ``device`` and ``failures``."""

from __future__ import annotations

import csv
import io
import json

from rtprov.cli.verbs.lists import DOWNLOADS
from tests.support.cli_case import URL, VerbTestCase
from tests.support.fake_front_end import Canned, task_document


class Lists(VerbTestCase):
    def test_filters(self) -> None:
        """Each parameter of the request is an option, before or after -o, and may repeat."""
        self.verb(
            "tasks", "--state", "failed", "-o", "json", "--state", "waiting",
            "--equipment-id", "ABC000001", "--ended-after", "2026-11-29T12:00:00Z",
        )  # fmt: skip
        (asked,) = self.front.requests
        self.assertEqual(
            (asked.path, sorted(asked.query)),
            (
                "/api/v1/tasks",
                [
                    ("endedAfter", "2026-11-29T12:00:00Z"),
                    ("equipmentId", "ABC000001"),
                    ("limit", "20"),
                    ("state", "failed"),
                    ("state", "waiting"),
                ],
            ),
        )

    def test_connection_before_the_verb(self) -> None:
        """The options of the connection may stand before the verb; those after it count first."""
        self.process.environ = {"RTPROV_API_URL": "https://elsewhere"}
        self.verb("--url", URL, "--ca", "a.pem", "tasks")
        self.verb("--url", "https://elsewhere", "tasks", "--url", URL, "--ca", "b.pem")
        self.assertEqual(len(self.front.requests), 2)
        self.assertEqual([f"{each.ca}" for each in self.process.profiles], ["a.pem", "b.pem"])

    def test_table(self) -> None:
        """A table has a heading, a row for each task, and no control characters."""
        self.front.tasks = [task_document(1), task_document(2, reason="\x1b[2Jgone")]
        lines = self.verb("tasks").splitlines()
        self.assertEqual(lines[0].split(), ["TASK", "EQUIPMENT", "STATE", "AGE", "NOTE"])
        self.assertIn("ABC000001  failed", lines[1])
        self.assertIn("A answered 500", lines[1])
        self.assertNotIn("\x1b", lines[2])

    def test_formats(self) -> None:
        """JSON is a list, JSONL a task a line, CSV the fields that are not nested."""
        self.front.tasks = [task_document(1), task_document(2, reason="=1+1")]
        self.assertEqual(json.loads(self.verb("tasks", "-o", "json")), self.front.tasks)
        lines = self.verb("-o", "jsonl", "tasks").splitlines()
        self.assertEqual([json.loads(line) for line in lines], self.front.tasks)
        rows = list(csv.DictReader(io.StringIO(self.verb("tasks", "-o", "csv"))))
        self.assertEqual([row["reason"] for row in rows], ["A answered 500", "'=1+1"])
        self.assertNotIn("attempts", rows[0])

    def test_pages(self) -> None:
        """More tasks than a page has are read page by page, and no more than --limit."""
        self.front.tasks = [task_document(number) for number in range(250)]
        shown = json.loads(self.verb("device", "ABC000001", "--limit", "150", "-o", "json"))
        self.assertEqual(shown, self.front.tasks[:150])
        self.assertEqual([dict(each.query)["limit"] for each in self.front.requests], ["100", "50"])
        everything = json.loads(self.verb("tasks", "--all", "-o", "json"))
        self.assertEqual(everything, self.front.tasks)

    def test_empty_page(self) -> None:
        """An empty page that has a next one is not the end: the search ran out of time."""
        empty = {"code": 200, "tasks": [], "next": "/api/v1/tasks?limit=20&before=abc"}
        for verb in (("tasks",), ("device", "ABC000001")):
            last = {"code": 200, "tasks": [task_document(1)], "next": None}
            self.front.answers += [Canned(200, empty), Canned(200, last)]
            shown = json.loads(self.verb(*verb, "-o", "json"))
            self.assertEqual(shown, [task_document(1)])
            self.assertEqual(dict(self.front.requests[-1].query)["before"], "abc")

    def test_the_same_page_again(self) -> None:
        """A list whose next page is the one that was just sent, or none at all, is an error."""
        for following in ("/api/v1/tasks?before=x", "/api/v1/tasks"):
            page = {"code": 200, "tasks": [task_document(1)], "next": following}
            self.front.answers += [Canned(200, page), Canned(200, page)]
            self.verb("tasks", "--all", status=5)
            self.assertIn(following, self.errors)
            self.front.answers.clear()

    def test_download(self) -> None:
        """All tasks as CSV or JSONL are one request, whose bytes are passed on."""
        self.front.tasks = [task_document(number) for number in range(250)]
        self.assertEqual(len(self.verb("tasks", "--all", "-o", "csv").splitlines()), 251)
        self.assertEqual(len(self.verb("tasks", "--all", "-o", "jsonl").splitlines()), 250)
        paths = [each.path for each in self.front.requests]
        self.assertEqual(paths, ["/api/v1/tasks.csv", "/api/v1/tasks.jsonl"])

    def test_failures(self) -> None:
        """Reasons are shown with their counts."""
        self.assertEqual(
            self.verb("failures").split(), ["COUNT", "REASON", "12", "A", "answered", "500"]
        )
        self.assertEqual(self.verb("failures", "-o", "csv"), "reason,count\nA answered 500,12\n")

    def test_refused(self) -> None:
        """The front end's message is the error; its status decides the exit status."""
        for http, status in ((400, 2), (401, 3), (403, 3), (404, 4), (500, 5), (503, 5)):
            self.front.answers.append(Canned(http, {"code": http, "message": "state: no such"}))
            self.assertEqual(self.verb("tasks", status=status), "")
            self.assertEqual(self.errors, "rtprov: state: no such\n")

    def test_incomplete(self) -> None:
        """What no live worker covers is named on standard error."""
        document = {"code": 200, "tasks": [], "next": None, "incomplete": ["1of2"]}
        self.front.answers.append(Canned(200, document))
        self.assertEqual(self.verb("tasks", "-o", "json"), "[]\n")
        self.assertIn('["1of2"]', self.errors)

    def test_incomplete_pages(self) -> None:
        """What any of the pages lacks is named once, also if --limit ends the list."""
        pages = [["1of2"], ["1of2", "0of2 before 2026-11-03T08:15:00.000Z"]]
        for number, incomplete in enumerate(pages):
            following = f"/api/v1/tasks?limit=10&before={number}"
            tasks = [task_document(number) for number in range(10)]
            document = {"tasks": tasks, "next": following, "incomplete": incomplete}
            self.front.answers.append(Canned(200, document))
        self.assertEqual(len(self.verb("tasks", "-o", "jsonl").splitlines()), 20)
        self.assertEqual(
            self.errors,
            'rtprov: no live worker answers for: ["1of2", "0of2 before 2026-11-03T08:15:00.000Z"];'
            " their tasks are missing\n",
        )

    def test_incomplete_download(self) -> None:
        """A download names what it lacks, too."""
        for format in ("csv", "jsonl"):
            headers = {"Content-Type": DOWNLOADS[format], "Rtprov-Incomplete": "0of2, 1of2"}
            self.front.answers.append(Canned(200, b"", headers))
            self.verb("tasks", "--all", "-o", format)
            self.assertIn('answers for: ["0of2", "1of2"]; their tasks', self.errors)

    def test_usage(self) -> None:
        """An unknown option ends with 2, and nothing is asked."""
        self.verb("tasks", "--stat", "failed", status=2)
        self.verb("tasks", "-o", "xml", status=2)
        self.verb("device", status=2)
        self.assertEqual(self.front.requests, [])
