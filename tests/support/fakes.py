"""Fake implementations of the protocols in `rtprov.interfaces`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from zlib import crc32

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed

from rtprov.errors import BrokerUnavailable, KeyMissing, SealError
from rtprov.journal.open_tasks import OpenTasks
from rtprov.journal.store import Store
from rtprov.messaging.event_messages import decode_event
from rtprov.model import Active, Event, Marker, State, Task, Unrecognised
from rtprov.worker.pace import Pace


class PlainSealer:
    """A sealer that only adds a prefix. A body without it counts as tampered with. `replace` sets
    other keys; only their ids are used.
    """

    def __init__(self, *key_ids: str) -> None:
        self.key_ids: tuple[str, ...] = key_ids or ("plain",)
        self._watchers: list[Callable[[], None]] = []

    @property
    def key_id(self) -> str | None:
        return self.key_ids[0]

    def replace(self, *key_ids: str) -> None:
        self.key_ids = key_ids
        for each in list(self._watchers):
            each()

    def watch(self, changed: Callable[[], None]) -> None:
        self._watchers.append(changed)

    def seal(self, body: bytes) -> str:
        return "sealed:" + body.decode()

    def open(self, sealed: str, key: str | None) -> bytes:
        if key is not None and key not in self.key_ids:
            raise KeyMissing(key)
        if not sealed.startswith("sealed:"):
            raise KeyMissing(None) if key is None else SealError("The body was tampered with")
        return sealed.removeprefix("sealed:").encode()

    def fingerprint(self, task_id: str, body: bytes) -> str:
        return f"{task_id}:{len(body)}:{crc32(body)}"

    def matches(self, fingerprint: str, task_id: str, body: bytes) -> bool:
        return fingerprint == self.fingerprint(task_id, body)


@define(eq=False)
class FakeDelivery:
    """A delivery that records how it was settled: "ack", "requeue" or "dead"."""

    body: bytes
    redelivered: bool = False
    settled: str | None = None
    lost: bool = False
    headers: Mapping[str, object] = field(factory=dict)

    @property
    def channel_open(self) -> bool:
        return not self.lost

    @property
    def live(self) -> bool:
        return self.settled is None and not self.lost

    def ack(self) -> None:
        if self.live:
            self.settled = "ack"

    def nack(self, *, requeue: bool) -> None:
        if self.live:
            self.settled = "requeue" if requeue else "dead"


@define(eq=False)
class FakeJournal:
    """Applies events at once while `up` is true. Otherwise appends wait for `come_up`."""

    apply: Callable[[Event], None]
    up: bool = True
    events: list[Event] = field(factory=list)
    barriers: int = 0
    barrier_fails: bool = False
    _waiting: list[tuple[Deferred[None], Event]] = field(factory=list)

    def append(self, event: Event) -> Deferred[None]:
        if not self.up:
            waiting: Deferred[None] = Deferred()
            self._waiting.append((waiting, event))
            return waiting
        self.events.append(event)
        self.apply(event)
        return succeed(None)

    def append_message(self, body: bytes) -> Deferred[None]:
        return self.append(decode_event(body))

    def barrier(self) -> Deferred[None]:
        self.barriers += 1
        return fail(BrokerUnavailable("away")) if self.barrier_fails else succeed(None)

    def come_up(self) -> None:
        self.up = True
        waiting, self._waiting = self._waiting, []
        for deferred, event in waiting:
            if not deferred.called:
                self.append(event)
                deferred.callback(None)


@define(eq=False)
class FakeReplica:
    """A store and its open tasks, which apply events like a worker's replica. `after` is called
    with each applied event.
    """

    store: Store
    open_tasks: OpenTasks = field(factory=OpenTasks)
    after: Callable[[Event], None] = lambda event: None
    offset: int = 0

    def apply(self, event: Event) -> None:
        self.store.apply(event)
        if not isinstance(event, (Active, Marker, Unrecognised)):
            self.open_tasks.on_event(event, self.offset, self.store.state(event.task_id))
        self.offset += 1
        self.after(event)


class NoPace(Pace):
    """Lets everybody pass at once, and uses no timer."""

    def __init__(self) -> None:
        pass

    def allows(self) -> bool:
        return True


@define(eq=False)
class FakeQueue:
    """Keeps each published copy until the test confirms it. While `up` is true, copies are
    confirmed at once.
    """

    up: bool = True
    put_back: list[tuple[str, bytes]] = field(factory=list)
    _waiting: list[Deferred[None]] = field(factory=list)

    def put(self, task_id: str, body: bytes, headers: Mapping[str, object]) -> Deferred[None]:
        self.put_back.append((task_id, body))
        if self.up:
            return succeed(None)
        self._waiting.append(Deferred())
        return self._waiting[-1]

    def delivered(self, task_id: str) -> None:
        pass

    def confirm(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(None)


@define(eq=False)
class Call:
    """One call to A, and its result."""

    task: Task
    body: bytes
    outcome: Deferred[tuple[State, str]]
    cancelled: bool = False

    def end(self, state: State = State.COMPLETED) -> None:
        self.outcome.callback((state, "by the test"))

    def break_off(self, error: Exception) -> None:
        self.outcome.errback(error)


@define(eq=False)
class FakeEquipment:
    """Keeps each call open until the test ends it."""

    calls: list[Call] = field(factory=list)

    def configure(self, task: Task, body: bytes) -> Deferred[tuple[State, str]]:
        def cancel(_: object) -> None:
            call.cancelled = True

        call = Call(task, body, Deferred(cancel))
        self.calls.append(call)
        return call.outcome

    @property
    def under_way(self) -> list[str]:
        """The tasks whose call has not ended, in the order of the calls."""
        return [call.task.task_id for call in self.calls if not call.outcome.called]
