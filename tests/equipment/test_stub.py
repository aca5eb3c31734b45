"""Service A's stub over HTTP: its three answers, its delay, and each way to misbehave."""

from __future__ import annotations

from collections.abc import Sequence

import rtprov.equipment.stub
from rtprov.equipment.scenario import Rule, load_scenario
from rtprov.equipment.stub import Stub
from tests.support.front import BODY, CPE, ID, NO_EQUIPMENT, NO_METHOD, NO_ROUTE
from tests.support.malformed_ids import MALFORMED_IDS
from tests.support.raw_http import RawAnswer, RawClient, WebTestCase, request
from tests.support.request_bodies import NAMED, NOT_JSON, TAKEN

SUCCESS = {"code": 200, "message": "success"}
FAILURE = "Internal provisioning exception"
DELAY_S = 60.0


def patient(timeout_s: int) -> bytes:
    return b'{"timeoutInSeconds": %d, "parameters": {"password": "s3cr3t"}}' % timeout_s


class StubTestCase(WebTestCase):
    """The stub of A, at "b"."""

    honour_timeout = False
    delay_s = DELAY_S
    scenario = ""

    def setUp(self) -> None:
        super().setUp()
        self.stub = Stub(
            clock=self.reactor,
            delay_s=self.delay_s,
            honour_timeout=self.honour_timeout,
            rules=self.rules(),
        )
        self.serve(self.stub.resource())

    def rules(self) -> Sequence[Rule]:
        return load_scenario(self.scenario)

    def call(self, serial: str = ID, body: bytes = BODY) -> RawClient:
        """Begin a call."""
        client = self.connect()
        client.send(request("POST", CPE + serial, body))
        return client

    def answer_after(self, seconds: float, serial: str = ID, body: bytes = BODY) -> RawAnswer:
        """Return the answer of a call, which must come after `seconds` and not before."""
        client = self.call(serial, body)
        self.network.advance(seconds - 0.001)
        self.assertEqual((bytes(client.received), client.lost), (b"", False))
        self.network.advance(0.002)
        (answer,) = client.answers()
        return answer

    def assertConfigured(self, answer: RawAnswer) -> None:
        self.assertEqual(
            (answer.status, answer.json, answer.header("Content-Type")),
            (200, SUCCESS, "application/json"),
        )


class Answers(StubTestCase):
    def test_configured(self) -> None:
        """A well-formed request succeeds after the delay, whatever its timeoutInSeconds."""
        for timeout_s in (1, 14, 59, 60, 61, 1500):
            self.assertConfigured(self.answer_after(DELAY_S, body=patient(timeout_s)))
        self.assertEqual(self.stub.calls, 6)

    def test_every_form_of_body(self) -> None:
        """A accepts the same bodies as B."""
        clients = [self.call(body=body) for body in TAKEN]
        self.network.advance(DELAY_S)
        for client in clients:
            self.assertConfigured(client.answers()[0])

    def test_side_by_side(self) -> None:
        """Calls run in parallel, each with its own delay, also for one serial."""
        first = self.call()
        self.network.advance(30)
        second = self.call()
        self.network.advance(30)
        self.assertConfigured(first.answers()[0])
        self.assertEqual(second.answers(), [])
        self.network.advance(30)
        self.assertConfigured(second.answers()[0])

    def test_malformed_ids(self) -> None:
        """A malformed id is the equipment's 404 at once, whatever the body is."""
        for serial in MALFORMED_IDS:
            for body in (BODY, b"["):
                self.assertError(self.ask("POST", CPE + serial, body), 404, NO_EQUIPMENT)
        self.assertEqual(self.stub.calls, 0)

    def test_unusable_bodies(self) -> None:
        """An invalid body is a 500 at once, since A has no fourth answer."""
        for body in (*NOT_JSON, *(body for body, _ in NAMED)):
            self.assertError(self.ask("POST", CPE + ID, body), 500, FAILURE)
        self.assertEqual(self.stub.calls, 0)

    def test_too_large_and_not_json(self) -> None:
        """A body over the limit is a 413 and another media type a 415, at once."""
        self.assertError(self.ask("POST", CPE + ID, b"x" * 65_537), 413)
        self.assertError(self.ask("POST", CPE + ID, BODY, ["Content-Type: text/plain"]), 415)

    def test_paths_and_methods(self) -> None:
        """Other paths are a 404, and other methods a 405 with Allow. A has no tasks."""
        for path in (
            "/",
            "/api/v1/equipment/cpe",
            CPE + ID + "/",
            CPE + ID + "/task/" + "0" * 32,
            "//" + CPE + ID,
        ):
            self.assertError(self.ask("POST", path, BODY), 404, NO_ROUTE)
        for method in ("GET", "PUT", "DELETE", "OPTIONS", "post"):
            answer = self.ask(method, CPE + ID)
            self.assertError(answer, 405, NO_METHOD)
            self.assertEqual(answer.header("Allow"), "POST")


class Misbehaviour(StubTestCase):
    """Serials with certain prefixes, each of which misbehaves after the delay."""

    def test_not_found(self) -> None:
        """NOTFOUND is A's 404."""
        self.assertError(self.answer_after(DELAY_S, "NOTFOUND"), 404, NO_EQUIPMENT)
        self.assertError(self.answer_after(DELAY_S, "NOTFOUND1"), 404, NO_EQUIPMENT)

    def test_fail(self) -> None:
        """FAIL is A's 500."""
        self.assertError(self.answer_after(DELAY_S, "FAIL00"), 500, FAILURE)

    def test_hang(self) -> None:
        """HANG never answers, and keeps the connection."""
        client = self.call("HANG00")
        self.network.advance(100_000)
        self.assertEqual((bytes(client.received), client.lost), (b"", False))

    def test_drop(self) -> None:
        """DROP closes the connection without an answer, after the delay."""
        client = self.call("DROP00")
        self.network.advance(DELAY_S - 0.001)
        self.assertFalse(client.lost)
        self.network.advance(0.002)
        self.assertEqual((bytes(client.received), client.lost), (b"", True))

    def test_garbage(self) -> None:
        """GARBAGE is a 200 with a body that is not JSON."""
        answer = self.answer_after(DELAY_S, "GARBAGE1")
        self.assertEqual(answer.status, 200)
        with self.assertRaises(ValueError):
            answer.json  # noqa: B018
        self.assertNotIn("html", answer.header("Content-Type") or "")

    def test_busy(self) -> None:
        """BUSY is a 503 with Retry-After the first two times for each serial, then success."""
        for serial in ("BUSY01", "BUSY02"):
            for _ in range(2):
                answer = self.answer_after(DELAY_S, serial)
                self.assertError(answer, 503)
                self.assertEqual(answer.header("Retry-After"), "1")
            for _ in range(2):
                self.assertConfigured(self.answer_after(DELAY_S, serial))

    def test_many_busy_serials(self) -> None:
        """If there are very many serials, the oldest are forgotten, and are busy again."""
        self.patch(rtprov.equipment.stub, "MAX_COUNTED_SERIALS", 2)
        serials = ("BUSY01", "BUSY01", "BUSY01", "BUSY02", "BUSY03", "BUSY01")
        statuses = [self.answer_after(DELAY_S, serial).status for serial in serials]
        self.assertEqual(statuses, [503, 503, 200, 503, 503, 503])

    def test_the_word_begins_the_serial(self) -> None:
        """Only a serial that begins with the word, in capitals, misbehaves."""
        for serial in ("XFAIL00", "fail00", "Fail00", "HUNG00", "NOTFOUN", "00DROP"):
            self.assertConfigured(self.answer_after(DELAY_S, serial))

    def test_at_once_where_the_request_is_bad(self) -> None:
        """For these serials too, an invalid request is refused at once, and does not count."""
        for serial in ("NOTFOUND", "HANG00", "DROP00", "GARBAGE", "BUSY01", "FAIL00"):
            for _ in range(3):
                self.assertError(self.ask("POST", CPE + serial, b"{}"), 500, FAILURE)
        self.assertEqual(self.answer_after(DELAY_S, "BUSY01").status, 503)

    def test_hang_ups(self) -> None:
        """A client that hangs up during the delay, or while A hangs, leaves no timer."""
        for serial in (ID, "HANG00", "DROP00", "BUSY01"):
            for waited_s in (0, 30, DELAY_S + 1):
                client = self.call(serial)
                self.network.advance(waited_s)
                client.hang_up()
                self.assertEqual(self.clock.getDelayedCalls(), [])


class HonouredTimeout(StubTestCase):
    honour_timeout = True

    def test_shorter_than_the_delay(self) -> None:
        """A timeoutInSeconds below the delay gives a 500 after that many seconds."""
        for timeout_s in (1, 14, 59):
            self.assertError(self.answer_after(timeout_s, body=patient(timeout_s)), 500, FAILURE)

    def test_not_shorter(self) -> None:
        """One that is not below the delay changes nothing."""
        for timeout_s in (60, 61, 1500):
            self.assertConfigured(self.answer_after(DELAY_S, body=patient(timeout_s)))
        self.assertError(self.answer_after(DELAY_S, "NOTFOUND", patient(60)), 404, NO_EQUIPMENT)


class NoDelay(StubTestCase):
    delay_s = 0.0

    def test_at_once(self) -> None:
        """Without a delay each answer comes at once."""
        self.assertConfigured(self.call().answers()[0])
        self.assertError(self.call("FAIL00").answers()[0], 500, FAILURE)
        self.assertTrue(self.call("DROP00").lost)
        self.assertEqual(bytes(self.call("HANG00").received), b"")


class Scenario(StubTestCase):
    scenario = """
        [[rule]]
        match = "FAIL01"
        answer = 200

        [[rule]]
        match = "SLOW.*"
        answer = 200
        delay = 90.5

        [[rule]]
        match = "(GONE|AWAY)\\\\d+"
        answer = 404
        delay = 0

        [[rule]]
        match = "SEQ.*"
        answer = 503
        retry_after = 7
        times = 1

        [[rule]]
        match = "SEQ.*"
        answer = 500
        times = 2

        [[rule]]
        match = "SEQ9.*"
        answer = "garbage"

        [[rule]]
        match = "BARE.*"
        answer = 503

        [[rule]]
        match = "MUTE.*"
        answer = "hang"

        [[rule]]
        match = "CUT.*"
        answer = "drop"
        delay = 5
    """

    def test_before_the_built_in_rules(self) -> None:
        """A scenario's rule comes before a built-in one. Serials that match none use the built-in
        rules.
        """
        self.assertConfigured(self.answer_after(DELAY_S, "FAIL01"))
        self.assertError(self.answer_after(DELAY_S, "FAIL012"), 500, FAILURE)
        self.assertConfigured(self.answer_after(DELAY_S, ID))

    def test_delay(self) -> None:
        """A rule's delay replaces the stub's."""
        self.assertConfigured(self.answer_after(90.5, "SLOW01"))
        self.assertError(self.call("GONE01").answers()[0], 404, NO_EQUIPMENT)

    def test_whole_serial(self) -> None:
        """`match` must match the whole serial."""
        self.assertError(self.call("AWAY01").answers()[0], 404, NO_EQUIPMENT)
        for serial in ("AWAY01x", "xAWAY01"):
            self.assertConfigured(self.answer_after(DELAY_S, serial))

    def test_times(self) -> None:
        """A rule is used `times` times for each serial. Then the rules after it apply."""
        for serial in ("SEQ000", "SEQ111"):
            busy = self.answer_after(DELAY_S, serial)
            self.assertError(busy, 503)
            self.assertEqual(busy.header("Retry-After"), "7")
            for _ in range(2):
                self.assertError(self.answer_after(DELAY_S, serial), 500, FAILURE)
            self.assertConfigured(self.answer_after(DELAY_S, serial))
        statuses = [self.answer_after(DELAY_S, "SEQ900").status for _ in range(4)]
        self.assertEqual(statuses, [503, 500, 500, 200])

    def test_503_without_retry_after(self) -> None:
        """A 503 without `retry_after` has no Retry-After field."""
        answer = self.answer_after(DELAY_S, "BARE01")
        self.assertError(answer, 503)
        self.assertIsNone(answer.header("Retry-After"))

    def test_hang_and_drop(self) -> None:
        """A rule can hang, or drop the connection."""
        hanging, dropped = self.call("MUTE01"), self.call("CUT001")
        self.network.advance(4)
        self.assertFalse(dropped.lost)
        self.network.advance(1)
        self.assertEqual((dropped.lost, bytes(dropped.received)), (True, b""))
        self.network.advance(10_000)
        self.assertEqual((hanging.lost, bytes(hanging.received)), (False, b""))


class HonouredTimeoutOfARule(StubTestCase):
    honour_timeout = True
    scenario = (
        '[[rule]]\nmatch = "SLOW.*"\nanswer = 200\ndelay = 90\n\n[[rule]]\nmatch ='
        ' "QUICK.*"\nanswer = 200\ndelay = 5'
    )

    def test_the_delay_that_counts(self) -> None:
        """`timeoutInSeconds` is compared with the rule's delay."""
        self.assertError(self.answer_after(61, "SLOW01", patient(61)), 500, FAILURE)
        self.assertConfigured(self.answer_after(5, "QUICK1", patient(14)))


class AnswersInPieces(Answers):
    piece = 1
