"""The examples in the OpenAPI document. ``docs/api.md`` prints the same answers."""

from __future__ import annotations

from typing import Any

EQUIPMENT_ID = "ABC123456"
TASK_ID = "1de0911a74b7b37c4c3ab022ba279eae"

_NO_TASK = {"code": 404, "message": "The requested task is not found"}
_NO_EQUIPMENT = {"code": 404, "message": "The requested equipment is not found"}
_RUNNING = {"code": 204, "message": "Task is still running"}
_COMPLETED = {"code": 200, "message": "Completed"}
_TASK = {
    "taskId": TASK_ID,
    "equipmentId": EQUIPMENT_ID,
    "state": "completed",
    "acceptedAt": "2026-11-24T21:34:29.473Z",
    "startedAt": "2026-11-24T21:34:29.477Z",
    "finishedAt": "2026-11-24T21:34:35.485Z",
    "expectedFinishAt": None,
    "reason": "A answered 200",
    "waitsFor": None,
    "attemptCount": 1,
    "attempts": [
        {
            "number": 1,
            "startedAt": "2026-11-24T21:34:29.477Z",
            "endedAt": "2026-11-24T21:34:35.485Z",
            "error": None,
            "nextAttemptAt": None,
        }
    ],
    "phase": None,
    "caller": "address:127.0.0.1",
    "acceptedBy": "5f0c1d2e3a4b",
    "campaign": None,
    "retryOf": None,
    "retriedAs": None,
}
_WAITING = {
    **_TASK,
    "taskId": "1de0a0efa422a7ad9874b2a7019ee00d",
    "state": "running",
    "acceptedAt": "2026-11-24T21:34:31.022Z",
    "startedAt": None,
    "finishedAt": None,
    "expectedFinishAt": "2026-11-24T21:36:29.477Z",
    "reason": None,
    "waitsFor": {"reason": "device", "tasksAhead": 1},
    "attemptCount": 0,
    "attempts": [],
    "phase": "waiting",
}
_NEXT = f"/api/v1/equipment/cpe/{EQUIPMENT_ID}/task?limit=1&before={_WAITING['taskId']}"

# By operation, status and name.
ANSWERS: dict[str, dict[int, dict[str, Any]]] = {
    "submitTask": {
        200: {"accepted": {"code": 200, "taskId": TASK_ID}},
        400: {
            "rule": {
                "code": 400,
                "message": "parameters[0].vlan: expected an integer from 1 to 4094",
            }
        },
        404: {"equipment": _NO_EQUIPMENT},
        422: {
            "key": {
                "code": 422,
                "message": (
                    "This Idempotency-Key was used for this equipment before, with another body"
                ),
            }
        },
    },
    "getStatus": {
        200: {"completed": _COMPLETED, "running": _RUNNING},
        404: {"task": _NO_TASK, "equipment": _NO_EQUIPMENT},
        500: {
            "cancelled": {
                "code": 500,
                "message": "The task was cancelled before it was sent to the equipment service",
            }
        },
    },
    "cancelTask": {
        200: {"cancelled": {"code": 200, "message": "Cancelled"}},
        404: {"task": _NO_TASK, "equipment": _NO_EQUIPMENT},
        409: {
            "sent": {
                "code": 409,
                "message": (
                    "The task cannot be cancelled any more: it was sent to the equipment service,"
                    " or has ended"
                ),
            }
        },
    },
    "listTasks": {
        200: {"page": {"code": 200, "tasks": [_WAITING], "next": _NEXT}},
        404: {"equipment": _NO_EQUIPMENT},
    },
    "getTask": {
        200: {
            "completed": {"code": 200, "task": _TASK},
            "waiting": {"code": 200, "task": _WAITING},
        },
        404: {"task": _NO_TASK},
    },
    "getLivez": {200: {"alive": {"code": 200, "message": "Alive"}}},
    "getReadyz": {200: {"ready": {"code": 200, "message": "Ready"}}},
}
PARAMETERS = {("path", "equipmentId"): EQUIPMENT_ID, ("path", "taskId"): TASK_ID}


def add_examples(document: dict[str, Any]) -> None:
    """Add the examples to an OpenAPI document: to path parameters, and to answers as JSON."""
    for item in document["paths"].values():
        for parameter in item.get("parameters", []):
            example = PARAMETERS.get((parameter["in"], parameter["name"]))
            if example is not None:
                parameter["example"] = example
        for method, operation in item.items():
            if method == "parameters":
                continue
            for status, examples in ANSWERS.get(operation["operationId"], {}).items():
                content = operation["responses"][str(status)]["content"]["application/json"]
                content["examples"] = {name: {"value": value} for name, value in examples.items()}
