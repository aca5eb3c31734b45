"""The exchanges of a virtual host, and their bindings to queues (AMQP 0-9-1 §3.1.3).

This module knows queues only by name. Methods raise `AmqpError` with RabbitMQ's reply codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rtprov.broker.engine.arguments import check_equivalent
from rtprov.broker.engine.exchange import TYPES, Exchange
from rtprov.broker.storage.interface import Recovered, Storage, StoredExchange
from rtprov.errors import AmqpError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_EXCHANGES = 1_000
MAX_KEYS = 1_000  # bindings of one queue to one exchange


class Routing:
    """Maps a message to the names of its queues. Records durable changes in `storage`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._exchanges: dict[str, Exchange] = {}
        for kind in TYPES:
            self._exchanges[f"amq.{kind}"] = Exchange(
                f"amq.{kind}", kind, durable=True, auto_delete=False
            )

    def restore(self, recovered: Recovered) -> None:
        """Restore exchanges and bindings from the storage, at the start of the broker."""
        for each in recovered.exchanges:
            self._exchanges[each.name] = Exchange(
                each.name, each.kind, True, each.auto_delete, each.internal
            )
        for queue in recovered.queues:
            for exchange, key in queue.bindings:
                self._exchanges[exchange].bind(queue.name, key)

    # Exchanges.

    def declare(
        self,
        name: str,
        kind: str,
        *,
        passive: bool,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        arguments: Mapping[str, Any],
    ) -> None:
        """Declare an exchange (§1.6.2.1).

        Raises `AmqpError`: 403 for a reserved name, 404 if `passive` and there is no such exchange,
        406 if it exists with other properties, 503 for an unknown type, 506 if there are too many,
        540 for what is not implemented.
        """
        existing = self._exchanges.get(name)
        if passive:
            self.named(name)
            return
        if kind == "headers":
            raise AmqpError(540, "NOT_IMPLEMENTED - headers exchanges")
        if kind not in TYPES:
            raise AmqpError(503, f"COMMAND_INVALID - unknown exchange type '{kind}'")
        if existing is not None:
            ours = {
                "type": existing.kind,
                "durable": existing.durable,
                "auto_delete": existing.auto_delete,
                "internal": existing.internal,
            }
            theirs = {
                "type": kind,
                "durable": durable,
                "auto_delete": auto_delete,
                "internal": internal,
            }
            check_equivalent("exchange", name, ours, theirs)
            return
        refuse_reserved("exchange", name)
        if arguments:
            raise AmqpError(540, f"NOT_IMPLEMENTED - exchange arguments {sorted(arguments)}")
        if len(self._exchanges) >= MAX_EXCHANGES:
            raise AmqpError(506, f"RESOURCE_ERROR - at most {MAX_EXCHANGES} exchanges")
        self._exchanges[name] = Exchange(name, kind, durable, auto_delete, internal)
        if durable:
            self._storage.exchange_declared(StoredExchange(name, kind, auto_delete, internal))

    def exchange(self, name: str) -> Exchange:
        """Return the exchange of this name. Raises `AmqpError` 404 if there is none."""
        found = self._exchanges.get(name)
        if found is None:
            raise AmqpError(404, f"NOT_FOUND - no exchange '{name}' in vhost '/'")
        return found

    def named(self, name: str) -> Exchange:
        """Return an exchange that clients can refer to, that is, not the default exchange.

        Raises `AmqpError` 403 for the default exchange, 404 if there is no such exchange.
        """
        _refuse_default(name)
        return self.exchange(name)

    def delete(self, name: str, *, if_unused: bool) -> None:
        """Delete an exchange (§1.6.2.3). Succeeds if there is none, as in RabbitMQ.

        Raises `AmqpError`: 403 for a reserved name, 406 if it has bindings and `if_unused` is set.
        """
        if name == "" or name.startswith("amq."):
            raise AmqpError(
                403,
                "ACCESS_REFUSED - operation not permitted on the default or a reserved exchange"
                f" '{name}'",
            )
        exchange = self._exchanges.get(name)
        if exchange is None:
            return
        if if_unused and exchange.bindings:
            raise AmqpError(406, f"PRECONDITION_FAILED - exchange '{name}' in vhost '/' in use")
        self._remove(exchange)

    def _remove(self, exchange: Exchange) -> None:
        del self._exchanges[exchange.name]
        if exchange.durable:
            self._storage.exchange_deleted(exchange.name)

    # Bindings.

    def bind(self, queue: str, exchange_name: str, key: str, *, stored: bool) -> None:
        """Bind a queue. `stored` is whether the queue is in the storage.

        Raises `AmqpError`: 403 for the default exchange, 404 if there is no such exchange, 506 if
        the queue has too many bindings.
        """
        exchange = self.named(exchange_name)
        if not exchange.is_bound(queue, key) and exchange.key_count(queue) >= MAX_KEYS:
            raise AmqpError(
                506, f"RESOURCE_ERROR - at most {MAX_KEYS} bindings of a queue to an exchange"
            )
        exchange.bind(queue, key)
        if exchange.durable and stored:
            self._storage.bound(queue, exchange_name, key)

    def is_bound(self, queue: str, exchange_name: str, key: str) -> bool:
        """Return whether the exchange exists and the queue is bound to it with this key.

        Raises `AmqpError` 403 for the default exchange.
        """
        _refuse_default(exchange_name)
        exchange = self._exchanges.get(exchange_name)
        return exchange is not None and exchange.is_bound(queue, key)

    def unbind(self, queue: str, exchange_name: str, key: str) -> None:
        """Remove a binding. It must exist; see `is_bound`."""
        exchange = self._exchanges[exchange_name]
        exchange.unbind(queue, key)
        self._storage.unbound(queue, exchange_name, key)
        self._binding_gone(exchange)

    def queue_gone(self, queue: str) -> None:
        """Remove all bindings of a deleted queue. The caller deletes the queue in the storage."""
        for exchange in list(self._exchanges.values()):
            if exchange.unbind_queue(queue):
                self._binding_gone(exchange)

    def _binding_gone(self, exchange: Exchange) -> None:
        """Delete an auto-delete exchange after its last binding."""
        if exchange.auto_delete and not exchange.bindings:
            self._remove(exchange)

    def route(self, exchange: str, key: str) -> list[str]:
        """Return the names of the queues for a message; none if there is no such exchange.

        The default exchange routes to the queue named `key` (§3.1.3.1). That queue need not exist.
        """
        if not exchange:
            return [key]
        found = self._exchanges.get(exchange)
        return [] if found is None else found.route(key)


def _refuse_default(exchange_name: str) -> None:
    if exchange_name == "":
        raise AmqpError(403, "ACCESS_REFUSED - operation not permitted on the default exchange")


def refuse_reserved(what: str, name: str) -> None:
    """Raise `AmqpError` 403 if clients may not declare an exchange or a queue of this name.

    `what` is "exchange" or "queue", for the reply text.
    """
    if name == "" or name.startswith("amq."):
        raise AmqpError(
            403, f"ACCESS_REFUSED - {what} name '{name}' contains reserved prefix 'amq.*'"
        )
