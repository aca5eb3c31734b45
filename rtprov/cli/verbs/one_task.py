"""``rtprov status`` and ``rtprov cancel``."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from rtprov.cli.api import API, Api
from rtprov.cli.failures import Status, VerbFailed, status_of
from rtprov.cli.output import Column
from rtprov.cli.session import Connected, Session, asks_service_b
from rtprov.cli.task_view import NAMES, exit_status, lines
from rtprov.errors import (
    EquipmentMalformed,
    EquipmentNotFound,
    ProvisioningFailed,
    TaskCancelled,
    TaskMalformed,
    TaskNotFound,
)
from rtprov.model import is_equipment_id, is_task_id

_UNKNOWN_TASK = str(TaskNotFound())
# How a task ended, by HTTP status and message. Any other 500 is an internal error of service B.
_ENDS = {
    (500, str(ProvisioningFailed())): "failed",
    (500, str(TaskCancelled())): "cancelled",
    (404, str(EquipmentNotFound())): "not_found",
}


def malformed(equipment: str, task: str) -> VerbFailed | None:
    """Return why no task can have these ids, None if one can.

    Service B answers about a malformed id as about a device that service A does not know.
    """
    if not is_equipment_id(equipment):
        return VerbFailed(f"{equipment!r}: {EquipmentMalformed.detail}", Status.NOT_FOUND)
    if not is_task_id(task):
        return VerbFailed(f"{task!r}: {TaskMalformed.detail}", Status.NOT_FOUND)
    return None


def task_path(equipment: str, task: str) -> str:
    """Return the path of a task's status."""
    return f"{API}/equipment/cpe/{quote(equipment, safe='')}/task/{quote(task, safe='')}"


def state_in(http_status: int, document: Any) -> str | None:
    """Return the state of a task in the answer to a question about its status.

    None if the answer is about the request, not the task.
    """
    code = document.get("code") if isinstance(document, dict) else None
    message = str(document.get("message")) if isinstance(document, dict) else ""
    if http_status == 204 or code == 204:
        return "running"
    if code == 200:
        return "completed"
    return _ENDS.get((http_status, message))


async def details_of(api: Api, equipment: str, task: str) -> dict[str, Any]:
    """Return all details of a task. Raises `VerbFailed` if the device has no such task."""
    refusal = malformed(equipment, task)
    if refusal is not None:  # the id of a task may be the name of another resource, as `failures`
        raise refusal
    document = await api.get(f"{API}/tasks/{quote(task, safe='')}")
    found: dict[str, Any] = api.part(document, "task", dict)
    if found.get("equipmentId") != equipment:
        raise VerbFailed(f"{_UNKNOWN_TASK}: it is a task of another device", Status.NOT_FOUND)
    return found


def show(session: Session, task: dict[str, Any]) -> None:
    """Write one task."""
    if session.format != "table":
        writer = session.writer([], single=True, names=NAMES)
        writer.add(task)
        writer.end()
        return
    columns = [
        Column("", lambda line: line[0]),
        Column("", lambda line: line[1], fold=True),
    ]
    writer = session.writer(columns, headed=False)
    for line in lines(task, session.process.now()):
        writer.add(line)
    writer.end()


@click.command()
@click.argument("equipment")
@click.argument("task")
@asks_service_b
def status(session: Session, equipment: str, task: str) -> None:
    """Show the task TASK of the device EQUIPMENT.

    Exit status: 1 if it failed or was cancelled, 4 if there is no such task or service A does not
    know the device.
    """

    async def work(connected: Connected) -> int:
        found = await details_of(connected.api, equipment, task)
        show(session, found)
        return exit_status([str(found.get("state"))])

    session.run(work)


@click.command()
@click.argument("equipment")
@click.argument("task")
@click.option("--reason", metavar="TEXT", help="Why; written into the audit line of service B.")
@asks_service_b
def cancel(session: Session, equipment: str, task: str, reason: str | None) -> None:
    """Cancel the task TASK of the device EQUIPMENT, if it was not sent to service A yet.

    Exit status: 1 if it is too late, 3 if the task belongs to another caller.
    """

    async def work(connected: Connected) -> int:
        query = [("reason", reason)] if reason is not None else []
        path = task_path(equipment, task)
        answer = await connected.api.ask("DELETE", path, query, accept=(409,))
        if answer.status == 409:
            raise VerbFailed(answer.message, status_of(409))
        row = {"taskId": task, "equipmentId": equipment, "state": "cancelled"}
        message = connected.api.part(answer.document, "message", str)
        writer = session.writer([Column("", lambda _: message)], headed=False, single=True)
        writer.add(row)
        writer.end()
        return Status.DONE

    session.run(work)
