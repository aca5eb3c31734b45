"""The classes that rtprov uses from txAMQP 0.8.2. No other module imports txAMQP.

rtprov uses txAMQP's channel model: a client with channels, methods generated on each channel from a
specification, messages and delegates. It does not use txAMQP's codec, queues or timers; see
`rtprov.amqp.client.protocol` for the reasons. The type stubs are in ``stubs/txamqp``. Importing
this module does not import a reactor.
"""

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
