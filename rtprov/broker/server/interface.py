"""Interfaces of a connection and a channel, for the modules that work on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pamqp import base

    from rtprov.broker.engine.virtual_host import AnyQueue
    from rtprov.broker.server.broker import Broker
    from rtprov.broker.server.commit import PendingCommit
    from rtprov.broker.server.handshake import Handshake


class Client(Protocol):
    """One client's connection. `writable` is False while the client does not read fast enough."""

    broker: Broker
    handshake: Handshake
    pending_commit: PendingCommit
    writable: bool

    def write(self, data: bytes) -> None:
        """Send encoded frames."""

    def send_method(self, channel: int, method: base.Frame) -> None:
        """Send a method without content."""

    def peer(self) -> str:
        """Return the client's address, for the log."""


class Channel(Protocol):
    """One channel of `client`. `closing` is True once the channel ignores all methods."""

    client: Client
    closing: bool

    def send(self, method: base.Frame) -> None:
        """Send a method without content."""

    def send_content(self, method: base.Frame, header: bytes, body: bytes) -> None:
        """Send a method with its content; `header` is the payload of the header frame."""

    def answer(self, method: base.Frame, answer: base.Frame) -> None:
        """Send the reply to a method, unless the client has set ``no-wait``."""

    def queue(self, name: str) -> AnyQueue:
        """Return the queue of this name; for "" the last one declared on this channel.

        Raises `AmqpError`: 404 if there is none, 405 if it is another connection's exclusive queue.
        """

    def new_delivery_tag(self) -> int:
        """Return the next delivery tag.

        Tags start at 1 on each channel. Direct replies have tags too.
        """
