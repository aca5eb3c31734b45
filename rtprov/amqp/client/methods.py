"""The methods that txAMQP generates on each channel, as far as rtprov calls them, spelt out for
readers and the type checker.

They are generated from `rtprov.amqp.client.spec.SPEC`, which has all of AMQP 0-9-1 and RabbitMQ's
extensions; a test holds the two together. Each returns a Deferred that fires with the answer as a
`Message`, or at once with None where the method has no answer or is called with `nowait`. It fails
with `AmqpError` when the broker refuses, with `BrokerUnavailable` when channel or connection are
lost, and with ValueError or TypeError, nothing being sent, when an argument does not fit its field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from rtprov.amqp.client._txamqp import Content, Message

Table = Mapping[str, Any]


class Methods(Protocol):
    """Tickets are obsolete and always 0."""

    def connection_start_ok(
        self,
        client_properties: Table = ...,
        mechanism: str = ...,
        response: str = ...,
        locale: str = ...,
    ) -> Deferred[None]: ...

    def connection_tune_ok(
        self, channel_max: int = ..., frame_max: int = ..., heartbeat: int = ...
    ) -> Deferred[None]: ...

    def connection_open(
        self, virtual_host: str = ..., capabilities: str = ..., insist: bool = ...
    ) -> Deferred[Message]: ...

    def connection_close_ok(self) -> Deferred[None]: ...

    def channel_open(self, out_of_band: str = ...) -> Deferred[Message]: ...

    def channel_flow_ok(self, active: bool = ...) -> Deferred[None]: ...

    def channel_close(
        self,
        reply_code: int = ...,
        reply_text: str = ...,
        class_id: int = ...,
        method_id: int = ...,
    ) -> Deferred[Message]: ...

    def channel_close_ok(self) -> Deferred[None]: ...

    def exchange_declare(
        self,
        ticket: int = ...,
        exchange: str = ...,
        exchange_type: str = ...,
        passive: bool = ...,
        durable: bool = ...,
        auto_delete: bool = ...,
        internal: bool = ...,
        nowait: bool = ...,
        arguments: Table = ...,
    ) -> Deferred[Message]: ...

    def queue_declare(
        self,
        ticket: int = ...,
        queue: str = ...,
        passive: bool = ...,
        durable: bool = ...,
        exclusive: bool = ...,
        auto_delete: bool = ...,
        nowait: bool = ...,
        arguments: Table = ...,
    ) -> Deferred[Message]: ...

    def queue_bind(
        self,
        ticket: int = ...,
        queue: str = ...,
        exchange: str = ...,
        routing_key: str = ...,
        nowait: bool = ...,
        arguments: Table = ...,
    ) -> Deferred[Message]: ...

    def queue_unbind(
        self,
        ticket: int = ...,
        queue: str = ...,
        exchange: str = ...,
        routing_key: str = ...,
        arguments: Table = ...,
    ) -> Deferred[Message]: ...

    def queue_delete(
        self,
        ticket: int = ...,
        queue: str = ...,
        if_unused: bool = ...,
        if_empty: bool = ...,
        nowait: bool = ...,
    ) -> Deferred[Message]: ...

    def basic_qos(
        self, prefetch_size: int = ..., prefetch_count: int = ..., global_: bool = ...
    ) -> Deferred[Message]: ...

    def basic_consume(
        self,
        ticket: int = ...,
        queue: str = ...,
        consumer_tag: str = ...,
        no_local: bool = ...,
        no_ack: bool = ...,
        exclusive: bool = ...,
        nowait: bool = ...,
        arguments: Table = ...,
    ) -> Deferred[Message]: ...

    def basic_cancel(self, consumer_tag: str = ..., nowait: bool = ...) -> Deferred[Message]: ...

    def basic_get(
        self, ticket: int = ..., queue: str = ..., no_ack: bool = ...
    ) -> Deferred[Message]: ...

    def basic_publish(
        self,
        ticket: int = ...,
        exchange: str = ...,
        routing_key: str = ...,
        mandatory: bool = ...,
        immediate: bool = ...,
        content: Content | None = ...,
    ) -> Deferred[None]: ...

    def basic_ack(self, delivery_tag: int = ..., multiple: bool = ...) -> Deferred[None]: ...

    def basic_nack(
        self, delivery_tag: int = ..., multiple: bool = ..., requeue: bool = ...
    ) -> Deferred[None]: ...

    def confirm_select(self, nowait: bool = ...) -> Deferred[Message]: ...
