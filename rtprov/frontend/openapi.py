"""The description of service B: an OpenAPI 3.1 document made from the very types that check and
write its JSON.

https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

import functools
import json
from typing import Any

import msgspec

from rtprov import __version__
from rtprov.equipment.request import RequestBody
from rtprov.frontend.headers import MAX_KEY_LENGTH, MAX_WAIT_S
from rtprov.frontend.query_parameters import DEFAULT_PAGE, MAX_PAGE, MAX_REASON
from rtprov.frontend.schemas import Envelope, Problem, Receipt, TaskAnswer, TasksAnswer
from rtprov.http.request import MAX_BODY_BYTES

_CPE = "/api/v1/equipment/cpe/{equipmentId}"
_TYPES = (RequestBody, Receipt, Envelope, Problem, TaskAnswer, TasksAnswer)
_EXAMPLE = {
    "timeoutInSeconds": 14,
    "parameters": [
        {"username": "admin"},
        {"password": "admin"},
        {"vlan": 534},
        {"interfaces": [1, 2]},
    ],
}
_REFUSALS = {
    401: "Credentials are required, or these are not known or have expired",
    403: (
        "The caller's role is too low, the task is another caller's, or a page of another site"
        " sends the request"
    ),
    400: "The request breaks a rule; the message says which, and where",
    404: "The id is malformed, or there is no such equipment or task",
    409: "The task was sent to the equipment service, or has ended",
    413: f"The body has more than {MAX_BODY_BYTES} bytes",
    415: "The body is not JSON by its Content-Type, or is encoded",
    422: "The Idempotency-Key was used for this equipment before, with another body",
    429: "Too many requests of this client; Retry-After says when the next one is taken",
    500: "The task has failed, or was cancelled; or an error of the front end",
    503: "The broker is away, no worker can tell, or the answer was lost; ask again",
}


@functools.cache
def document() -> dict[str, Any]:
    """The whole document."""
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "rtprov",
            "version": __version__,
            "description": (
                "Takes orders to configure equipment, answers each with a receipt at once, and"
                " tells what became of it."
            ),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": _paths(),
        "components": {"schemas": schemas},
    }


@functools.cache
def document_bytes() -> bytes:
    """The document as JSON."""
    return json.dumps(document(), ensure_ascii=False).encode()


def _paths() -> dict[str, Any]:
    return {
        _CPE: {"parameters": [_equipment_id()], "post": _submit()},
        f"{_CPE}/task": {"parameters": [_equipment_id()], "get": _list()},
        f"{_CPE}/task/{{taskId}}": {
            "parameters": [_equipment_id(), _task_id()],
            "get": _status(),
            "delete": _cancel(),
        },
        "/api/v1/tasks/{taskId}": {"parameters": [_task_id()], "get": _details()},
        "/livez": {
            "get": _operation(
                "getLivez", "Is the front end alive?", {200: ("It is", "Envelope")}, 500
            )
        },
        "/readyz": {
            "get": _operation(
                "getReadyz", "Can it be of use?", {200: ("It can", "Envelope")}, 500, 503
            )
        },
    }


def _submit() -> dict[str, Any]:
    key = _header(
        "Idempotency-Key",
        "Makes the POST safe to repeat: one key and body is one task",
        {"pattern": f"^[!-~]{{1,{MAX_KEY_LENGTH}}}$"},
    )
    operation = _operation(
        "submitTask",
        "Order that equipment be configured",
        {200: ("The task is safe", "Receipt")},
        400,
        403,
        404,
        413,
        415,
        422,
        500,
        503,
    )
    operation["parameters"] = [key]
    operation["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": _ref("RequestBody"), "example": _EXAMPLE}},
    }
    created = operation["responses"]["200"]
    created["headers"] = {
        "Location": {
            "description": "Where the task's status is",
            "required": True,
            "schema": {"type": "string"},
        }
    }
    task = {"equipmentId": "$request.path.equipmentId", "taskId": "$response.body#/taskId"}
    created["links"] = {
        "status": {"operationId": "getStatus", "parameters": task},
        "cancel": {"operationId": "cancelTask", "parameters": task},
        "details": {"operationId": "getTask", "parameters": {"taskId": task["taskId"]}},
        "tasks": {"operationId": "listTasks", "parameters": {"equipmentId": task["equipmentId"]}},
    }
    return operation


def _status() -> dict[str, Any]:
    summary = "How a task stands: code 200 completed, 204 still running"
    operation = _operation(
        "getStatus",
        summary,
        {200: ("It is completed, or still runs: see the code", "Envelope")},
        404,
        500,
        503,
    )
    operation["responses"]["202"] = {
        **operation["responses"]["200"],
        "description": "It still runs (with --running-status 202)",
    }
    operation["responses"]["204"] = {"description": "It still runs (with --running-status 204)"}
    wait = (
        "wait=N: the answer comes when the task has ended, or shortly before N seconds are over,"
        f" at most {MAX_WAIT_S} (RFC 7240)"
    )
    operation["parameters"] = [_header("Prefer", wait, {"examples": ["wait=30"]})]
    return operation


def _cancel() -> dict[str, Any]:
    summary = "Cancel a task that was not sent yet"
    operation = _operation(
        "cancelTask",
        summary,
        {200: ("It will never be sent", "Envelope")},
        400,
        403,
        404,
        409,
        500,
        503,
    )
    text = {"type": "string", "minLength": 1, "maxLength": MAX_REASON}
    operation["parameters"] = [_parameter("reason", "query", "Why, for the audit line", text)]
    return operation


def _details() -> dict[str, Any]:
    return _operation(
        "getTask",
        "All that is known of a task",
        {200: ("The task", "TaskAnswer")},
        400,
        404,
        500,
        503,
    )


def _list() -> dict[str, Any]:
    operation = _operation(
        "listTasks",
        "A device's tasks, newest first",
        {200: ("A page of them", "TasksAnswer")},
        400,
        404,
        500,
        503,
    )
    operation["parameters"] = [
        _parameter(
            "limit",
            "query",
            "How many make a page",
            {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE},
        ),
        _parameter(
            "before",
            "query",
            "Only those before this task",
            {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        ),
    ]
    return operation


def _operation(
    name: str, summary: str, answers: dict[int, tuple[str, str]], *refusals: int
) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, (description, schema) in answers.items():
        responses[str(status)] = {
            "description": description,
            "content": {"application/json": {"schema": _ref(schema)}},
        }
    for status in refusals:
        content = {
            "application/json": {"schema": _ref("Envelope")},
            "application/problem+json": {"schema": _ref("Problem")},
        }
        responses[str(status)] = {"description": _REFUSALS[status], "content": content}
    return {"operationId": name, "summary": summary, "responses": responses}


def _equipment_id() -> dict[str, Any]:
    return _parameter(
        "equipmentId",
        "path",
        "The equipment's serial",
        {"type": "string", "pattern": "^[a-zA-Z0-9]{6,}$"},
    )


def _task_id() -> dict[str, Any]:
    return _parameter(
        "taskId",
        "path",
        "The task's id, from its receipt",
        {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    )


def _header(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return _parameter(name, "header", description, {"type": "string", **schema})


def _parameter(name: str, place: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": description,
        "schema": schema,
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
