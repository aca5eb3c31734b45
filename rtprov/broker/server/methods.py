"""Methods of ours that carry names which clients have chosen.

pamqp holds names to the letter of AMQP 0-9-1 (127 bytes, few signs) wherever it makes or writes a
method; RabbitMQ takes any that fit into a short string, and so do we."""

from __future__ import annotations

from pamqp.commands import Basic, Queue


class Deliver(Basic.Deliver):
    def validate(self) -> None:
        """Any name will do."""


class GetOk(Basic.GetOk):
    def validate(self) -> None:
        """Any name will do."""


class Return(Basic.Return):
    def validate(self) -> None:
        """Any name will do."""


class DeclareOk(Queue.DeclareOk):
    def validate(self) -> None:
        """Any name will do."""
