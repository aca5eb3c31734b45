"""What an AMQP connection stands on, at either end."""

from __future__ import annotations

from twisted.internet.interfaces import IConsumer, IPushProducer, ITCPTransport


class IAmqpTransport(ITCPTransport, IConsumer, IPushProducer):
    """TCP, or TLS on top of it: it tells its user when to stop writing, and is told when not to
    read. Nobody has to declare it.
    """
