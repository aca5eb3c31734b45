"""The end of a reactor turn, for one connection: queues that have got room are served, then all is
committed together, then confirmed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.logger import Logger

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from rtprov.broker.engine.virtual_host import AnyQueue
    from rtprov.broker.server.factory import BrokerFactory
    from rtprov.broker.server.publishing import Publishing


class Turn:
    """What a client's methods leave to be done at the end of each turn. `peer` names the client in
    the log.
    """

    _log = Logger()

    def __init__(self, factory: BrokerFactory, peer: Callable[[], str]) -> None:
        self._factory = factory
        self._peer = peer
        self._confirms: dict[Publishing, None] = {}  # an ordered set, as the next
        self._pumps: dict[AnyQueue, None] = {}

    def confirm_due(self, publishing: Publishing) -> None:
        """A channel's publishes want confirming."""
        self._confirms[publishing] = None

    def pump_due(self, queue: AnyQueue) -> None:
        """This queue's consumers may have got room."""
        self._pumps[queue] = None

    def end(self) -> Deferred[None] | None:
        """Do it all. Where the disk cannot follow, return what must have fired before more is taken
        from the client.
        """
        pumps, self._pumps = self._pumps, {}
        for queue in pumps:
            queue.pump()
        committed = self._factory.end_turn()
        if self._confirms:
            due, self._confirms = [(each, each.published) for each in self._confirms], {}
            committed.addCallback(lambda _: confirm(due))
        committed.addErrback(
            lambda reason: self._log.failure("{peer}: a commit failed", reason, peer=self._peer())
        )
        return (
            committed if self._factory.engine.storage.congested and not committed.called else None
        )


def confirm(due: list[tuple[Publishing, int]]) -> None:
    """What these channels have published so far is safe."""
    for publishing, published in due:
        publishing.confirm(published)
