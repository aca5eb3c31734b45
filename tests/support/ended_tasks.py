"""Tasks that have ended, as a history keeps them."""

from __future__ import annotations

from rtprov.model import Attempt, Details, State
from rtprov.reports import FoundTask

DAY_S = 86400.0
EPOCH = 20_000 * DAY_S  # 2024-10-04T00:00:00Z
DEVICE = "ABC123456"


def ended_task(
    number: int,
    at: float,
    finished_at: float,
    state: State = State.COMPLETED,
    reason: str = "A answered 200",
    *,
    caller: str | None = "token:a",
    equipment_id: str = DEVICE,
    attempts: int = 1,
) -> FoundTask:
    """Return a task with this number as its id; the times are seconds after `EPOCH`."""
    started_at = EPOCH + at + 1.0 if attempts else None
    log = tuple(
        Attempt(each, EPOCH + at + each, EPOCH + at + each + 0.5, "refused")
        for each in range(1, attempts)
    )
    if attempts:
        error = None if state is State.COMPLETED else reason
        log += (Attempt(attempts, EPOCH + at + attempts, EPOCH + finished_at, error),)
    details = Details(
        task_id=f"{number:032x}",
        equipment_id=equipment_id,
        state=state,
        requested_at=EPOCH + at,
        started_at=started_at,
        finished_at=EPOCH + finished_at,
        reason=reason,
        attempt_count=attempts,
        attempts=log,
        waits_for=None,
        ahead=0,
        expected_at=None,
        fingerprint=None,
        caller=caller,
        accepted_by="f1",
    )
    return FoundTask(EPOCH + at, details)


def numbers(tasks: object) -> list[int]:
    """Return the numbers of tasks."""
    assert isinstance(tasks, (list, tuple))
    return [int(each.details.task_id, 16) for each in tasks]
