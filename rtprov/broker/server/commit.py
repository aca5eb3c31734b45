"""The end of a reactor turn, for one connection: queues that have got room are served, then all is
committed together, then confirmed.
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
    """A channel in confirm mode. `published` counts what was published since."""

    published: int

    def confirm(self, upto: int) -> None:
        """The first `upto` messages are safe: tell the client."""


class PendingCommit:
    """What a client's methods leave to be done at the end of each turn. `peer` names the client in
    the log.
    """

    _log = Logger()

    def __init__(self, broker: Broker, peer: Callable[[], str]) -> None:
        self._broker = broker
        self._peer = peer
        self._confirms: dict[Confirming, None] = {}  # an ordered set, as the next
        self._pumps: dict[AnyQueue, None] = {}

    def confirm_due(self, channel: Confirming) -> None:
        """This channel's publishes are to be confirmed."""
        self._confirms[channel] = None

    def pump_due(self, queue: AnyQueue) -> None:
        """This queue's consumers may have got room."""
        self._pumps[queue] = None

    def commit(self) -> Deferred[None] | None:
        """Serve the queues, commit, and confirm once that is done. If the disk is too slow, return
        the Deferred that must have fired before more is read from the client.
        """
        pumps, self._pumps = self._pumps, {}
        for queue in pumps:
            queue.pump()
        committed = self._broker.commit()
        if self._confirms:
            due, self._confirms = [(each, each.published) for each in self._confirms], {}
            committed.addCallback(lambda _: confirm(due))
        committed.addErrback(
            lambda reason: self._log.failure("{peer}: a commit failed", reason, peer=self._peer())
        )
        congested = self._broker.virtual_host.storage.congested
        return committed if congested and not committed.called else None


def confirm(due: list[tuple[Confirming, int]]) -> None:
    """What these channels have published so far is safe."""
    for channel, published in due:
        channel.confirm(published)
