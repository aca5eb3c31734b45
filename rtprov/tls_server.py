"""A server's side of TLS while it runs: certificates replaced without dropping a connection, and a limit to connections."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from rtprov.limits import Connections, network_of
from rtprov.tls import Files, server_options

if TYPE_CHECKING:
    from OpenSSL import SSL
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolFactory, IReactorTime

WARN_EVERY_S = 60.0

_log = Logger()


@implementer(IOpenSSLServerConnectionCreator)
class ServerIdentity(Files):
    """What a server shows to each connection that begins, and asks of it: the files as they were when they were last loaded.

    Raises `ConfigurationError` where a file is no good.
    """

    def __init__(self, certificate: Path, private_key: Path, client_ca: Path | None = None) -> None:
        super().__init__(certificate, private_key, client_ca)
        self.certificates = [path for path in (certificate, client_ca) if path is not None]
        self._paths = (certificate, private_key, client_ca)
        self._options = server_options(*self._paths)

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """A new connection's side of OpenSSL."""
        return self._options.serverConnectionForTLS(protocol)

    def load(self) -> None:
        self._options = server_options(*self._paths)


class LimitedTLS(TLSMemoryBIOFactory):
    """TLS on top of connections, of which `connections` says how many: one too many is closed before anything is read of it."""

    def __init__(self, identity: ServerIdentity, factory: IProtocolFactory, clock: IReactorTime, connections: Connections | None) -> None:
        super().__init__(identity, False, factory, clock)
        self._connections = connections
        self._warn_from = clock.seconds()

    def buildProtocol(self, addr: IAddress | None) -> TLSMemoryBIOProtocol | None:  # type: ignore[override] # as IProtocolFactory has it
        if self._connections is not None and not self._connections.room_for(_place(addr)):
            self._tell(addr)
            return None
        wrapped = self.wrappedFactory.buildProtocol(addr)
        return None if wrapped is None else self.protocol(self, wrapped)

    def registerProtocol(self, protocol: TLSMemoryBIOProtocol) -> None:
        new = protocol not in self.protocols  # Twisted registers each twice
        cast("Any", super()).registerProtocol(protocol)
        if self._connections is not None and new:
            self._connections.opened(_place(protocol.getPeer()))

    def unregisterProtocol(self, protocol: TLSMemoryBIOProtocol) -> None:
        cast("Any", super()).unregisterProtocol(protocol)
        if self._connections is not None:
            self._connections.closed(_place(protocol.getPeer()))

    def _tell(self, addr: object) -> None:
        now = self._clock.seconds()
        if now >= self._warn_from:
            self._warn_from = now + WARN_EVERY_S
            _log.warn("too many connections: one from {address} was closed, as others may be", address=_place(addr))


def _place(addr: object) -> str:
    """What connections are counted by."""
    host = getattr(addr, "host", None)
    return "local" if host is None else network_of(host)


@implementer(IStreamServerEndpoint)
class TLSEndpoint:
    """Listens where `endpoint` does, with a server's TLS on top."""

    def __init__(
        self, endpoint: IStreamServerEndpoint, identity: ServerIdentity, clock: IReactorTime, connections: Connections | None = None
    ) -> None:
        self._endpoint = endpoint
        self._identity = identity
        self._clock = clock
        self._connections = connections

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        return self._endpoint.listen(LimitedTLS(self._identity, protocolFactory, self._clock, self._connections))
