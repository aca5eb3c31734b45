"""Audit lines for refused requests: one for each, at a limited rate."""

from __future__ import annotations

import json
from datetime import date
from typing import cast

from twisted.logger import (
    ILogObserver,
    LogEvent,
    capturedLogs,
    formatEvent,
    globalLogPublisher,
)

from rtprov.http.admission import Admission
from rtprov.http.refusals import Refusals
from rtprov.http.site import JsonSite
from rtprov.model import Requested
from rtprov.security.limits import Rate
from rtprov.security.tokens import Role, new_token
from rtprov.tap.log_lines import json_lines
from tests.support.front import BODY, GET_PATH, ID, POST_PATH, TASK, FrontendTestCase
from tests.support.raw_http import request


class Refused(FrontendTestCase):
    per_s: float | None = None

    def setUp(self) -> None:
        super().setUp()
        self.lines: list[str] = []
        observer = cast("ILogObserver", self._audit)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        billing, self.billing = new_token("billing")
        dash, self.dash = new_token("dash", role=Role.READ)
        rate = None if self.per_s is None else Rate(self.per_s)
        self.admission = Admission(
            now=self.clock.seconds, wall_clock=self.clock.seconds, tokens=(billing, dash), rate=rate
        )
        site = JsonSite(
            self.frontend.resource(),
            reactor=self.reactor,
            admission=self.admission,
            refusals=Refusals(self.reactor),
        )
        self.network.listen("b").listen(site)

    def _audit(self, event: LogEvent) -> None:
        if event["log_namespace"] == "rtprov.audit":
            self.lines.append(formatEvent(event))

    def taken(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines

    def bearer(self, token: str) -> str:
        return f"Authorization: Bearer {token}"


class Lines(Refused):
    def test_who_what_why(self) -> None:
        """A line has status, method, device and task, caller and reason."""
        missing = "Credentials are required: send Authorization: Bearer TOKEN"
        self.ask("GET", GET_PATH)
        self.assertEqual(
            self.taken(), [f"refused with 401: GET {GET_PATH} from address:127.0.0.1: {missing}"]
        )
        self.post(BODY, self.bearer("wr0ng"))
        self.assertEqual(
            self.taken(),
            [
                f"refused with 401: POST {POST_PATH} from address:127.0.0.1: The credentials are"
                " not valid"
            ],
        )
        self.post(BODY, self.bearer(self.dash))
        low = (
            "These credentials do not allow this request: it needs the role order, and they have"
            " the role read"
        )
        self.assertEqual(
            self.taken(), [f"refused with 403: POST {POST_PATH} from token:dash: {low}"]
        )
        self.store.apply(Requested(TASK, ID, 1000.0, caller="token:other"))
        self.ask("DELETE", GET_PATH, None, [self.bearer(self.billing)])
        (line,) = self.taken()
        self.assertTrue(
            line.startswith(f"refused with 403: DELETE {GET_PATH} from token:billing: "), line
        )
        self.post(BODY, self.bearer(self.billing), "Origin: null")
        (line,) = self.taken()
        self.assertTrue(
            line.startswith(f"refused with 403: POST {POST_PATH} from token:billing: "), line
        )

    def test_fields(self) -> None:
        """The line has the device and the task that the path names as fields of JSON."""
        for path, equipment, task in (
            (GET_PATH, ID, TASK),
            (POST_PATH, ID, None),
            (f"/api/v1/tasks/{TASK}", None, TASK),
            ("/api/v1/tasks", None, None),
            (f"/api/v1/tasks/{self.billing}", None, None),
        ):
            with capturedLogs() as events:
                self.ask("GET", path)
            (event,) = (each for each in events if each["log_namespace"] == "rtprov.audit")
            line = json.loads(json_lines("frontend")(event))
            self.assertEqual(line["event"], "request.refused")
            self.assertEqual((line.get("equipment"), line.get("task")), (equipment, task), path)
            self.assertEqual(line["caller"], "address:127.0.0.1")

    def test_no_caller(self) -> None:
        """Without a known caller, the text says so, and JSON lacks the field."""
        with capturedLogs() as events:
            Refusals(self.reactor).note(401, b"GET", b"/", None, "why")
        line = json.loads(json_lines("frontend")(events[0]))
        self.assertNotIn("caller", line)
        self.assertIn(" from an unknown caller: why", line["message"])

    def test_long_ids(self) -> None:
        """A device's id may have any length. The line has the beginning of a very long one."""
        for length, shown in ((65, "A" * 65), (256, "A" * 256), (300, "A" * 256 + "…")):
            self.ask("GET", f"/api/v1/equipment/cpe/{'A' * length}/task/{TASK}")
            self.assertIn(f"GET /api/v1/equipment/cpe/{shown}/task/{TASK} from", self.taken()[0])

    def test_expired(self) -> None:
        """The line for an expired token says so and names its owner. The token is not shown, and
        the client does not learn its owner.
        """
        expired, secret = new_token("former", expires=date(1970, 1, 1))
        self.admission.tokens = (expired,)
        self.network.advance(86_400.0)
        for headers in ((), ("Expect: 100-continue",)):
            answer = self.post(BODY, self.bearer(secret), *headers)
            self.assertError(answer, 401, "The credentials are not valid")
            why = "The credentials have expired: token:former was let in until 1970-01-01 (UTC)"
            self.assertEqual(
                self.taken(), [f"refused with 401: POST {POST_PATH} from address:127.0.0.1: {why}"]
            )

    def test_before_the_body(self) -> None:
        """A request that is refused before its body is read gives a line too."""
        self.say(
            request(
                "POST", POST_PATH + "?x=s3cr3t", None, ["Expect: 100-continue", "Content-Length: 9"]
            )
        )
        (line,) = self.taken()
        self.assertTrue(
            line.startswith(f"refused with 401: POST {POST_PATH} from address:127.0.0.1: "), line
        )

    def test_nothing_secret(self) -> None:
        """Queries and unknown paths are not shown, because they may contain secrets such as a
        token.
        """
        for path in (
            f"/{self.billing}",
            f"/api/v1/{self.billing}",
            f"/x?token={self.billing}",
            "/a%0Ab",
            "*",
        ):
            self.ask("GET", path)
        lines = self.taken()
        self.assertEqual(len(lines), 5)
        self.assertEqual([line for line in lines if self.billing in line or "%" in line], [])
        self.ask("GET", "/api/v1/summary")
        self.assertIn("GET /api/v1/summary from", self.taken()[0])

    def test_others(self) -> None:
        """Other errors give no such line."""
        for path in ("/nothing", f"/api/v1/tasks/{TASK}", f"/api/v1/equipment/cpe/{ID}/task?x=y"):
            self.ask("GET", path, None, [self.bearer(self.billing)])
        self.assertEqual(self.taken(), [])

    def test_a_flood(self) -> None:
        """There are at most ten lines a second. The number of further ones is logged once, at the
        end of the second.
        """
        for _ in range(50):
            self.ask("GET", GET_PATH)
        self.post(BODY, self.bearer(self.dash))
        self.assertEqual(len(self.taken()), 10)
        self.network.advance(1.0)
        self.assertEqual(
            self.taken(), ["refused 41 more requests within a second: 40 with 401, 1 with 403"]
        )
        self.network.advance(5.0)
        self.assertEqual(self.taken(), [])
        self.ask("GET", GET_PATH)
        self.assertEqual(len(self.taken()), 1)

    def test_a_long_flood(self) -> None:
        """Over any time there are at most ten lines a second, and numbers for all others."""
        for _ in range(40):
            for _ in range(5):
                self.ask("GET", GET_PATH)
            self.network.advance(0.1)
        self.network.advance(1.0)
        lines = self.taken()
        single = sum(line.startswith("refused with") for line in lines)
        self.assertLessEqual(single, 50)
        self.assertEqual(
            single + sum(int(line.split()[1]) for line in lines if "more requests" in line), 200
        )


class Rates(Refused):
    per_s = 0.5

    def test_too_many(self) -> None:
        """The caller of a request over the rate limit is the one that was counted."""
        for _ in range(2):
            self.ask("GET", GET_PATH, None, [self.bearer(self.billing)])
        self.assertEqual(
            self.taken(),
            [f"refused with 429: GET {GET_PATH} from token:billing: Too many requests"],
        )
