"""txAMQP as the type checker sees it: the only module that imports the untyped package.

Of txAMQP 0.8.2 rtprov takes the channel model: a client with channels, methods generated on each
channel from a specification, messages, delegates. Not its codec, its queues or its timers;
`rtprov.amqp.client.protocol` says why. Importing this imports no reactor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FunctionType

    from pamqp import base
    from twisted.internet.defer import Deferred
    from twisted.internet.protocol import Protocol
    from twisted.python.failure import Failure

    from rtprov.amqp.client.methods import Methods

    class _Container:
        byname: dict[str, Any]
        byid: dict[int, Any]

        def add(self, item: object) -> None: ...
        def __iter__(self) -> Iterator[Any]: ...
        def __len__(self) -> int: ...

    class Spec:
        constants: _Container
        classes: _Container
        klass: type

        def __init__(self, major: int, minor: int, file: str) -> None: ...
        def define_class(self, name: str) -> type: ...

    class Constant:
        id: int

        def __init__(
            self, spec: Spec, name: str, id: int, klass: str | None, docs: list[str]
        ) -> None: ...

    class Class:
        name: str
        id: int
        methods: _Container

        def __init__(
            self, spec: Spec, name: str, id: int, handler: str, docs: list[str]
        ) -> None: ...

    class Method:
        name: str
        id: int
        klass: Class
        content: bool
        fields: _Container
        responses: list[Method]
        response: bool

        def __init__(
            self,
            klass: Class,
            name: str,
            id: int,
            content: bool,
            responses: list[Any],
            synchronous: bool,
            description: str,
            docs: list[str],
        ) -> None: ...
        def define_method(self, name: str) -> FunctionType: ...

    class Field:
        def __init__(self, name: str, id: int, type: str, docs: list[str]) -> None: ...

    def pythonize(name: str) -> str: ...

    class Content:
        body: bytes
        properties: Any

        def __init__(
            self, body: bytes = ..., children: None = None, properties: object = None
        ) -> None: ...

    class Message:
        """A method that arrived: its fields are attributes, spelt as in
        `rtprov.amqp.client.methods`.
        """

        method: Any
        content: Content | None

        def __init__(
            self, method: Method, fields: Sequence[object], content: Content | None = None
        ) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    class TwistedEvent:
        def fire(self) -> None: ...
        def fail_if_not_fired(self, reason: Failure) -> None: ...
        def wait(self) -> Deferred[bool]: ...

    class ChannelBase(Methods):
        id: int
        closed: bool

    class ClientBase(Protocol):
        vhost: str
        closed: bool
        channels: dict[int, Any]
        started: TwistedEvent
        disconnected: TwistedEvent

    class DelegateBase:
        client: Any

        def dispatch(self, channel: Any, message: Message) -> object: ...

    Command = type[base.Frame]
else:
    from txamqp.client import TwistedDelegate as DelegateBase
    from txamqp.client import TwistedEvent
    from txamqp.content import Content
    from txamqp.message import Message
    from txamqp.protocol import AMQChannel as ChannelBase
    from txamqp.protocol import AMQClient as ClientBase
    from txamqp.spec import Class, Constant, Field, Method, Spec, pythonize

__all__ = [
    "ChannelBase",
    "Class",
    "ClientBase",
    "Constant",
    "Content",
    "DelegateBase",
    "Field",
    "Message",
    "Method",
    "Spec",
    "TwistedEvent",
    "pythonize",
]
