"""The only module that imports txAMQP; its types are in ``stubs/txamqp``.

rtprov uses the channel model of txAMQP 0.8.2: a client with channels, methods generated on each
channel from a specification, messages, delegates. It does not use txAMQP's codec, queues or
timers; `rtprov.amqp.client.protocol` says why. Importing this module imports no reactor."""

from __future__ import annotations

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
