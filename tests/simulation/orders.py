"""What clients want, and what became of it: from their side (`Order`, `Key`), and from the disk's
and A's (`Task`).
"""

from __future__ import annotations

from attrs import define

from rtprov.model import State


@define(eq=False)
class Key:
    """An ``Idempotency-Key`` for a device. Several orders may have it, each with a body of its own:
    at most one of them is to be done.
    """

    text: str
    task_id: str | None = None  # as the disk has it


@define(eq=False)
class Order:
    """What a client wants: one POST's worth of work, its body like no other's. `task_id` once it
    was accepted.
    """

    number: int
    device: str
    body: bytes
    key: Key | None = None
    task_id: str | None = None
    final: State | None = None  # as clients were told
    refused: bool = False  # a client was told that its key has another body
    too_late: bool = False  # a client was told that it cannot be cancelled any more
    called: bool = False  # A has had its body
    lost: bool = False  # its task is not in the backup that was restored: it may be unknown
    unknown: bool = False  # and a client was told so


@define(eq=False)
class Task:
    """What is known of a task: from the disk, and from A."""

    task_id: str
    device: str
    order: Order | None = None  # whose body came first
    requested: bool = False
    called_off: bool = False  # a client has asked for it
    started: int = 0  # attempts that stand before the end in the journal
    calls: int = 0
    finished: State | None = None
    succeeded: bool = False
    unknown_to_a: bool = False
    failed: bool = False  # A said so, or talked nonsense
    first_started_at: float = 0.0
    # the earliest time that a `Started` of it has: seconds since the epoch by some worker's clock
    first_stamp: float = 0.0
