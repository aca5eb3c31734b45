"""The interfaces between the packages, as protocols.

Each is small, so that a test can implement it with a class of a few lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from rtprov.model import Details, Event, State, Task

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from rtprov.intervals import Interval
    from rtprov.reports import (
        Cursor,
        FoundTask,
        FoundTasks,
        HistoryCounts,
        ReasonCounts,
        ReplicaCoverage,
        ShardReasons,
        ShardSummary,
        TaskFilter,
    )


class TaskSink(Protocol):
    """Accepts tasks and cancellations from the front end."""

    def submit(self, task: Task) -> Deferred[None]:
        """Publish a task; fire once the broker has confirmed it for the work queue and the journal.

        Fails with `BrokerUnavailable`, `Overloaded`, `Unroutable` or `NotReady` if the task was
        certainly not accepted, and with `Unconfirmed` if it may have been. Fires within 5 s.
        Cancelling the Deferred stops the wait; it does not withdraw the task.
        """

    def cancel(self, task_id: str, equipment_id: str, at: float) -> Deferred[None]:
        """Publish a `Cancelled` event with the time `at`; fire once the broker has confirmed it.

        Fails as `submit` does.
        """


class TaskQueries(Protocol):
    """Returns details of tasks to the front end.

    All Deferreds fire within 5 s, or fail with `NoWorker` or `BrokerError`.
    """

    def details(
        self, task_id: str, equipment_id: str, *, barrier: bool
    ) -> Deferred[Details | None]:
        """Fire with what a replica knows of the task, or None if it knows no such task.

        With `barrier`, the replica first reads every event that was confirmed before this call.
        """

    def find(self, task_id: str) -> Deferred[Details | None]:
        """Fire with the task of this id, whatever its equipment; None if there is no such task."""

    def tasks_of(
        self, equipment_id: str, before: str | None, limit: int
    ) -> Deferred[list[Details]]:
        """Fire with at most `limit` (1 to 100) tasks of the equipment, newest first.

        If `before` is the id of a task, only tasks older than that one are listed.
        """


class Completions(Protocol):
    """Lets the front end wait until tasks end."""

    @property
    def full(self) -> bool:
        """Whether the maximum number of clients is waiting."""

    def wait(self, task_id: str, equipment_id: str, wait_s: float) -> Deferred[State | None]:
        """Fire with the task's final state, or with None after `wait_s` seconds.

        With None, the Deferred may fire up to 0.1 s early, and never late. When the front end
        stops, it fires at once with None. It never fails. Cancelling it ends the wait.
        """


class StatusSource(Protocol):
    """Returns the states of tasks to the front end."""

    def status(self, task_id: str, equipment_id: str) -> Deferred[State | None]:
        """Fire with the task's state, or None if this equipment has no such task.

        Fails with `NoWorker`, `NoReply`, `BrokerUnavailable` or `Overloaded`. Fires within 5 s.
        """


class Equipment(Protocol):
    """Calls service A for the worker."""

    def configure(self, task: Task, body: bytes) -> Deferred[tuple[State, str]]:
        """Call A once, with `body` unchanged; fire with a final state and the reason for it.

        The reason goes into the journal, so it contains no parameter. Fails with
        `EquipmentUnreachable` if the call may be repeated, with `EquipmentSilent` if A did not
        answer (which is final), and with `OutOfResources` if this machine could not make the call.

        Once the request is written, the Deferred fires within max(`task.timeout_s`, 60) + 30 s.
        Before that the call may wait for its turn to connect; connecting itself takes a few seconds
        at most.
        """


class Sealer(Protocol):
    """Encrypts the parameters of tasks, so that only the worker can read them."""

    def seal(self, body: bytes) -> str:
        """Encrypt a request's body with the first key; return ASCII text.

        Raises `NotReady` if there is no key yet.
        """

    def open(self, sealed: str, key: str | None) -> bytes:
        """Return the body that was sealed.

        `key` is the id of the key that sealed it, None if its message has no id. Raises
        `KeyMissing` if this process does not have that key, or if `key` is None and no key opens
        the body; otherwise `SealError`.
        """

    @property
    def key_ids(self) -> Sequence[str]:
        """The ids of all keys. The first key seals. An id reveals nothing about its key."""

    @property
    def key_id(self) -> str | None:
        """The id of the key that seals, None if there is no key yet."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` each time the keys have changed."""

    def fingerprint(self, task_id: str, body: bytes) -> str:
        """Return a fingerprint of a task's body, as ASCII text.

        With the keys, one can check whether another body of the same task is equal. Without them,
        the fingerprint reveals nothing about the body. Raises `NotReady` if there is no key yet.
        """

    def matches(self, fingerprint: str, task_id: str, body: bytes) -> bool:
        """Return whether `fingerprint` was made of this task's body, with any of the keys."""


class StatusReader(Protocol):
    """The part of a replica that answers status requests."""

    def lookup(self, task_id: str, equipment_id: str) -> State | None:
        """Return the task's state, or None if this equipment has no such task.

        None may also mean that the replica has not read the task's event yet.
        """


class Replica(StatusReader, Protocol):
    """A replica that answers all questions about tasks; see `rtprov.journal.store.Store`.

    `now` is seconds since the epoch.
    """

    def details(self, task_id: str, equipment_id: str | None, now: float) -> Details | None: ...

    def tasks_of(
        self, equipment_id: str, before: str | None, limit: int, now: float
    ) -> list[Details]: ...


class TaskReports(Protocol):
    """A replica of one shard that answers the questions of operators.

    `now` is seconds since the epoch. `before` is a position at which an earlier piece has stopped.
    `out_of_time` is asked from time to time whether the piece must end.
    """

    def replica(self, now: float) -> ReplicaCoverage:
        """Return the name of this process, and from which times it knows all ends."""

    def summary(self, now: float) -> ShardSummary:
        """Return the shard in numbers. The cost does not depend on the number of tasks."""

    def search(
        self,
        wanted: TaskFilter,
        before: Cursor | None,
        limit: int,
        now: float,
        out_of_time: Callable[[], bool],
    ) -> FoundTasks:
        """Return at most `limit` (from 1) of the tasks that `wanted` selects, newest first."""

    def reasons(
        self, wanted: TaskFilter, before: Cursor | None, out_of_time: Callable[[], bool]
    ) -> ReasonCounts:
        """Count the ended tasks that `wanted` selects, by reason."""

    def found(self, task_id: str, now: float) -> FoundTask | None:
        """Return a task with its position, None if it is not known."""

    def on_end(self, ended: Callable[[str], None]) -> None:
        """Call `ended` with the id of each task that ends from now on while this process is the
        active one of the shard.
        """


class TaskHistory(Protocol):
    """The ended tasks of one shard on this worker's disk.

    All Deferreds fire within 2 s, or fail with `HistoryUnavailable`.
    """

    def covered(self, now: float) -> Sequence[Interval]:
        """Return from which times all ends are known at `now`, in seconds since the epoch."""

    def search(self, wanted: TaskFilter, before: Cursor | None, limit: int) -> Deferred[FoundTasks]:
        """Fire with at most `limit` (from 1) of the tasks that `wanted` selects, newest first.

        There may be fewer, even none, although others follow; see `FoundTasks.upto`.
        """

    def reasons(self, wanted: TaskFilter) -> Deferred[HistoryCounts]:
        """Fire with the numbers of the tasks that `wanted` selects, by day and reason."""


class Journal(Protocol):
    """The ordered events of one shard, and this process's replica of them."""

    def append(self, event: Event) -> Deferred[None]:
        """Publish an event; fire once the broker has confirmed it.

        If the broker is not available, the event is kept and published later, without a time limit.
        It does not fail because of the broker. Cancelling it ends the attempts; the event may be in
        the journal or not.
        """

    def append_message(self, body: bytes) -> Deferred[None]:
        """Append the encoded message of an event or a task, as `append` does."""

    def barrier(self) -> Deferred[None]:
        """Fire once this process's replica has every event that was confirmed before this call.

        Calls that come while a marker is on its way share the next marker. Fails with `BrokerError`
        if the connection to the broker is lost first.
        """


class Delivery(Protocol):
    """A message delivered by the broker, until it is acknowledged or rejected.

    Settling it twice, or after its channel was closed, has no effect.
    """

    @property
    def body(self) -> bytes: ...

    @property
    def headers(self) -> Mapping[str, object]:
        """The headers of the message, including those added by the broker."""

    @property
    def redelivered(self) -> bool: ...

    @property
    def live(self) -> bool:
        """Whether the message is not settled and its channel is still open."""

    @property
    def channel_open(self) -> bool:
        """Whether its channel is still open, so the broker still treats its consumer as active."""

    def ack(self) -> None: ...

    def nack(self, *, requeue: bool) -> None:
        """Return the message to its queue; with `requeue` false, send it to the dead letters."""


class ShardReports(Protocol):
    """Asks the workers what operators want to know. Shards are given by their indexes.

    All Deferreds fire within 3 s.
    """

    @property
    def shards(self) -> Sequence[str]:
        """The names of the shards."""

    def summaries(self, shard: int) -> Deferred[list[ShardSummary]]:
        """Fire with the summaries of all replicas that answer; with none if the broker or all
        workers are away. Never fails.
        """

    def search(
        self, shard: int, wanted: TaskFilter, before: Cursor | None, limit: int, *, barrier: bool
    ) -> Deferred[FoundTasks]:
        """Fire with the next tasks of a search, at most `limit` (1 to 200).

        There may be fewer, even none, although others follow; see `FoundTasks.upto`. Fails with
        `NoWorker` or `BrokerError`.
        """

    def reasons(self, shard: int, wanted: TaskFilter) -> Deferred[ShardReasons]:
        """Fire with the numbers of ended tasks by reason.

        Fails with `NoWorker` or `BrokerError`.
        """

    def follow(self, each: Callable[[Sequence[FoundTask], int], None]) -> Callable[[], None]:
        """Call `each` with tasks that have ended, and the number of others that did.

        Return a function that ends this. Ends are missed while a worker cannot be reached.
        """
