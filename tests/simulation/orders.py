"""What clients want, and what became of it: as clients know it (`Order`, `Key`), and as the disk
and A know it (`Task`).
"""

from __future__ import annotations

from attrs import define

from rtprov.model import State


@define(eq=False)
class Key:
    """An ``Idempotency-Key`` for a device. Several orders may have it, each with its own body. At
    most one of them may be carried out.
    """

    text: str
    task_id: str | None = None  # from the disk


@define(eq=False)
class Order:
    """The work that a client wants done, with a unique body. `task_id` is set once a POST of it is
    accepted.
    """

    number: int
    device: str
    body: bytes
    key: Key | None = None
    task_id: str | None = None
    final: State | None = None  # as clients were told
    refused: bool = False  # a client was told that its key has another body
    too_late: bool = False  # a client was told that it can no longer be cancelled
    called: bool = False  # A has received its body
    lost: bool = False  # its task is not in the restored backup and may be unknown
    unknown: bool = False  # a client was told that it is unknown


@define(eq=False)
class Task:
    """What the disk and A know of a task."""

    task_id: str
    device: str
    order: Order | None = None  # whose body came first
    requested: bool = False
    called_off: bool = False  # a client has asked to cancel it
    started: int = 0  # attempts that the journal has before the end
    calls: int = 0
    finished: State | None = None
    succeeded: bool = False
    unknown_to_a: bool = False
    failed: bool = False  # A answered 500, or its answer was not valid
    first_started_at: float = 0.0
    # The earliest time in a `Started` event: seconds since the epoch by some worker's clock.
    first_stamp: float = 0.0
