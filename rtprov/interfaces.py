"""The seams between the roles. Each is small enough to be faked in a test by a class of a few lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from rtprov.model import Event, State, Task

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


class TaskSink(Protocol):
    """Where the front end puts a task."""

    def submit(self, task: Task) -> Deferred[None]:
        """Fire once the broker has confirmed that work queue and journal both have the task.

        Fails with `BrokerUnavailable`, `Overloaded` or `Unroutable` when the task was certainly not accepted, with `Unconfirmed` when it
        may have been. Fires within 5 s. Cancelling forgets the caller; it does not call the task back.
        """


class StatusSource(Protocol):
    """Where the front end learns how a task stands."""

    def status(self, task_id: str, equipment_id: str) -> Deferred[State | None]:
        """Fire with the state, or None where there is no such task of this equipment.

        Fails with `NoWorker`, `NoReply` or `BrokerUnavailable`; within 5 s.
        """


class Equipment(Protocol):
    """Service A as the worker sees it."""

    def configure(self, task: Task, body: bytes) -> Deferred[tuple[State, str]]:
        """Call A once, with `body` unchanged. Fire with a final state and the reason for it (for the journal; no parameter in it).

        Fails with `EquipmentUnreachable` when the call may be made again, and with `EquipmentSilent`, which is final, when there is no
        answer. Fires within max(`task.timeout_s`, 60) + 30 s.
        """


class Sealer(Protocol):
    """Keeps the parameters of a task from everybody but A."""

    def seal(self, body: bytes) -> str:
        """Encrypt a request's body; the result is ASCII text."""

    def open(self, sealed: str) -> bytes:
        """The body again. Raises `SealError`."""


class StatusReader(Protocol):
    """A replica's answers, as the status server asks for them."""

    def lookup(self, task_id: str, equipment_id: str) -> State | None:
        """The state, or None where this replica knows no such task of this equipment (yet)."""


class Journal(Protocol):
    """One shard's ordered record of events, and this process's replica of it."""

    def append(self, event: Event) -> Deferred[None]:
        """Publish an event; fire once the broker has confirmed it. Waits for the broker, without limit, while it is away.

        Cancelled when the journal stops.
        """

    def barrier(self) -> Deferred[None]:
        """Fire once the own replica has seen everything that was confirmed before this call.

        Concurrent callers share one marker. Fails with `BrokerError` when the broker is lost meanwhile.
        """


class Delivery(Protocol):
    """One message handed out by the broker, until it is settled. Settling twice, or after the channel is gone, does nothing."""

    @property
    def body(self) -> bytes: ...

    @property
    def redelivered(self) -> bool: ...

    @property
    def live(self) -> bool:
        """Whether the channel it came by still stands and it is unsettled."""

    def ack(self) -> None: ...

    def nack(self, *, requeue: bool) -> None:
        """Return the message to its queue, or, with `requeue` false, to the dead letters."""


StatusBatch = Sequence[tuple[str, str]]
"""(task id, equipment id) pairs."""

Watch = Callable[[int, Event], None]
"""Called with each journal event's offset and the event."""
