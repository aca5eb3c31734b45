"""How the command line repeats requests, and what it does about answers that it cannot use."""

from __future__ import annotations

import json
from typing import Any, cast

from tests.support.cli_case import VerbTestCase
from tests.support.fake_front_end import Canned

BUSY = {"code": 429, "message": "Too many requests"}
AWAY = {"code": 503, "message": "No broker"}
BODY = ("--vlan", "5")


class Repeating(VerbTestCase):
    def test_retry_after(self) -> None:
        """A GET waits as long as Retry-After says, in seconds or as a date, and is sent again."""
        self.front.answers += [
            Canned(503, AWAY, {"Retry-After": "7"}),
            Canned(429, BUSY, {"Retry-After": "Fri, 15 Jan 2027 08:00:19 GMT"}),
        ]
        self.verb("summary")
        self.assertEqual(len(self.front.requests), 3)
        self.assertAlmostEqual(self.clock.seconds(), 19.0, delta=1.0)
        self.assertIn("rtprov: No broker; trying again in 7 s\n", self.errors)

    def test_odd_retry_after(self) -> None:
        """A date that does not exist counts as 1 s, and a huge number as the longest pause."""
        for text in ("soon", f"Thu, 01 Jan {10**27} 00:00:00 GMT", "Thu, 32 Jan 2027 00:00:00 GMT"):
            began_at = self.clock.seconds()
            self.front.answers.append(Canned(503, AWAY, {"Retry-After": text}))
            self.verb("summary")
            self.assertAlmostEqual(self.clock.seconds() - began_at, 1.0, delta=0.1)
        self.front.answers.append(Canned(503, AWAY, {"Retry-After": "9" * 400}))
        self.verb("summary", "--retry-for", "5000")
        self.assertIn("trying again in 3600 s", self.errors)

    def test_not_for_ever(self) -> None:
        """A pause that goes beyond --retry-for is not made; the verb ends with 5."""
        self.front.answers.append(Canned(503, AWAY, {"Retry-After": "31"}))
        self.verb("summary", status=5)
        self.front.answers.append(Canned(503, AWAY, {"Retry-After": "1"}))
        self.verb("summary", "--retry-for", "0", status=5)
        self.assertEqual(len(self.front.requests), 2)

    def test_order_is_not_repeated(self) -> None:
        """A 503 may have made a task, so an order is repeated only with an Idempotency-Key."""
        self.front.answers.append(Canned(503, AWAY, {"Retry-After": "1"}))
        self.verb("order", "ABC123456", *BODY, status=5)
        self.assertEqual(len(self.front.requests), 1)
        self.front.answers += [
            Canned(503, AWAY, {"Retry-After": "1"}),
            Canned(200, {"code": 200, "taskId": "f" * 32}),
        ]
        self.verb("order", "ABC123456", *BODY, "--idempotency-key", "k")
        self.assertEqual(
            [each.headers.get("idempotency-key") for each in self.front.requests[1:]], ["k", "k"]
        )

    def test_refused_order_is_repeated(self) -> None:
        """A 429 has made no task, so an order is repeated."""
        self.front.answers += [
            Canned(429, BUSY, {"Retry-After": "1"}),
            Canned(200, {"code": 200, "taskId": "f" * 32}),
        ]
        self.assertEqual(self.verb("order", "ABC123456", *BODY), "f" * 32 + "\n")


class NotUtf8(VerbTestCase):
    """Input that is not UTF-8 ends with 2 and one line, and nothing is sent."""

    def test_arguments(self) -> None:
        """It is the same for each argument and option that would be sent."""
        task, bad = ("ABC123456", "f" * 32), "x\udcff"
        for name, arguments in (
            ("EQUIPMENT", ("device", bad)),
            ("EQUIPMENT", ("order", bad, *BODY)),
            ("TASK", ("status", "ABC123456", bad)),
            ("--reason", ("tasks", "--reason", bad)),
            ("--reason", ("failures", "--reason", bad)),
            ("--reason", ("cancel", *task, "--reason", bad)),
            ("--before", ("tasks", "--before", bad)),
            ("--idempotency-key", ("order", "ABC123456", *BODY, "--idempotency-key", bad)),
            ("--last-event-id", ("events", "-f", "--last-event-id", bad)),
            ("--equipment-url", ("doctor", "--equipment-url", bad)),
            ("TASK", ("wait", *task, bad, "f" * 32)),
        ):
            self.verb(*arguments, status=2)
            self.assertRegex(self.errors, f"^rtprov: .*{name}.*: not valid UTF-8\n$")
        self.assertEqual(self.front.requests, [])

    def test_paths(self) -> None:
        """The path of a file may have any bytes."""
        file = self.folder / "token\udcff"
        file.write_text("secret-token\n")
        self.verb("summary", "--token-file", str(file))
        self.assertEqual(self.front.requests[-1].headers["authorization"], "Bearer secret-token")
        file.write_text('{"parameters": [{"vlan": 5}]}')
        self.front.answers.append(Canned(200, {"code": 200, "taskId": "f" * 32}))
        self.verb("order", "ABC123456", "--body", str(file))

    def test_standard_input(self) -> None:
        """Lines of tasks are UTF-8, with or without a byte order mark."""
        for content in (b"ABC\xff01 x", "ABC123456 x".encode("utf-16")):
            self.verb("wait", status=2, text=content)
            self.assertIn("standard input: cannot read the tasks: it is not UTF-8", self.errors)
            self.assertEqual(self.errors.count("\n"), 1)


class Parameters(VerbTestCase):
    def sent(self, *values: str) -> Any:
        """Return the parameters of an order with these values, as the front end gets them."""
        self.front.answers.append(Canned(200, {"code": 200, "taskId": "f" * 32}))
        options = [
            word
            for number, value in enumerate(values)
            for word in ("--parameter", f"p{number}={value}")
        ]
        self.verb("order", "ABC123456", *options)
        body = json.loads(self.front.requests[-1].body)
        return [value for each in body["parameters"] for value in each.values()]

    def test_values(self) -> None:
        """JSON is sent as such; what is not, or is a number that would change, as a string."""
        self.assertEqual(
            self.sent("5", "-1.5", "true", "null", '"5"', '{"a":[1,{}]}', "x=y", ""),
            [5, -1.5, True, None, "5", {"a": [1, {}]}, "x=y", ""],
        )
        for text in (
            "1.10", "1e5", "1e400", "-0", "007", "9007199254740993.0", " 5", "NaN", "-Infinity",
            "[NaN]", "[" * 100_000,
        ):  # fmt: skip
            self.assertEqual(self.sent(text), [text])
        self.assertEqual(self.sent('{"firmware":1.10}'), [{"firmware": "1.10"}])

    def test_given_twice(self) -> None:
        """A parameter that is given twice is named, and nothing is sent."""
        for options in (
            ("--parameter", "vlan=1", "--parameter", "vlan=2"),
            ("--vlan", "5", "--parameter", "vlan=6"),
            ("--parameter", 'x={"vlan":1,"vlan":2}'),
        ):
            self.verb("order", "ABC123456", *options, status=2)
            self.assertIn("vlan is given twice", self.errors)
        self.assertEqual(self.front.requests, [])


class Answers(VerbTestCase):
    def test_out_of_reach(self) -> None:
        """A front end that nothing listens for ends the verb with 5."""
        self.network.factories.clear()
        self.verb("summary", status=5)
        self.assertIn("rtprov: https://b: Connection was refused by other side", self.errors)

    def test_any_host(self) -> None:
        """The host may be an IPv6 address, or contain an underscore."""
        for host, netloc in (("::1", "[::1]:8443"), ("my_front", "my_front:8443")):
            self.network.listen(host).listen(self.site)
            self.process.environ = {"RTPROV_API_URL": f"https://{netloc}/behind"}
            self.front.answers.append(Canned(200, {"summary": self.front.summary}))
            self.verb("summary")
            asked = self.front.requests[-1]
            self.assertEqual(
                (asked.headers["host"], asked.path), (netloc, "/behind/api/v1/summary")
            )

    def test_silent(self) -> None:
        """A front end that does not answer ends the verb with 5 after 15 s."""
        self.process.at_start = lambda: setattr(self.front, "render", lambda request: 1)
        self.verb("summary", status=5)
        self.assertAlmostEqual(self.clock.seconds(), 15.0, delta=2.0)

    def test_not_rtprov(self) -> None:
        """An answer that is not JSON is named as such."""
        self.front.answers.append(Canned(200, b"<html>"))
        self.verb("summary", status=5)
        self.assertIn("is this service B of rtprov?", self.errors)

    def test_other_service(self) -> None:
        """So is an answer of another service that speaks JSON."""
        task = ("ABC123456", "f" * 32)
        for document in (
            [], [1], {}, None, "x", {"ok": True}, {"summary": 1, "tasks": [1], "failures": {}},
            b"", b"[" * 100_000,
        ):  # fmt: skip
            for verb in (
                ("summary",), ("tasks",), ("device", "ABC123456"), ("failures",),
                ("order", "ABC123456", *BODY), ("status", *task), ("cancel", *task),
                ("events", "-f"), ("tasks", "--all", "-o", "csv"),
                ("tasks", "--all", "-o", "jsonl"),
            ):  # fmt: skip
                self.front.answers.append(Canned(200, document))
                self.assertEqual(self.verb(*verb, status=5), "")
                self.assertIn("is this service B of rtprov?", self.errors)
                self.assertEqual(self.errors.count("\n"), 1)

    def test_odd_fields(self) -> None:
        """Fields of a list that are not service B's end no verb in a traceback."""
        odd = {"tasks": [], "failures": [{}], "next": 5, "incomplete": 5}
        self.front.answers += [Canned(200, odd), Canned(200, odd)]
        self.verb("tasks", status=5)
        self.verb("failures")

    def test_redirection(self) -> None:
        """A redirection, such as a proxy's to its log-in, is no success: it is named, with 5."""
        to = {"Location": "https://sso.example/\x1b"}
        for status, body in ((302, b""), (307, b"<html>"), (301, {"code": 200, "taskId": "f"})):
            for verb in (
                ("cancel", "ABC123456", "f" * 32),
                ("tasks", "--all", "-o", "csv"),
                ("summary",),
                ("order", "ABC123456", *BODY),
                ("status", "ABC123456", "f" * 32),
                ("tasks",),
                ("wait", "ABC123456", "f" * 32),
                ("events",),
            ):
                self.front.answers.append(Canned(status, body, to))
                self.assertEqual(self.verb(*verb, status=5), "")
                words = f"redirection (HTTP {status}) to https://sso.example/\ufffd: is this"
                self.assertIn(words, self.errors)
                self.assertEqual(self.errors.count("\n"), 1)
        self.front.answers.append(Canned(304, b""))
        self.verb("summary", status=5)
        self.assertIn("redirection (HTTP 304): is this service B of rtprov?", self.errors)
        self.assertLess(self.clock.seconds(), 5.0)

    def test_cut_refusal(self) -> None:
        """A refused download whose message stays away ends with 5."""

        def refuse(request: Any) -> int:
            request.setResponseCode(500)
            request.write(b"{")
            return 1

        self.process.at_start = lambda: setattr(self.front, "render", refuse)
        self.verb("tasks", "--all", "-o", "csv", status=5)
        self.assertIn("nothing arrived for 15 s", self.errors)

    def test_lost_order(self) -> None:
        """An order whose answer is lost may have been accepted, and the error says so."""
        self.process.at_start = lambda: setattr(self.front, "render", lambda request: 1)
        self.verb("order", "ABC123456", *BODY, status=5)
        self.assertIn("the order may have been accepted", self.errors)

    def test_cut_order(self) -> None:
        """An order whose connection is lost while it is written may have been accepted."""

        def cut() -> None:
            self.network.connections[-1][1].cut()

        self.process.at_start = lambda: cast("Any", self.clock.callLater)(0, cut)
        self.verb("order", "ABC123456", *BODY, status=5)
        self.assertIn("the order may have been accepted", self.errors)

    def test_marks(self) -> None:
        """A byte order mark belongs to neither the password nor the body."""
        file = self.folder / "file"
        for option, text, sent in (
            ("--password-file", "пароль\r\n", {"password": "пароль"}),
            ("--body", '{"parameters": [{"vlan": 5}]}', {"vlan": 5}),
        ):
            file.write_text(f"\ufeff{text}")
            self.front.answers.append(Canned(200, {"code": 200, "taskId": "f" * 32}))
            self.verb("order", "ABC123456", option, str(file))
            body = json.loads(self.front.requests[-1].body)
            self.assertEqual(body["parameters"], [sent])
        file.write_bytes("пароль".encode("cp1251"))
        self.verb("order", "ABC123456", "--password-file", str(file), status=2)
        self.assertIn("--password-file: cannot read the password: it is not UTF-8", self.errors)

    def test_token(self) -> None:
        """The token is read from a file, sent, and never shown."""
        file = self.folder / "token"
        file.write_text("secret-token\n")
        self.verb("summary", "--token-file", str(file))
        (asked,) = self.front.requests
        self.assertEqual(asked.headers["authorization"], "Bearer secret-token")
        file.write_text("\ufeffsecret-token\r\n")
        self.verb("summary", "--token-file", str(file))
        self.assertEqual(self.front.requests[-1].headers["authorization"], "Bearer secret-token")
        file.write_text("secret-token", "utf-16")
        self.verb("summary", "--token-file", str(file), status=2)
        self.assertIn("cannot read the token: it is not UTF-8 text (UTF-16?)", self.errors)
        file.write_text("billing sha256:" + "0" * 64)
        self.verb("summary", "--token-file", str(file), status=2)
        self.assertIn("expected one token", self.errors)
