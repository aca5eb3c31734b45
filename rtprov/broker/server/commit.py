"""The work at the end of a reactor turn, for one connection.

Queues whose consumers have become ready deliver messages. Then all changes are committed together.
Then the published messages are confirmed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from twisted.logger import Logger

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from rtprov.broker.engine.virtual_host import AnyQueue
    from rtprov.broker.server.broker import Broker


class Confirming(Protocol):
    """A channel in confirm mode. `published` counts the messages published in that mode."""

    published: int

    def confirm(self, upto: int) -> None:
        """Confirm the first `upto` messages to the client: they are committed."""


class PendingCommit:
    """Collects the work that a client's methods cause for the end of the turn, and does it.

    `peer` returns the client's address, for the log.
    """

    _log = Logger()

    def __init__(self, broker: Broker, peer: Callable[[], str]) -> None:
        self._broker = broker
        self._peer = peer
        self._confirms: dict[Confirming, None] = {}  # both are used as ordered sets
        self._pumps: dict[AnyQueue, None] = {}

    def confirm_due(self, channel: Confirming) -> None:
        """Note that messages of this channel must be confirmed."""
        self._confirms[channel] = None

    def pump_due(self, queue: AnyQueue) -> None:
        """Note that consumers of this queue may have become ready."""
        self._pumps[queue] = None

    def commit(self) -> Deferred[None] | None:
        """Deliver messages, commit, and confirm once the commit is done.

        If the disk is too slow, return a Deferred. Nothing more may be read from the client until
        it has fired. Otherwise return None.
        """
        pumps, self._pumps = self._pumps, {}
        for queue in pumps:
            queue.pump()
        committed = self._broker.commit()
        if self._confirms:
            due, self._confirms = [(each, each.published) for each in self._confirms], {}
            committed.addCallback(lambda _: confirm(due))
        committed.addErrback(
            lambda reason: self._log.failure(
                "{peer}: a commit failed; its publishes are not confirmed",
                reason,
                peer=self._peer(),
            )
        )
        congested = self._broker.virtual_host.storage.congested
        return committed if congested and not committed.called else None


def confirm(due: list[tuple[Confirming, int]]) -> None:
    """Confirm the given number of messages on each channel."""
    for channel, published in due:
        channel.confirm(published)
