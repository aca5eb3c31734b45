"""Paths and methods. Every request that is not served gets a JSON error and makes no task."""

from __future__ import annotations

from rtprov.model import State
from tests.support.front import (
    CPE,
    GET_PATH,
    NO_EQUIPMENT,
    NO_METHOD,
    NO_ROUTE,
    NO_TASK,
    POST_PATH,
    TASK,
    FrontendTestCase,
)
from tests.support.malformed_ids import MALFORMED_IDS
from tests.support.raw_http import request

MALFORMED_TASKS = (
    "",
    "0",
    TASK[:-1],
    TASK + "0",
    TASK.upper(),
    TASK[:-1] + "g",
    TASK[:-1] + "%0A",
    TASK + "%0A",
    TASK + "%00",
    TASK[:-1] + "%D9%A1",
    TASK[:16] + "%2F" + TASK[17:],
    "-" + TASK[1:],
    "no-task",
    "%FF" * 32,
    "..",
)
UNKNOWN_PATHS = (
    "/",
    "//",
    "/api",
    "/api/v1/equipment/cpe",
    "/api/v1/equipment/cpe/ABC123456/",
    "/api/v1/equipment/cpe/ABC123456/tasks/" + TASK,
    "/api/v1/equipment/cpe/ABC123456//",
    "/api/v1/equipment/cpe//ABC123456",
    "/api/v1/equipment//cpe/ABC123456",
    "//api/v1/equipment/cpe/ABC123456",
    "///api/v1/equipment/cpe/ABC123456",
    "/%2Fapi/v1/equipment/cpe/ABC123456",
    "/api/v1/equipment/cpe/ABC123456/task/" + TASK + "/",
    "/api/v1/equipment/cpe/ABC123456//task/" + TASK,
    "/api/v1/equipment/cpe/ABC123456/task//" + TASK,
    "//api/v1/equipment/cpe/ABC123456/task/" + TASK,
    "/api/v1/equipment/cpe/../cpe/ABC123456",
    "/api/v1/./equipment/cpe/ABC123456",
    "/API/v1/equipment/cpe/ABC123456",
    "/api/v2/equipment/cpe/ABC123456",
    "/api/v1/equipment/cpe%2FABC123456",
    "/api%2Fv1%2Fequipment%2Fcpe%2FABC123456",
    "/favicon.ico",
    "/%FF%FE",
    "/%00",
    "/<script>",
    "/%3Cscript%3E",
    "*",
    "api/v1/equipment/cpe/ABC123456",
    "xapi/v1/equipment/cpe/ABC123456",
    "?",
    "http://b",
    "http://b?x",
    "b:443",
    "ftp://b/api/v1/equipment/cpe/ABC123456",
)


class Ids(FrontendTestCase):
    def test_well_formed(self) -> None:
        """Six or more ASCII letters and digits are an equipment id, of any length and case,
        percent-encoded or not.
        """
        for equipment_id in ("ABC123", "abcdef", "000000", "aB3" * 1000, "NOTFOUND1"):
            self.assertAccepted(self.post(equipment_id=equipment_id))
            self.assertEqual(self.tasks.submitted[-1].equipment_id, equipment_id)
        self.assertAccepted(self.post(equipment_id="%41BC123"))
        self.assertEqual(self.tasks.submitted[-1].equipment_id, "ABC123")

    def test_malformed(self) -> None:
        """Any other id is the equipment's 404, for POST and GET, without a question to a worker."""
        for equipment_id in MALFORMED_IDS:
            self.assertRefused(self.post(equipment_id=equipment_id), 404, NO_EQUIPMENT)
            self.assertError(self.get(equipment_id=equipment_id), 404, NO_EQUIPMENT)
        self.assertEqual(self.statuses.asked, [])

    def test_malformed_and_raw(self) -> None:
        """Bytes that should have been percent-encoded are the equipment's 404 too, or are refused
        as not HTTP.
        """
        for raw in (
            b"ABC123\x80",
            b"ABC123\xb0",
            "ABC123é".encode("latin-1"),
            "АВС123".encode(),
            b"ABC 123",
            b"ABC\t123",
            b"ABC\x00123",
        ):
            answer = self.ask("POST", CPE.encode() + raw, b"{}")
            self.assertIn(answer.status, (400, 404))
            self.assertRefused(answer, answer.status)

    def test_malformed_comes_first(self) -> None:
        """A malformed id is a 404, whatever the body is."""
        for body, field in (
            (b"", "Accept: */*"),
            (b"[", "Accept: */*"),
            (b"x" * 70_000, "Accept: */*"),
            (b"{}", "Content-Type: text/plain"),
        ):
            self.assertRefused(self.post(body, field, equipment_id="ABC"), 404, NO_EQUIPMENT)

    def test_malformed_task(self) -> None:
        """A malformed task id is the task's 404, without a question to a worker."""
        for task_id in MALFORMED_TASKS:
            self.assertError(self.get(task_id=task_id), 404, NO_TASK)
        self.assertEqual(self.statuses.asked, [])

    def test_query(self) -> None:
        """A query changes nothing."""
        self.knows(State.COMPLETED)
        for query in ("?", "?a=b&a=%FF", "?" + "&" * 500, "?x=/../", "??"):
            self.assertAccepted(
                self.ask(
                    "POST", POST_PATH + query, b'{"timeoutInSeconds": 1, "parameters": {"vlan": 1}}'
                )
            )
            self.assertEqual(
                self.ask("GET", GET_PATH + query).json, {"code": 200, "message": "Completed"}
            )


class Paths(FrontendTestCase):
    def test_unknown(self) -> None:
        """Any other path is a 404 in JSON, with any method. There are no redirects."""
        for path in UNKNOWN_PATHS:
            for method, body in (
                ("GET", None),
                ("POST", b"{}"),
                ("DELETE", None),
                ("OPTIONS", None),
                ("get", None),
            ):
                answer = self.ask(method, path, body)
                self.assertRefused(answer, 404, NO_ROUTE)
                self.assertIsNone(answer.header("Location"))
        self.assertEqual(self.statuses.asked, [])

    def test_absolute(self) -> None:
        """A request for an absolute URL (RFC 9112 §3.2.2) is a request for its path, whatever its
        host.
        """
        self.knows(State.COMPLETED)
        for origin in ("http://b", "https://b:8443", "HTTPS://b", "http://[::1]:1", "http://b%FF"):
            self.assertAccepted(
                self.ask(
                    "POST",
                    origin + POST_PATH,
                    b'{"timeoutInSeconds": 1, "parameters": {"vlan": 1}}',
                )
            )
            self.assertEqual(self.ask("GET", origin + GET_PATH + "?q=http://x").status, 200)
            self.assertError(self.ask("GET", origin + "/" + GET_PATH), 404, NO_ROUTE)


class Methods(FrontendTestCase):
    """A 405 lists the allowed methods."""

    def test_on_the_post_route(self) -> None:
        """The equipment's path allows POST only."""
        for method in (
            "GET",
            "HEAD",
            "PUT",
            "DELETE",
            "PATCH",
            "OPTIONS",
            "TRACE",
            "CONNECT",
            "post",
            "Post",
            "get",
            "BREW",
            "P!$",
            "POSTX",
        ):
            answer = self.ask(method, POST_PATH)
            self.assertEqual((answer.status, answer.header("Allow")), (405, "POST"), method)
            if method != "HEAD":
                self.assertRefused(answer, 405, NO_METHOD)

    def test_on_the_get_route(self) -> None:
        """A task's path allows GET, HEAD and DELETE only."""
        self.knows(State.COMPLETED)
        for method in (
            "POST",
            "PUT",
            "PATCH",
            "OPTIONS",
            "TRACE",
            "get",
            "head",
            "delete",
            "Get",
            "GETX",
            "BREW",
        ):
            answer = self.ask(method, GET_PATH)
            self.assertEqual(answer.header("Allow"), "DELETE, GET, HEAD", method)
            self.assertRefused(answer, 405, NO_METHOD)

    def test_head(self) -> None:
        """The answer to HEAD is that to GET without its body, and the connection stays open."""
        self.knows(State.COMPLETED)
        answer = self.get()
        client = self.connect()
        client.send(
            request("HEAD", GET_PATH)
            + request("HEAD", GET_PATH[:-1])
            + request("HEAD", "/")
            + request("GET", GET_PATH)
        )
        *heads, again = client.answers("HEAD", "HEAD", "HEAD", "GET")
        self.assertEqual(
            [(head.status, head.header("Content-Type")) for head in heads],
            [(n, "application/json") for n in (200, 404, 404)],
        )
        self.assertEqual(heads[0].header("Content-Length"), str(len(answer.body)))
        self.assertEqual(again.json, {"code": 200, "message": "Completed"})

    def test_no_method(self) -> None:
        """A malformed method is a 400."""
        for method in (b"", b"GE\xd0\xa2", b"G(T", b"\x00GET", b"GET\x0b", b'"GET"'):
            client = self.connect()
            client.send(b"%s %s HTTP/1.1\r\nHost: b\r\n\r\n" % (method, GET_PATH.encode()))
            (answer,) = client.answers()
            self.assertError(answer, 400)
            self.assertTrue(client.lost)


class PathsInPieces(Paths):
    piece = 1


class MethodsInPieces(Methods):
    piece = 1


class IdsInPieces(Ids):
    piece = 1
