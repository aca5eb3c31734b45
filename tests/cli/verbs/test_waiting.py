"""``rtprov wait`` with several tasks, and with answers that are not about a task."""

from __future__ import annotations

import json
from typing import Any

from tests.support.cli_case import VerbTestCase
from tests.support.fake_front_end import Canned, task_document

DONE = Canned(200, {"code": 200, "message": "Completed"})
FAILED = Canned(500, {"code": 500, "message": "Internal provisioning exception"})
RUNNING = Canned(200, {"code": 204, "message": "Task is still running"}, {"Retry-After": "60"})
UNKNOWN = Canned(404, {"code": 404, "message": "The requested task is not found"})
FIRST, SECOND = (("ABC000001", f"{1:032x}"), ("ABC000002", f"{2:032x}"))


class Several(VerbTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.front.tasks = [task_document(1, "completed"), task_document(2, "failed")]

    def shown(self, *answers: Canned, status: int, options: tuple[str, ...] = ()) -> Any:
        """Return what is shown of two tasks, about which the front end answers so."""
        self.front.answers.extend(answers)
        return json.loads(self.verb("wait", *FIRST, *SECOND, "-o", "json", *options, status=status))

    def test_list(self) -> None:
        """JSON is a list if several tasks were asked for, however many have ended."""
        found = self.shown(DONE, RUNNING, status=6, options=("--timeout", "3"))
        self.assertEqual([row["taskId"] for row in found], [FIRST[1]])
        self.assertIn("1 of 2 tasks had not ended after 3 s", self.errors)
        self.assertEqual(self.verb("wait", "-o", "json", text=""), "[]\n")

    def test_object(self) -> None:
        """JSON is an object if one task was asked for."""
        self.front.answers.append(DONE)
        found = json.loads(self.verb("wait", *FIRST, "-o", "json"))
        self.assertEqual(found["taskId"], FIRST[1])

    def test_unknown(self) -> None:
        """A task that is unknown hides no other one; 1 comes before 4."""
        found = self.shown(UNKNOWN, FAILED, status=1)
        self.assertEqual([row["taskId"] for row in found], [SECOND[1]])
        self.assertIn(f"{FIRST[1]}: The requested task is not found\n", self.errors)
        self.assertEqual(len(self.shown(DONE, UNKNOWN, status=4)), 1)
        self.assertEqual(self.shown(UNKNOWN, UNKNOWN, status=4), [])
        self.assertEqual(self.errors.count("not found"), 2)

    def test_not_allowed(self) -> None:
        """An error that is not about one task ends the verb, which shows what has ended."""
        refused = Canned(403, {"code": 403, "message": "Forbidden"})
        self.assertEqual(len(self.shown(DONE, refused, status=3)), 1)
        self.assertEqual(self.errors, "rtprov: Forbidden\n")

    def test_too_many_requests(self) -> None:
        """A 429 is waited for as long as its Retry-After says, like a 503."""
        for status in (429, 503):
            answer = Canned(status, {"code": status, "message": "Busy"}, {"Retry-After": "40"})
            self.front.answers.extend([answer, DONE])
            before = self.clock.seconds()
            self.verb("wait", *FIRST)
            self.assertAlmostEqual(self.clock.seconds() - before, 40.0, delta=1.0)
            self.assertEqual(self.errors, "rtprov: Busy\n")

    def test_internal_error(self) -> None:
        """An internal error of service B ends no task: it is asked again for a minute, then 5."""
        broken = Canned(500, {"code": 500, "message": "Internal server error"})
        self.front.answers.extend([broken, broken, DONE])
        found = json.loads(self.verb("wait", *FIRST, "-o", "json"))
        self.assertEqual(found["state"], "completed")
        self.assertIn("rtprov: https://b: Internal server error\n", self.errors)
        before = self.clock.seconds()
        self.front.answers.extend([broken] * 100)
        self.assertEqual(self.verb("wait", *FIRST, status=5), "")
        self.assertAlmostEqual(self.clock.seconds() - before, 61.0, delta=2.0)

    def test_malformed(self) -> None:
        """Malformed ids are refused, and are no task that has ended; they hide no other one."""
        for ids, malformed, what in (
            (("AB", FIRST[1]), "AB", "equipment"),
            ((FIRST[0], "1"), "1", "task"),
            ((FIRST[0], "failures"), "failures", "task"),
        ):
            for verb in ("wait", "status"):
                self.assertEqual(self.verb(verb, *ids, status=4), "")
                words = f"'{malformed}': The requested {what} is not found: the id is malformed"
                self.assertIn(words, self.errors)
        self.assertEqual(self.front.requests, [])
        self.front.answers.append(DONE)
        found = json.loads(self.verb("wait", *FIRST, "AB", SECOND[1], "-o", "json", status=4))
        self.assertEqual([row["taskId"] for row in found], [FIRST[1]])

    def test_other_service(self) -> None:
        """An answer of another service that speaks JSON is named as such."""
        documents: list[Any] = [[], {}, {"code": "x"}, None]
        for document in documents:
            self.front.answers.append(Canned(200, document))
            self.assertEqual(self.verb("wait", *FIRST, status=5), "")
            self.assertIn("has no code: is this service B of rtprov?", self.errors)
