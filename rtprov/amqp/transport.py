"""The interface of the transport below an AMQP connection, for clients and the broker."""

from __future__ import annotations

from twisted.internet.interfaces import IConsumer, IPushProducer, ITCPTransport


class IAmqpTransport(ITCPTransport, IConsumer, IPushProducer):
    """A TCP or TLS transport with flow control in both directions.

    It tells the protocol when to stop writing, and the protocol can stop it from reading. Only type
    checkers use this interface; transports do not declare it.
    """
