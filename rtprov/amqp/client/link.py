"""The connection as its channels see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from rtprov.amqp.client._txamqp import DelegateBase
    from rtprov.errors import BrokerError


class Link(Protocol):
    """One connection. `frame_max` and `max_body_bytes` are limits in bytes; a method must be
    answered within `call_deadline_s` seconds.
    """

    clock: IReactorTime
    frame_max: int
    max_body_bytes: int
    call_deadline_s: float

    @property
    def delegate(self) -> DelegateBase:
        """Handles the methods that the broker sends without being asked."""

    def send(self, data: bytes) -> None:
        """Write finished frames, in one piece. Nothing happens once the connection is closed."""

    def drop(self, reason: str, error: BrokerError | None = None) -> None:
        """End the connection at once; all that waits on it fails with `error`, or with
        `BrokerUnavailable` and `reason`.
        """

    def forget_channel(self, id: int) -> None:
        """Both sides have closed this channel: its number may be used again."""
