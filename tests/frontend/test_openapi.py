"""The OpenAPI description: it describes what is served, by the same rules that are applied."""

from __future__ import annotations

import json
import re

from rtprov import __version__
from rtprov.frontend.openapi import document
from rtprov.frontend.resource import Frontend
from rtprov.http.request import SESSION_PATH
from rtprov.model import State
from tests.support.front import BODY, GET_PATH, ID, POST_PATH, TASK, FrontendTestCase

NOT_DESCRIBED = {
    ("/openapi.json", "GET"),
    ("/docs", "GET"),
    ("/ui/<path:name>", "GET"),
    ("/ui", "GET"),
    ("/ui/", "GET"),
    *((SESSION_PATH.decode(), method) for method in ("GET", "POST", "DELETE")),
}


class Document(FrontendTestCase):
    def test_served(self) -> None:
        """``/openapi.json`` is an OpenAPI 3.1 document with a JSON media type."""
        answer = self.ask("GET", "/openapi.json")
        self.assertEqual((answer.status, answer.header("Content-Type")), (200, "application/json"))
        self.assertEqual(
            (answer.json["openapi"], answer.json["info"]["version"]), ("3.1.0", __version__)
        )
        self.assertEqual(answer.json, json.loads(json.dumps(document())))

    def test_every_route(self) -> None:
        """Each route and method that is served is described, and no other, except for the
        description itself and what is for browsers: files, and log-in.
        """
        served = set()
        for rule in Frontend.app.url_map.iter_rules():
            path = rule.rule
            for name, described_as in (("equipment_id", "equipmentId"), ("task_id", "taskId")):
                path = re.sub(f"<[^>]*:{name}>", f"{{{described_as}}}", path)
            served |= {(path, method) for method in rule.methods or () if method != "HEAD"}
        described = {
            (path, method.upper())
            for path, item in document()["paths"].items()
            for method in item
            if method != "parameters"
        }
        self.assertEqual(described, served - NOT_DESCRIBED)

    def test_references(self) -> None:
        """Every reference has a target, and every link names an operation that exists."""
        references = re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document()))
        self.assertEqual(set(references) - set(document()["components"]["schemas"]), set())
        operations = {
            each["operationId"]: each
            for item in document()["paths"].values()
            for each in item.values()
            if isinstance(each, dict)
        }
        self.assertEqual(len(operations), 13)
        for link in operations["submitTask"]["responses"]["200"]["links"].values():
            self.assertIn(link["operationId"], operations)

    def test_the_rules_that_are_applied(self) -> None:
        """The body's schema is made from the types that validate it."""
        schemas = document()["components"]["schemas"]
        self.assertEqual(
            schemas["RequestBody"]["properties"]["timeoutInSeconds"],
            {"type": "integer", "minimum": 1, "maximum": 1500},
        )
        self.assertEqual(
            schemas["Parameters"]["properties"]["vlan"],
            {"type": "integer", "minimum": 1, "maximum": 4094},
        )
        self.assertNotIn("additionalProperties", schemas["Parameters"])

    def test_the_example(self) -> None:
        """The example of a body is accepted."""
        example = document()["paths"]["/api/v1/equipment/cpe/{equipmentId}"]["post"]["requestBody"][
            "content"
        ]["application/json"]["example"]
        self.assertAccepted(self.post(json.dumps(example).encode()))


PROBLEM = "application/problem+json"


class Problems(FrontendTestCase):
    def type_of(self, *accepted: str) -> str | None:
        return self.ask("GET", "/", None, [f"Accept: {value}" for value in accepted]).header(
            "Content-Type"
        )

    def test_asked_for(self) -> None:
        """A client that accepts problem details (RFC 9457) gets them: type, title, status, and the
        message as detail.
        """
        for method, path, status, title, detail in (
            ("GET", "/nowhere", 404, "Not Found", "There is nothing at this path"),
            ("PUT", GET_PATH, 405, "Method Not Allowed", "The method is not allowed here"),
            (
                "GET",
                f"/api/v1/equipment/cpe/{ID}/task/{TASK}",
                404,
                "Not Found",
                "The requested task is not found",
            ),
            (
                "GET",
                f"/api/v1/equipment/cpe/{ID}/task?limit=x",
                400,
                "Bad Request",
                "limit: expected an integer from 1 to 100",
            ),
        ):
            answer = self.ask(method, path, None, [f"Accept: {PROBLEM}"])
            self.assertEqual((answer.status, answer.header("Content-Type")), (status, PROBLEM))
            self.assertEqual(
                answer.json,
                {"type": "about:blank", "title": title, "status": status, "detail": detail},
            )
            self.assertEqual(answer.header("Content-Length"), str(len(answer.body)))

    def test_titles(self) -> None:
        """A title is the status's reason phrase, which is also in the status line."""
        for method, path, body, title in (
            ("POST", POST_PATH, b"{", "Bad Request"),
            ("POST", POST_PATH, b" " * 70_000, "Content Too Large"),
            ("GET", "/nowhere", None, "Not Found"),
        ):
            answer = self.ask(method, path, body, [f"Accept: {PROBLEM}"])
            self.assertEqual((answer.phrase, answer.json["title"]), (title, title))
        self.assertAccepted(self.post(BODY, "Idempotency-Key: k1"))
        answer = self.post(BODY + b" ", "Idempotency-Key: k1", f"Accept: {PROBLEM}")
        self.assertEqual((answer.status, answer.phrase), (422, "Unprocessable Content"))

    def test_malformed_or_unknown(self) -> None:
        """The detail distinguishes a malformed id from an unknown one. The message of the envelope
        is the same for both.
        """
        no_equipment, no_task = (
            "The requested equipment is not found",
            "The requested task is not found",
        )
        of_equipment = (
            f"{no_equipment}: the id is malformed; expected 6 or more characters from a-z, A-Z and"
            " 0-9"
        )
        of_task = f"{no_task}: the id is malformed; expected 32 characters from 0-9 and a-f"
        self.knows(State.NOT_FOUND)
        for method, path, message, detail in (
            ("GET", GET_PATH, no_equipment, no_equipment),
            ("POST", "/api/v1/equipment/cpe/ABC", no_equipment, of_equipment),
            ("GET", "/api/v1/equipment/cpe/AB-C123/task", no_equipment, of_equipment),
            ("GET", f"/api/v1/equipment/cpe/ABC/task/{TASK}", no_equipment, of_equipment),
            ("DELETE", f"/api/v1/equipment/cpe/ABC/task/{TASK}", no_equipment, of_equipment),
            ("GET", f"/api/v1/equipment/cpe/{ID}/task/x", no_task, of_task),
            ("GET", "/api/v1/tasks/x", no_task, of_task),
            ("GET", f"/api/v1/tasks/{TASK}", no_task, no_task),
        ):
            self.assertError(self.ask(method, path), 404, message)
            self.assertEqual(
                self.ask(method, path, None, [f"Accept: {PROBLEM}"]).json["detail"], detail
            )

    def test_headers_stay(self) -> None:
        """The headers of an error are the same in either format."""
        self.assertEqual(
            self.ask("PUT", GET_PATH, None, [f"Accept: {PROBLEM}"]).header("Allow"),
            "DELETE, GET, HEAD",
        )

    def test_who_asks(self) -> None:
        """Only a client that names the media type gets it, and if it also names plain JSON, only if
        it does not prefer that.
        """
        for accepted in (
            [PROBLEM],
            [f"{PROBLEM};q=0.1"],
            [f"application/json, {PROBLEM}"],
            ["application/json", PROBLEM],
            ["Application/Problem+JSON ; q=1.000 , application/json;q=0.9"],
            [f"text/html, */*;q=0.1, {PROBLEM};q=0.2"],
        ):
            self.assertEqual(self.type_of(*accepted), PROBLEM, accepted)
        for accepted in (
            [],
            [""],
            ["*/*"],
            ["application/*"],
            ["application/json"],
            [f"{PROBLEM};q=0"],
            [f"{PROBLEM};q=x"],
            [f"{PROBLEM};q=0.5, application/json"],
            [f"{PROBLEM};q=0.5, application/json;q=0.6"],
            ["application/problem+xml"],
            [",;=,;q=1,"],
            ["x" * 8000],
        ):
            self.assertEqual(self.type_of(*accepted), "application/json", accepted)

    def test_answers_are_no_problems(self) -> None:
        """Other answers than errors do not change."""
        self.assertEqual(
            self.ask("GET", "/livez", None, [f"Accept: {PROBLEM}"]).header("Content-Type"),
            "application/json",
        )
