"""Methods with names chosen by clients, which the broker sends without pamqp's restrictions.

pamqp accepts only names that AMQP 0-9-1 allows (127 bytes, few characters) when it makes or encodes
a method. RabbitMQ accepts all names that fit in a short string, and so does this broker.
"""

from __future__ import annotations

from pamqp.commands import Basic, Queue


class Deliver(Basic.Deliver):
    """``basic.deliver``."""

    def validate(self) -> None:
        """Accept all names."""


class GetOk(Basic.GetOk):
    """``basic.get-ok``."""

    def validate(self) -> None:
        """Accept all names."""


class Return(Basic.Return):
    """``basic.return``."""

    def validate(self) -> None:
        """Accept all names."""


class DeclareOk(Queue.DeclareOk):
    """``queue.declare-ok``."""

    def validate(self) -> None:
        """Accept all names."""
