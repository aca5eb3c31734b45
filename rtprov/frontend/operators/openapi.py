"""The part of the OpenAPI document for operators."""

from __future__ import annotations

from typing import Any

from rtprov.frontend.openapi_parts import header, make_operation, parameter
from rtprov.frontend.operators.events import MAX_ID_LENGTH
from rtprov.frontend.operators.schemas import (
    FailuresAnswer,
    FoundAnswer,
    SummaryAnswer,
    SummaryDocument,
)
from rtprov.frontend.operators.task_filters import (
    CURSOR_PATTERN,
    MAX_TEXT,
    MAX_VALUES,
    TIME_PATTERN,
)
from rtprov.frontend.query_parameters import DEFAULT_PAGE, MAX_PAGE
from rtprov.reports import STATES

OPERATOR_TYPES = (SummaryAnswer, SummaryDocument, FoundAnswer, FailuresAnswer)

_TEXT = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}
_TIME = {"type": "string", "format": "date-time", "pattern": f"^{TIME_PATTERN}$"}


def operator_paths() -> dict[str, Any]:
    """Return the paths for operators."""
    return {
        "/api/v1/summary": {"get": _summary()},
        "/api/v1/tasks": {"get": _tasks()},
        "/api/v1/tasks/failures": {"get": _failures()},
        "/api/v1/events": {"get": _events()},
        "/api/v1/tasks.csv": {"get": _download("csv", "text/csv")},
        "/api/v1/tasks.jsonl": {"get": _download("jsonl", "application/jsonl")},
    }


def _summary() -> dict[str, Any]:
    summary = {200: ("The system in numbers", "SummaryAnswer")}
    return make_operation("getSummary", "Return the system in numbers", summary, 400, 500)


def _tasks() -> dict[str, Any]:
    operation = make_operation(
        "findTasks",
        "Search the tasks of all devices, newest first",
        {200: ("One page of tasks", "FoundAnswer")},
        400,
        404,
        500,
        503,
    )
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE}
    before = {"type": "string", "pattern": f"^{CURSOR_PATTERN}$"}
    operation["parameters"] = [
        *_filters(),
        parameter("limit", "query", "The maximum number of tasks on the page", limit),
        parameter(
            "before",
            "query",
            "Only older tasks are listed: a task id, or the value in `next`",
            before,
        ),
    ]
    return operation


def _failures() -> dict[str, Any]:
    operation = make_operation(
        "countFailures",
        "Count the failed tasks by reason; with `state`, tasks in those states",
        {200: ("The numbers", "FailuresAnswer")},
        400,
        500,
        503,
    )
    by = {"type": "string", "enum": ["reason"], "default": "reason"}
    operation["parameters"] = [*_filters(), parameter("by", "query", "What to count by", by)]
    return operation


def _download(name: str, media_type: str) -> dict[str, Any]:
    operation = make_operation(
        f"download{name.title()}",
        f"Download all tasks that the parameters select, newest first, as {name.upper()}",
        {},
        400,
        500,
        503,
    )
    operation["responses"]["200"] = {
        "description": "The tasks. Rtprov-Incomplete names shards whose tasks are missing",
        "content": {media_type: {"schema": {"type": "string"}}},
    }
    operation["parameters"] = _filters()
    return operation


def _events() -> dict[str, Any]:
    operation = make_operation(
        "followEvents",
        "Follow ended tasks and changes of the summary as Server-Sent Events",
        {},
        400,
        500,
    )
    operation["responses"]["200"] = {
        "description": (
            "Server-Sent Events, without an end: summary, task, skipped, equipment, dispatch"
        ),
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
    last = "The id of the last event that was received: the stream goes on after it"
    operation["parameters"] = [header("Last-Event-ID", last, {"maxLength": MAX_ID_LENGTH})]
    return operation


def _filters() -> list[dict[str, Any]]:
    state = {"type": "string", "enum": list(STATES)}
    serial = {"type": "string", "pattern": "^[a-zA-Z0-9]{6,}$"}
    filters = [
        ("state", "Tasks in one of these states or phases", _repeated(state)),
        ("caller", "Tasks that one of these callers ordered", _repeated(_TEXT)),
        ("campaign", "Tasks of one of these campaigns", _repeated(_TEXT)),
        ("equipmentId", "Tasks of one of these devices", _repeated(serial)),
        ("reason", "Tasks that ended with exactly one of these reasons", _repeated(_TEXT)),
        ("acceptedAfter", "Tasks that were accepted at this time or later", _TIME),
        ("acceptedBefore", "Tasks that were accepted before this time", _TIME),
        ("endedAfter", "Tasks that ended at this time or later", _TIME),
        ("endedBefore", "Tasks that ended before this time", _TIME),
    ]
    return [parameter(name, "query", text, schema) for name, text, schema in filters]


def _repeated(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter that may be repeated."""
    return {"type": "array", "items": schema, "maxItems": MAX_VALUES}
