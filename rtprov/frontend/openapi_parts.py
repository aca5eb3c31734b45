"""Parts of the OpenAPI document: operations, their parameters and their errors."""

from __future__ import annotations

from typing import Any

from rtprov.http.request import MAX_BODY_BYTES

REFUSALS = {
    400: "The request is invalid; the message names the field and the rule",
    401: "Credentials are required, or the credentials are unknown or expired",
    403: (
        "The caller's role is too low, the task belongs to another caller, or a browser sent the"
        " request from a page of another site"
    ),
    404: "The id is malformed, or the equipment or task does not exist",
    409: (
        "The task cannot be cancelled: it was already sent to the equipment service, or it has"
        " ended"
    ),
    413: f"The body is larger than {MAX_BODY_BYTES} bytes",
    415: "The Content-Type is not JSON, or the body has a Content-Encoding",
    422: "The Idempotency-Key was already used for this equipment with a different body",
    429: "The client sends too many requests; try again after the time in Retry-After",
    500: "The task failed or was cancelled, or the front end had an internal error",
    503: (
        "The broker is not available, no worker answered, or the result is not known; try again"
        " after the time in Retry-After"
    ),
}
OF_ACCESS = (401, 403, 429)
"""The errors that every operation may have which needs credentials."""


def make_operation(
    name: str,
    summary: str,
    answers: dict[int, tuple[str, str]],
    *refusals: int,
    credentials: bool = True,
) -> dict[str, Any]:
    """Return an operation.

    `answers` has a description and the name of a schema for each status, `refusals` the statuses of
    errors. If the operation needs `credentials`, those of `OF_ACCESS` are added.
    """
    responses: dict[str, Any] = {}
    for status, (description, schema) in answers.items():
        responses[str(status)] = {
            "description": description,
            "content": {"application/json": {"schema": ref(schema)}},
        }
    for status in sorted({*refusals, *(OF_ACCESS if credentials else ())}):
        content = {
            "application/json": {"schema": ref("Envelope")},
            "application/problem+json": {"schema": ref("Problem")},
        }
        responses[str(status)] = {"description": REFUSALS[status], "content": content}
    return {"operationId": name, "summary": summary, "responses": responses}


def equipment_id() -> dict[str, Any]:
    """Return the parameter of a device in a path."""
    return parameter(
        "equipmentId",
        "path",
        "The equipment's serial number",
        {"type": "string", "pattern": "^[a-zA-Z0-9]{6,}$"},
    )


def task_id() -> dict[str, Any]:
    """Return the parameter of a task in a path."""
    return parameter(
        "taskId",
        "path",
        "The task id, as returned by POST",
        {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    )


def header(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the parameter for a header field."""
    return parameter(name, "header", description, {"type": "string", **schema})


def parameter(name: str, place: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter; `place` is ``path``, ``query`` or ``header``."""
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": description,
        "schema": schema,
    }


def ref(name: str) -> dict[str, str]:
    """Return a reference to a schema."""
    return {"$ref": f"#/components/schemas/{name}"}
