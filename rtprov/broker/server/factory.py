"""The Twisted factory that serves a broker on a port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.protocol import Factory

from rtprov.broker.server.connection import BrokerProtocol

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress

    from rtprov.broker.server.broker import Broker


class BrokerFactory(Factory):
    """Starts `broker` when the port opens, and makes a `BrokerProtocol` for each client.

    A client that the broker does not admit is disconnected at once.
    """

    noisy = False

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def startFactory(self) -> None:
        self._broker.start()

    def buildProtocol(self, addr: IAddress | None) -> BrokerProtocol | None:
        return BrokerProtocol(self._broker) if self._broker.admits() else None
