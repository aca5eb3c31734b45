"""The interface of a connection that its channels use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from rtprov.amqp.client._txamqp import DelegateBase
    from rtprov.errors import BrokerError


class Link(Protocol):
    """A connection.

    `frame_max` and `max_body_bytes` are limits in bytes. The broker must reply to a method within
    `call_deadline_s` seconds.
    """

    clock: IReactorTime
    frame_max: int
    max_body_bytes: int
    call_deadline_s: float

    @property
    def delegate(self) -> DelegateBase:
        """Handles the methods that the broker sends without a request."""

    def send(self, data: bytes) -> None:
        """Write encoded frames in one piece. Does nothing once the connection is closed."""

    def drop(self, reason: str, error: BrokerError | None = None) -> None:
        """Close the transport at once, without ``connection.close``.

        All pending calls fail with `error`, or with `BrokerUnavailable(reason)` if there is none.
        """

    def forget_channel(self, id: int) -> None:
        """Make the number of a channel available again, after both sides have closed it."""
