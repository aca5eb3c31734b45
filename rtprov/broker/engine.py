"""The broker's state: exchanges, queues and what is in them. It knows neither sockets nor frames; the time is asked for, never waited for.

Methods raise `AmqpError` with the reply codes that RabbitMQ gives (docs/embedded-broker.md lists where it differs on purpose).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from rtprov.amqp.framing import decode_header
from rtprov.broker.exchanges import TYPES, Exchange
from rtprov.broker.messages import Message
from rtprov.broker.queues import Queue
from rtprov.broker.storage import Storage, StoredExchange
from rtprov.broker.streams import Stream, max_age_s
from rtprov.errors import AmqpError

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

MAX_QUEUES = 10_000
MAX_EXCHANGES = 1_000

# What rtprov, or a foreign client at home on RabbitMQ, may say of a queue.
_KNOWN_ARGUMENTS = frozenset(
    {
        "x-queue-type",
        "x-single-active-consumer",
        "x-delivery-limit",
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-max-age",
        "x-stream-max-segment-size-bytes",
    }
)


class Engine:
    """One virtual host, ``/``. `now` gives seconds since the epoch; `new_name` makes names for queues that are declared without one."""

    def __init__(self, *, storage: Storage, now: Callable[[], float], new_name: Callable[[], str]) -> None:
        self.storage = storage
        self._now = now
        self._new_name = new_name
        self._exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, Queue | Stream] = {}
        self._unshown: dict[Stream, None] = {}  # an ordered set
        for kind in TYPES:
            self._exchanges[f"amq.{kind}"] = Exchange(f"amq.{kind}", kind, durable=True, auto_delete=False)
        self._recover()

    def _recover(self) -> None:
        recovered = self.storage.recover()
        for each in recovered.exchanges:
            self._exchanges[each.name] = Exchange(each.name, each.kind, True, each.auto_delete, each.internal)
        for stored in recovered.queues:
            queue = self.queues[stored.name] = self._make_queue(stored.name, True, stored.auto_delete, None, stored.arguments)
            for exchange, key in stored.bindings:
                self._exchanges[exchange].bind(stored.name, key)
            queue.restore(stored)

    def commit(self) -> Deferred[None]:
        """Make all that was done so far safe, and show it to whoever reads streams; fire when it is."""
        streams, self._unshown = self._unshown, {}
        marks = [(stream, stream.next_offset) for stream in streams]
        return self.storage.commit().addCallback(lambda _: _show(marks))

    # Exchanges.

    def declare_exchange(
        self, name: str, kind: str, *, passive: bool, durable: bool, auto_delete: bool, internal: bool, arguments: Mapping[str, Any]
    ) -> None:
        """§1.6.2.1."""
        existing = self._exchanges.get(name)
        if passive:
            self.exchange(name)
            return
        if kind not in TYPES:
            raise AmqpError(503, f"COMMAND_INVALID - unknown exchange type '{kind}'")
        if existing is not None:
            for what, ours, theirs in (
                ("type", existing.kind, kind),
                ("durable", existing.durable, durable),
                ("auto_delete", existing.auto_delete, auto_delete),
                ("internal", existing.internal, internal),
            ):
                if ours != theirs:
                    raise AmqpError(406, _inequivalent(what, "exchange", name, theirs, ours))
            return
        _refuse_reserved("exchange", name)
        if arguments:
            raise AmqpError(540, f"NOT_IMPLEMENTED - exchange arguments {sorted(arguments)}")
        if len(self._exchanges) >= MAX_EXCHANGES:
            raise AmqpError(506, f"RESOURCE_ERROR - at most {MAX_EXCHANGES} exchanges")
        self._exchanges[name] = Exchange(name, kind, durable, auto_delete, internal)
        if durable:
            self.storage.exchange_declared(StoredExchange(name, kind, auto_delete, internal))

    def exchange(self, name: str) -> Exchange:
        """Raises `AmqpError` 404."""
        found = self._exchanges.get(name)
        if found is None:
            raise AmqpError(404, f"NOT_FOUND - no exchange '{name}' in vhost '/'")
        return found

    def delete_exchange(self, name: str, *, if_unused: bool) -> None:
        """§1.6.2.3; deleting what is not there succeeds, as in RabbitMQ."""
        if name == "" or name.startswith("amq."):
            raise AmqpError(403, f"ACCESS_REFUSED - operation not permitted on the default or a reserved exchange '{name}'")
        exchange = self._exchanges.get(name)
        if exchange is None:
            return
        if if_unused and exchange.bindings:
            raise AmqpError(406, f"PRECONDITION_FAILED - exchange '{name}' in vhost '/' in use")
        self._remove_exchange(exchange)

    def _remove_exchange(self, exchange: Exchange) -> None:
        del self._exchanges[exchange.name]
        if exchange.durable:
            self.storage.exchange_deleted(exchange.name)

    # Queues.

    def declare_queue(
        self, name: str, *, passive: bool, durable: bool, exclusive: bool, auto_delete: bool, arguments: Mapping[str, Any], owner: object
    ) -> Queue | Stream:
        """§1.7.2.1. An exclusive queue belongs to `owner`, a connection."""
        if name == "" and not passive:
            name = self._unused_name()
        elif passive or name in self.queues:
            queue = self.queue(name, owner)
            if not passive:
                self._check_equivalent(queue, durable, exclusive, auto_delete, arguments)
            return queue
        else:
            _refuse_reserved("queue", name)
        if len(self.queues) >= MAX_QUEUES:
            raise AmqpError(506, f"RESOURCE_ERROR - at most {MAX_QUEUES} queues")
        queue = self.queues[name] = self._make_queue(name, durable, auto_delete, owner if exclusive else None, arguments)
        if durable and not exclusive:
            self.storage.queue_declared(name, arguments, auto_delete)
        return queue

    def _unused_name(self) -> str:
        while (name := f"amq.gen-{self._new_name()}") in self.queues:
            pass
        return name

    def _make_queue(
        self, name: str, durable: bool, auto_delete: bool, owner: object | None, arguments: Mapping[str, Any]
    ) -> Queue | Stream:
        kind = arguments.get("x-queue-type", "classic")
        if kind not in ("classic", "quorum", "stream"):
            raise AmqpError(406, f"PRECONDITION_FAILED - invalid arg 'x-queue-type' for queue '{name}' in vhost '/'")
        unknown = sorted(set(arguments) - _KNOWN_ARGUMENTS)
        if unknown:
            if kind == "quorum" and "x-max-priority" in unknown:
                raise AmqpError(
                    406, f"PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue '{name}' in vhost '/' of queue type quorum"
                )
            raise AmqpError(540, f"NOT_IMPLEMENTED - queue arguments {unknown}")
        if kind != "classic":
            for what, wrong in (("non-durable", not durable), ("exclusive", owner is not None), ("auto-delete", auto_delete)):
                if wrong:
                    raise AmqpError(406, f"PRECONDITION_FAILED - invalid property '{what}' for queue '{name}' in vhost '/'")
        if kind == "stream":
            return Stream(name, dict(arguments), self.storage, self._now, max_age_s(arguments))
        limit = arguments.get("x-delivery-limit")
        if limit is not None and (kind != "quorum" or not isinstance(limit, int) or limit < 0):
            raise AmqpError(406, f"PRECONDITION_FAILED - invalid arg 'x-delivery-limit' for queue '{name}' in vhost '/'")
        return Queue(
            name=name,
            durable=durable,
            auto_delete=auto_delete,
            owner=owner,
            arguments=dict(arguments),
            storage=self.storage,
            now=self._now,
            dead_letter=self._dead_letter,
            commit=self.commit,
            kind=kind,
            single_active=bool(arguments.get("x-single-active-consumer", False)),
            delivery_limit=limit,
        )

    def _check_equivalent(
        self, queue: Queue | Stream, durable: bool, exclusive: bool, auto_delete: bool, arguments: Mapping[str, Any]
    ) -> None:
        for what, ours, theirs in (
            ("durable", queue.durable, durable),
            ("auto_delete", queue.auto_delete, auto_delete),
            ("exclusive", queue.owner is not None, exclusive),
        ):
            if ours != theirs:
                raise AmqpError(406, _inequivalent(what, "queue", queue.name, theirs, ours))
        for key in sorted(set(queue.arguments) | set(arguments)):
            current, received = queue.arguments.get(key), arguments.get(key)
            if current != received and not (key == "x-queue-type" and queue.kind == "classic" and received in (None, "classic")):
                raise AmqpError(406, _inequivalent(key, "queue", queue.name, received, current))

    def queue(self, name: str, owner: object) -> Queue | Stream:
        """The queue, for this connection. Raises `AmqpError` 404, or 405 where it is another connection's own."""
        found = self.queues.get(name)
        if found is None:
            raise AmqpError(404, f"NOT_FOUND - no queue '{name}' in vhost '/'")
        if found.owner is not None and found.owner is not owner:
            raise AmqpError(405, f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '/'")
        return found

    def bind(self, queue: Queue | Stream, exchange_name: str, key: str) -> None:
        """§1.7.2.3."""
        exchange = self._bindable(exchange_name)
        exchange.bind(queue.name, key)
        if exchange.durable and queue.durable and queue.owner is None:
            self.storage.bound(queue.name, exchange_name, key)

    def unbind(self, queue: Queue | Stream, exchange_name: str, key: str) -> None:
        """§1.7.2.5."""
        exchange = self._bindable(exchange_name)
        bound = exchange.unbind(queue.name, key)
        self.storage.unbound(queue.name, exchange_name, key)
        if bound:
            self._binding_gone(exchange)

    def _bindable(self, name: str) -> Exchange:
        if name == "":
            raise AmqpError(403, "ACCESS_REFUSED - operation not permitted on the default exchange")
        return self.exchange(name)

    def _binding_gone(self, exchange: Exchange) -> None:
        """An auto-delete exchange goes with its last binding."""
        if exchange.auto_delete and not exchange.bindings:
            self._remove_exchange(exchange)

    def delete_queue(self, queue: Queue | Stream, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """§1.7.2.9; its consumers are told. Return how many messages went with it."""
        if if_unused and queue.consumers:
            raise AmqpError(406, f"PRECONDITION_FAILED - queue '{queue.name}' in vhost '/' in use")
        if if_empty and queue.message_count:
            raise AmqpError(406, f"PRECONDITION_FAILED - queue '{queue.name}' in vhost '/' is not empty")
        count = queue.message_count
        del self.queues[queue.name]
        queue.deleted = True
        if isinstance(queue, Stream):
            self._unshown.pop(queue, None)
        for exchange in list(self._exchanges.values()):
            if exchange.unbind_queue(queue.name):
                self._binding_gone(exchange)
        if queue.durable and queue.owner is None:
            self.storage.queue_deleted(queue.name)
        for consumer in list(queue.consumers):
            queue.remove_consumer(consumer)
            consumer.cancelled()
        return count

    def consumer_gone(self, queue: Queue | Stream) -> None:
        """A consumer has left: an auto-delete queue goes with its last one, any other hands its messages to the next."""
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
        """Put a message into every queue that its exchange routes it to; return whether there was one. Raises `AmqpError` 404, 403."""
        if message.exchange == "":
            names = [message.routing_key]
        else:
            exchange = self.exchange(message.exchange)
            if exchange.internal:
                raise AmqpError(403, f"ACCESS_REFUSED - cannot publish to internal exchange '{message.exchange}' in vhost '/'")
            names = exchange.route(message.routing_key)
        queues = [self.queues[name] for name in names if name in self.queues]
        for queue in queues:
            queue.publish(message)
            if isinstance(queue, Stream):
                self._unshown[queue] = None
        return bool(queues)

    def _dead_letter(self, queue: Queue, message: Message, reason: str, deliveries: int) -> None:
        """Pass a message on to the queue's dead-letter exchange, with one more entry in ``x-death``; without one it is gone."""
        target = queue.arguments.get("x-dead-letter-exchange")
        if not isinstance(target, str) or (target and target not in self._exchanges):
            return
        old_headers: dict[str, Any] = dict(message.properties.headers or {})
        deaths: list[Any] = list(old_headers.get("x-death") or [])
        same = [death for death in deaths if isinstance(death, dict) and (death.get("queue"), death.get("reason")) == (queue.name, reason)]
        if same and reason != "rejected":
            return  # it goes round in circles on its own (RabbitMQ drops such messages too)
        death: dict[str, Any] = {
            "count": 1 + sum(int(death["count"]) for death in same),
            "reason": reason,
            "queue": queue.name,
            "time": datetime.fromtimestamp(self._now(), tz=timezone.utc),
            "exchange": message.exchange,
            "routing-keys": [message.routing_key],
        }
        deaths = [death, *(each for each in deaths if each not in same)]
        key = queue.arguments.get("x-dead-letter-routing-key", message.routing_key)
        headers = {
            **old_headers,
            "x-death": deaths,
            "x-first-death-exchange": deaths[-1]["exchange"],
            "x-first-death-queue": deaths[-1]["queue"],
            "x-first-death-reason": deaths[-1]["reason"],
        }
        header = message.with_properties(headers=headers, expiration=None)
        self.publish(Message(target, key, decode_header(header).properties, header, message.body))


def _show(marks: list[tuple[Stream, int]]) -> None:
    for stream, upto in marks:
        stream.show(upto)


def _refuse_reserved(what: str, name: str) -> None:
    if name == "" or name.startswith("amq."):
        raise AmqpError(403, f"ACCESS_REFUSED - {what} name '{name}' contains reserved prefix 'amq.*'")


def _inequivalent(what: str, kind: str, name: str, received: object, current: object) -> str:
    return (
        f"PRECONDITION_FAILED - inequivalent arg '{what}' for {kind} '{name}' in vhost '/': "
        f"received {_shown(received)} but current is {_shown(current)}"
    )


def _shown(value: object) -> str:
    return "none" if value is None else f"'{str(value).lower() if isinstance(value, bool) else value}'"
