"""The OpenAPI 3.1 document of service B, built from the types that validate and encode its JSON.

See https://spec.openapis.org/oas/v3.1.0.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import msgspec

from rtprov import __version__
from rtprov.frontend.headers import MAX_KEY_LENGTH, MAX_WAIT_S
from rtprov.frontend.openapi_examples import add_examples
from rtprov.frontend.openapi_parts import (
    equipment_id,
    header,
    make_operation,
    parameter,
    ref,
    task_id,
)
from rtprov.frontend.operators.openapi import OPERATOR_TYPES, operator_paths
from rtprov.frontend.query_parameters import DEFAULT_PAGE, MAX_PAGE, MAX_REASON
from rtprov.frontend.schemas import Envelope, Problem, Receipt, TaskAnswer, TasksAnswer
from rtprov.order_body import RequestBody

_CPE = "/api/v1/equipment/cpe/{equipmentId}"
_TYPES = (RequestBody, Receipt, Envelope, Problem, TaskAnswer, TasksAnswer, *OPERATOR_TYPES)
_EXAMPLE = {
    "timeoutInSeconds": 14,
    "parameters": [
        {"username": "admin"},
        {"password": "admin"},
        {"vlan": 534},
        {"interfaces": [1, 2]},
    ],
}
_SECURITY_SCHEMES = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": (
            "A token of the front end's --tokens file, made by `python -m rtprov.tokens new NAME`."
            " Not needed if the front end has no such file."
        ),
    }
}


@functools.cache
def document() -> dict[str, Any]:
    """Return the document as a dictionary. It is built once."""
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template="#/components/schemas/{name}")
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "rtprov",
            "version": __version__,
            "description": (
                "Accepts tasks that configure equipment. Each accepted task gets a task id at"
                " once; the task runs in the background, and its status can be requested by the id."
            ),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": _paths(),
        "components": {"schemas": schemas, "securitySchemes": _SECURITY_SCHEMES},
        "security": [{}, {"token": []}],
    }
    for path, item in described["paths"].items():
        tag = _tag(path)
        for method in item.keys() - {"parameters"}:
            item[method]["tags"] = [tag]
    add_examples(described)
    return described


def _tag(path: str) -> str:
    """Return the group in which the operations of a path are shown."""
    if not path.startswith("/api/"):
        return "Health"
    return "Operators" if path in operator_paths() else "Tasks"


@functools.cache
def document_bytes() -> bytes:
    """Return the document as JSON, encoded in UTF-8."""
    return json.dumps(document(), ensure_ascii=False).encode()


def _paths() -> dict[str, Any]:
    return {
        _CPE: {"parameters": [equipment_id()], "post": _submit()},
        f"{_CPE}/task": {"parameters": [equipment_id()], "get": _list()},
        f"{_CPE}/task/{{taskId}}": {
            "parameters": [equipment_id(), task_id()],
            "get": _status(),
            "delete": _cancel(),
        },
        "/api/v1/tasks/{taskId}": {"parameters": [task_id()], "get": _details()},
        "/livez": {
            "get": make_operation(
                "getLivez",
                "Liveness probe",
                {200: ("The process is alive", "Envelope")},
                500,
                credentials=False,
            )
        },
        "/readyz": {
            "get": make_operation(
                "getReadyz",
                "Readiness probe: the broker confirms messages, and workers answer",
                {200: ("The front end is ready", "Envelope")},
                500,
                503,
                credentials=False,
            )
        },
        **operator_paths(),
    }


def _submit() -> dict[str, Any]:
    key = header(
        "Idempotency-Key",
        "Makes the request safe to repeat: requests for the same equipment with the same key and"
        " the same body create one task",
        {"pattern": f"^[!-~]{{1,{MAX_KEY_LENGTH}}}$"},
    )
    operation = make_operation(
        "submitTask",
        "Create a task that configures equipment",
        {200: ("The task is accepted and stored", "Receipt")},
        400,
        404,
        413,
        415,
        422,
        500,
        503,
    )
    priority = header(
        "Priority",
        "u=N (RFC 9218): the task's urgency among the tasks of the same caller, from 0 (first) to"
        " 7; 3 if it is not given. What is malformed is ignored",
        {"examples": ["u=1"]},
    )
    trace = header(
        "traceparent",
        "The client's trace (W3C Trace Context); a malformed value is ignored",
        {"examples": ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]},
    )
    operation["parameters"] = [key, priority, trace]
    operation["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": ref("RequestBody"), "example": _EXAMPLE}},
    }
    created = operation["responses"]["200"]
    created["headers"] = {
        "Location": {
            "description": "The URL of the task's status",
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
    summary = "Return a task's status: code 200 if it is completed, 204 if it is still running"
    operation = make_operation(
        "getStatus",
        summary,
        {200: ("The task is completed, or it is still running: see `code`", "Envelope")},
        404,
        500,
        503,
    )
    operation["responses"]["202"] = {
        **operation["responses"]["200"],
        "description": "The task is still running (if started with --running-status 202)",
    }
    operation["responses"]["204"] = {
        "description": "The task is still running (if started with --running-status 204)"
    }
    wait = (
        "wait=N (RFC 7240): wait until the task has ended, but at most N seconds, N up to"
        f" {MAX_WAIT_S}"
    )
    operation["parameters"] = [header("Prefer", wait, {"examples": ["wait=30"]})]
    return operation


def _cancel() -> dict[str, Any]:
    summary = "Cancel a task that was not yet sent to the equipment service"
    operation = make_operation(
        "cancelTask",
        summary,
        {200: ("The task is cancelled; it will not be sent", "Envelope")},
        400,
        404,
        409,
        500,
        503,
    )
    text = {"type": "string", "minLength": 1, "maxLength": MAX_REASON}
    operation["parameters"] = [parameter("reason", "query", "The reason, for the audit log", text)]
    return operation


def _details() -> dict[str, Any]:
    return make_operation(
        "getTask",
        "Return a task with its history and its expected end",
        {200: ("The task", "TaskAnswer")},
        400,
        404,
        500,
        503,
    )


def _list() -> dict[str, Any]:
    operation = make_operation(
        "listTasks",
        "List the tasks of one device, newest first",
        {200: ("One page of tasks", "TasksAnswer")},
        400,
        404,
        500,
        503,
    )
    operation["parameters"] = [
        parameter(
            "limit",
            "query",
            "The maximum number of tasks on the page",
            {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE},
        ),
        parameter(
            "before",
            "query",
            "A task id; only older tasks are listed",
            {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        ),
    ]
    return operation
