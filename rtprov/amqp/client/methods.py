"""Signatures of the generated channel methods that rtprov calls, for readers and type checkers.

txAMQP generates the methods on each channel from `rtprov.amqp.client.spec.SPEC`, which has all of
AMQP 0-9-1 and RabbitMQ's extensions. A test checks that the signatures here match.

Each method returns a Deferred. It fires with the reply as a `Message`. If the method has no reply,
or is called with `nowait`, it fires at once with None. It fails with

- `AmqpError` if the broker refuses the method,
- `BrokerUnavailable` if the channel or the connection is lost,
- ValueError or TypeError if an argument does not fit its field; nothing is sent then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from rtprov.amqp.client._txamqp import Content, Message

Table = Mapping[str, Any]


class Methods(Protocol):
    """The channel methods. `ticket` is obsolete and always 0."""

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
