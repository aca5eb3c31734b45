"""The virtual host: all queues and exchanges of the broker, and the messages in them.

It does no I/O and sets no timers. Methods raise `AmqpError` with RabbitMQ's reply codes;
docs/embedded-broker.md lists the intended differences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rtprov.broker.engine.arguments import (
    check_equivalent,
    check_equivalent_arguments,
    check_properties,
    queue_kind,
)
from rtprov.broker.engine.dead_lettering import REJECTED, dead_letter, would_loop
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
    """The virtual host ``/``.

    - `memory`: counts the messages in memory.
    - `now`: returns seconds since the epoch.
    - `new_name`: returns a unique suffix for the name of a queue declared without one.
    - `after_work`: called to commit work that was not caused by a client.
    - `max_age_s`: the longest time in seconds for which streams keep messages, even if their
      ``x-max-age`` is longer (an operator policy in RabbitMQ). None for no limit.
    """

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
        self._unshown: dict[Stream, None] = {}  # used as an ordered set
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
        """Start the expiration of recovered messages, even if no client connects."""
        for queue in self.queues.values():
            if isinstance(queue, Queue):
                queue.expire()

    def commit(self) -> Deferred[None]:
        """Write all changes so far to the storage. The Deferred fires once they are on disk.

        Then the new messages of streams are delivered to consumers.
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
        """Declare a queue and return it (§1.7.2.1).

        `owner` is the client's connection, to which an exclusive queue belongs. Raises `AmqpError`:
        403 for a reserved name, 404 if `passive` and there is no such queue, 405 for another
        connection's exclusive queue, 406 for invalid or different arguments, 506 if there are too
        many queues, 540 for arguments that are not implemented.
        """
        if not passive:
            kind = queue_kind(name, arguments)
            durable = durable and not exclusive  # an exclusive queue is deleted with its connection
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
        """Return the queue of this name, for the connection `owner`.

        Raises `AmqpError`: 404 if there is none, 405 if it is another connection's exclusive queue.
        """
        found = self.queues.get(name)
        if found is None:
            raise AmqpError(404, f"NOT_FOUND - no queue '{name}' in vhost '/'")
        if found.owner is not None and found.owner is not owner:
            raise _locked(name)
        return found

    def bind(self, queue: AnyQueue, exchange: str, key: str) -> None:
        """Bind a queue to an exchange (§1.7.2.3). Raises `AmqpError` as `Routing.bind` does."""
        self.routing.bind(queue.name, exchange, key, stored=queue.durable and queue.owner is None)

    def unbind(self, queue: str, exchange: str, key: str, owner: object) -> None:
        """Remove a binding (§1.7.2.5). Succeeds if there is none, as in RabbitMQ.

        Raises `AmqpError`: 403 for the default exchange, 405 for another connection's exclusive
        queue.
        """
        if self.routing.is_bound(queue, exchange, key):
            self.queue(queue, owner)
            self.routing.unbind(queue, exchange, key)

    def delete_queue(
        self, queue: AnyQueue, *, if_unused: bool = False, if_empty: bool = False
    ) -> int:
        """Delete a queue and cancel its consumers (§1.7.2.9). Return the number of its messages.

        Raises `AmqpError`: 406 if it is in use or not empty and the flag for that is set, 540 for a
        flag that quorum queues do not support.
        """
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
        """Delete an auto-delete queue after its last consumer; otherwise serve the next consumer.

        Called after a consumer was removed from `queue`.
        """
        if queue.auto_delete and not queue.consumers and self.queues.get(queue.name) is queue:
            self.delete_queue(queue)
        else:
            queue.pump()

    def owner_gone(self, owner: object) -> None:
        """Delete the exclusive queues of a closed connection."""
        for queue in [queue for queue in self.queues.values() if queue.owner is owner]:
            self.delete_queue(queue)

    # Messages.

    def publish(self, message: Message) -> bool:
        """Add a message to all queues to which its exchange routes it.

        Return whether there was any. Raises `AmqpError`: 403 for an internal exchange, 404 if there
        is no such exchange.
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
        """Publish a dropped message to the queue's dead-letter exchange, if it has one."""
        letter = dead_letter(message, queue.name, queue.arguments, reason, self._now())
        if letter is None:
            return
        for target in self._route(letter):
            if reason == REJECTED or not would_loop(letter, target.name):
                self._put(target, letter)

    # Expiration.

    def _head_expires(self, queue: Queue, at: float | None) -> None:
        if at is None:
            self._expiring.pop(queue, None)
        else:
            self._expiring[queue] = at

    @property
    def next_expiration(self) -> float | None:
        """When the next message at the head of a queue expires, in seconds since the epoch.

        `expire` must be called then. None if no such message expires.
        """
        return min(self._expiring.values(), default=None)

    def expire(self) -> None:
        """Drop expired messages from the heads of queues."""
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
