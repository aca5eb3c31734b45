"""The seams between the roles. Each is small enough to be faked in a test by a class of a few
lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from rtprov.model import Details, Event, State, Task

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


class TaskSink(Protocol):
    """Where the front end puts a task."""

    def submit(self, task: Task) -> Deferred[None]:
        """Fire once the broker has confirmed that work queue and journal both have the task.

        Fails with `BrokerUnavailable`, `Overloaded`, `Unroutable` or `NotReady` when the task was
        certainly not accepted, with `Unconfirmed` when it may have been. Fires within 5 s.
        Cancelling forgets the caller; it does not call the task back."""

    def cancel(self, task_id: str, equipment_id: str, at: float) -> Deferred[None]:
        """Fire once the broker has confirmed that the journal has a `Cancelled` for this task.
        Fails as `submit` does.
        """


class TaskQueries(Protocol):
    """Where the front end learns all about tasks. Everything fires within 5 s, or fails with
    `NoWorker` or `BrokerError`.
    """

    def details(
        self, task_id: str, equipment_id: str, *, barrier: bool
    ) -> Deferred[Details | None]:
        """Fire with all that a replica knows of the task, or None; with `barrier`, with all that
        was confirmed before the call.
        """

    def find(self, task_id: str) -> Deferred[Details | None]:
        """The same for a task of any equipment; None only where there is no such task."""

    def tasks_of(
        self, equipment_id: str, before: str | None, limit: int
    ) -> Deferred[list[Details]]:
        """Fire with the equipment's tasks, newest first, at most `limit` (to 100): those before the
        task `before`, or from the newest.
        """


class Completions(Protocol):
    """Where the front end waits for tasks to end."""

    @property
    def full(self) -> bool:
        """Whether no more clients can wait."""

    def wait(self, task_id: str, equipment_id: str, wait_s: float) -> Deferred[State | None]:
        """Fire with the task's final state, or with None after `wait_s` seconds, at most 0.1 s
        earlier and never later.

        Fires with None at once when the front end stops. Never fails.
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
        """Call A once, with `body` unchanged. Fire with a final state and the reason for it (for
        the journal; no parameter in it).

        Fails with `EquipmentUnreachable` when the call may be made again, with `EquipmentSilent`,
        which is final, when there is no answer, and with `OutOfResources` when this machine could
        not even try. Fires within max(`task.timeout_s`, 60) + 30 s of the moment at which the order
        is written; the connection that comes before takes a few seconds at most, once it is its
        turn to be opened."""


class Sealer(Protocol):
    """Keeps the parameters of a task from everybody but A."""

    def seal(self, body: bytes) -> str:
        """Encrypt a request's body with the first key; the result is ASCII text. Raises `NotReady`
        where there is no key yet.
        """

    def open(self, sealed: str, key: str | None) -> bytes:
        """The body again. `key` is the id of the key that sealed it, None where its message does
        not say.

        Raises `KeyMissing` where that key is not at hand, or none at hand opens what has no id;
        otherwise `SealError`."""

    @property
    def key_ids(self) -> Sequence[str]:
        """The ids of all keys at hand. The first one seals. An id tells keys apart, and reveals
        nothing of them.
        """

    @property
    def key_id(self) -> str | None:
        """The id of the key that seals; None where there is no key yet."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever the keys have changed."""

    def fingerprint(self, task_id: str, body: bytes) -> str:
        """ASCII text that tells, to who has the keys, whether another body of the same task is the
        same, and tells nobody what is in it.
        """

    def matches(self, fingerprint: str, task_id: str, body: bytes) -> bool:
        """Whether `fingerprint` was made, with any of the keys, of this task's body."""


class StatusReader(Protocol):
    """A replica's answers, as the status server asks for them."""

    def lookup(self, task_id: str, equipment_id: str) -> State | None:
        """The state, or None where this replica knows no such task of this equipment (yet)."""


class Replica(StatusReader, Protocol):
    """And about the rest; see `rtprov.journal.store.Store`. `now` is seconds since the epoch."""

    def details(self, task_id: str, equipment_id: str | None, now: float) -> Details | None: ...

    def tasks_of(
        self, equipment_id: str, before: str | None, limit: int, now: float
    ) -> list[Details]: ...


class Journal(Protocol):
    """One shard's ordered record of events, and this process's replica of it."""

    def append(self, event: Event) -> Deferred[None]:
        """Publish an event; fire once the broker has confirmed it. Waits for the broker, without
        limit, while it is away.

        Cancelled when the journal stops.
        """

    def append_message(self, body: bytes) -> Deferred[None]:
        """The same for an event's message, or a task's, as it stands."""

    def barrier(self) -> Deferred[None]:
        """Fire once the own replica has seen everything that was confirmed before this call.

        Callers share markers: those who come while one is under way share the next. Fails with
        `BrokerError` when the broker is lost meanwhile."""


class Delivery(Protocol):
    """One message handed out by the broker, until it is settled. Settling twice, or after the
    channel is gone, does nothing.
    """

    @property
    def body(self) -> bytes: ...

    @property
    def headers(self) -> Mapping[str, object]:
        """The message's, the broker's own among them."""

    @property
    def redelivered(self) -> bool: ...

    @property
    def live(self) -> bool:
        """Whether the channel it came by still stands and it is unsettled."""

    @property
    def standing(self) -> bool:
        """Whether the channel it came by still stands, so that the broker still takes its consumer
        for the active one.
        """

    def ack(self) -> None: ...

    def nack(self, *, requeue: bool) -> None:
        """Return the message to its queue, or, with `requeue` false, to the dead letters."""
