"""The broker's state: its queues and what is in them. It knows neither sockets nor frames; the time
is asked for, never waited for.

Methods raise `AmqpError` with the reply codes that RabbitMQ gives (docs/embedded-broker.md lists
where it differs on purpose)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rtprov.broker.engine.arguments import (
    check_equivalent,
    check_equivalent_arguments,
    check_properties,
    queue_kind,
)
from rtprov.broker.engine.dead_lettering import REJECTED, dead_letter, in_circles
from rtprov.broker.engine.memory_alarm import Memory
from rtprov.broker.engine.queue import Queue
from rtprov.broker.engine.routing import Routing, refuse_reserved
from rtprov.broker.engine.stream import Stream, max_age_s
from rtprov.broker.messages import Message
from rtprov.broker.storage.interface import Storage
from rtprov.errors import AmqpError

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

AnyQueue = Queue | Stream

MAX_QUEUES = 10_000


class VirtualHost:
    """One virtual host, ``/``. `now` gives seconds since the epoch; `new_name` makes names for
    queues that are declared without one. `memory` counts the messages that are held in memory;
    `after_work` is called to commit work that no client set off.

    With `max_age_s`, streams keep nothing for longer, whatever ``x-max-age`` they were declared
    with (RabbitMQ: operator policy)."""

    def __init__(
        self,
        *,
        storage: Storage,
        memory: Memory,
        now: Callable[[], float],
        new_name: Callable[[], str],
        after_work: Callable[[], None],
        max_age_s: float | None = None,
    ) -> None:
        self.storage = storage
        self.memory = memory
        self._now = now
        self._new_name = new_name
        self._after_work = after_work
        self._max_age_s = max_age_s
        self.routing = Routing(storage)
        self.queues: dict[str, AnyQueue] = {}
        self._unshown: dict[Stream, None] = {}  # an ordered set
        self._expiring: dict[Queue, float] = {}
        self._recover()

    def _recover(self) -> None:
        recovered = self.storage.recover()
        self.routing.restore(recovered)
        for stored in recovered.queues:
            queue = self.queues[stored.name] = self._make_queue(
                stored.name, True, stored.auto_delete, None, stored.arguments
            )
            queue.restore(stored)

    def wake(self) -> None:
        """Look at the heads of recovered queues, whose messages may expire with no client there."""
        for queue in self.queues.values():
            if isinstance(queue, Queue):
                queue.expire()

    def commit(self) -> Deferred[None]:
        """Make all that was done so far safe, and show it to whoever reads streams; fire when it
        is.
        """
        streams, self._unshown = self._unshown, {}
        marks = [(stream, stream.next_offset) for stream in streams]
        return self.storage.commit().addCallback(lambda _: _show(marks))

    # Queues.

    def declare_queue(
        self,
        name: str,
        *,
        passive: bool,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        arguments: Mapping[str, Any],
        owner: object,
    ) -> AnyQueue:
        """§1.7.2.1. An exclusive queue belongs to `owner`, a connection."""
        if not passive:
            kind = queue_kind(name, arguments)
            durable = durable and not exclusive  # it ends with its connection
        if name == "" and not passive:
            name = self._unused_name()
        elif passive or name in self.queues:
            queue = self.queue(name, owner)
            if not passive:
                if exclusive != (queue.owner is not None):
                    raise _locked(name)
                ours = {"durable": queue.durable, "auto_delete": queue.auto_delete}
                theirs = {"durable": durable, "auto_delete": auto_delete}
                check_equivalent("queue", name, ours, theirs)
                check_equivalent_arguments(name, queue.kind, queue.arguments, arguments)
            return queue
        else:
            refuse_reserved("queue", name)
        if len(self.queues) >= MAX_QUEUES:
            raise AmqpError(506, f"RESOURCE_ERROR - at most {MAX_QUEUES} queues")
        check_properties(name, kind, durable=durable, exclusive=exclusive, auto_delete=auto_delete)
        queue = self._make_queue(
            name, durable, auto_delete, owner if exclusive else None, arguments
        )
        if durable:
            self.storage.queue_declared(name, arguments, auto_delete)
        self.queues[name] = queue
        return queue

    def _unused_name(self) -> str:
        while (name := f"amq.gen-{self._new_name()}") in self.queues:
            pass
        return name

    def _make_queue(
        self,
        name: str,
        durable: bool,
        auto_delete: bool,
        owner: object | None,
        arguments: Mapping[str, Any],
    ) -> AnyQueue:
        kind = arguments.get("x-queue-type", "classic")
        if kind == "stream":
            ages = [age for age in (max_age_s(arguments), self._max_age_s) if age is not None]
            return Stream(name, dict(arguments), self.storage, self._now, min(ages, default=None))
        return Queue(
            name=name,
            durable=durable,
            auto_delete=auto_delete,
            owner=owner,
            arguments=dict(arguments),
            storage=self.storage,
            memory=self.memory,
            now=self._now,
            dead_letter=self._dead_letter,
            after_work=self._after_work,
            head_expires=self._head_expires,
            kind=kind,
            single_active=bool(arguments.get("x-single-active-consumer", False)),
            delivery_limit=arguments.get("x-delivery-limit"),
        )

    def queue(self, name: str, owner: object) -> AnyQueue:
        """The queue, for this connection. Raises `AmqpError` 404, or 405 where it is another
        connection's own.
        """
        found = self.queues.get(name)
        if found is None:
            raise AmqpError(404, f"NOT_FOUND - no queue '{name}' in vhost '/'")
        if found.owner is not None and found.owner is not owner:
            raise _locked(name)
        return found

    def bind(self, queue: AnyQueue, exchange: str, key: str) -> None:
        """§1.7.2.3. Raises `AmqpError` as `Routing.bind` does."""
        self.routing.bind(queue.name, exchange, key, stored=queue.durable and queue.owner is None)

    def unbind(self, queue: str, exchange: str, key: str, owner: object) -> None:
        """§1.7.2.5; unbinding what is not bound succeeds for everybody, as in RabbitMQ. Raises
        `AmqpError` 403, 405.
        """
        if self.routing.is_bound(queue, exchange, key):
            self.queue(queue, owner)
            self.routing.unbind(queue, exchange, key)

    def delete_queue(
        self, queue: AnyQueue, *, if_unused: bool = False, if_empty: bool = False
    ) -> int:
        """§1.7.2.9; its consumers are told. Return how many messages went with it."""
        if queue.kind == "quorum" and (if_unused or if_empty):
            flag = "if-unused" if if_unused else "if-empty"
            text = (
                f"cannot delete queue '{queue.name}' in vhost '/'. queue.delete operations with"
                f" {flag} flag set are not supported"
            )
            raise AmqpError(540, f"NOT_IMPLEMENTED - {text} by quorum queues")
        if if_unused and queue.consumers:
            raise AmqpError(406, f"PRECONDITION_FAILED - queue '{queue.name}' in vhost '/' in use")
        if if_empty and queue.message_count:
            raise AmqpError(
                406, f"PRECONDITION_FAILED - queue '{queue.name}' in vhost '/' is not empty"
            )
        count = queue.message_count
        del self.queues[queue.name]
        queue.delete()
        if isinstance(queue, Stream):
            self._unshown.pop(queue, None)
        else:
            self._expiring.pop(queue, None)
        self.routing.queue_gone(queue.name)
        if queue.durable and queue.owner is None:
            self.storage.queue_deleted(queue.name)
        for consumer in list(queue.consumers):
            queue.remove_consumer(consumer)
            consumer.cancelled()
        return count

    def consumer_gone(self, queue: AnyQueue) -> None:
        """A consumer has left: an auto-delete queue goes with its last one, any other hands its
        messages to the next.
        """
        if queue.auto_delete and not queue.consumers and self.queues.get(queue.name) is queue:
            self.delete_queue(queue)
        else:
            queue.pump()

    def owner_gone(self, owner: object) -> None:
        """A connection is over: its exclusive queues go with it."""
        for queue in [queue for queue in self.queues.values() if queue.owner is owner]:
            self.delete_queue(queue)

    # Messages.

    def publish(self, message: Message) -> bool:
        """Put a message into every queue that its exchange routes it to; return whether there was
        one. Raises `AmqpError` 404, 403.
        """
        if message.exchange and self.routing.exchange(message.exchange).internal:
            raise AmqpError(
                403,
                f"ACCESS_REFUSED - cannot publish to internal exchange '{message.exchange}' in"
                " vhost '/'",
            )
        queues = self._route(message)
        for queue in queues:
            self._put(queue, message)
        return bool(queues)

    def _put(self, queue: AnyQueue, message: Message) -> None:
        queue.publish(message)
        if isinstance(queue, Stream):
            self._unshown[queue] = None

    def _route(self, message: Message) -> list[AnyQueue]:
        names = self.routing.route(message.exchange, message.routing_key)
        return [self.queues[name] for name in names if name in self.queues]

    def _dead_letter(self, queue: Queue, message: Message, reason: str) -> None:
        """Pass a message on to the queue's dead-letter exchange; without one it is gone."""
        letter = dead_letter(message, queue.name, queue.arguments, reason, self._now())
        if letter is None:
            return
        for target in self._route(letter):
            if reason == REJECTED or not in_circles(letter, target.name):
                self._put(target, letter)

    # Expiration.

    def _head_expires(self, queue: Queue, at: float | None) -> None:
        if at is None:
            self._expiring.pop(queue, None)
        else:
            self._expiring[queue] = at

    @property
    def next_expiration(self) -> float | None:
        """When the next message at the head of a queue expires: `expire` is due then."""
        return min(self._expiring.values(), default=None)

    def expire(self) -> None:
        """Drop what has expired at the heads of queues."""
        now = self._now()
        for queue in [queue for queue, at in self._expiring.items() if at <= now]:
            queue.expire()


def _show(marks: list[tuple[Stream, int]]) -> None:
    for stream, upto in marks:
        stream.show(upto)


def _locked(name: str) -> AmqpError:
    return AmqpError(
        405,
        f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '/'",
    )
