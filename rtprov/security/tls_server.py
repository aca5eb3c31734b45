"""The server's side of TLS: reloadable certificates, ALPN, and a limit on connections."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from OpenSSL import SSL
from twisted.internet.interfaces import (
    IOpenSSLServerConnectionCreator,
    IProtocolNegotiationFactory,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from rtprov.security.certificates import server_options
from rtprov.security.files import Files
from rtprov.security.limits import Connections, Slot, network_of
from rtprov.security.tls_transport import PromptTLS

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import (
        IAddress,
        IListeningPort,
        IProtocol,
        IProtocolFactory,
        IReactorTime,
        ITransport,
    )
    from twisted.internet.ssl import CertificateOptions

WARN_EVERY_S = 60.0

_log = Logger()


@implementer(IOpenSSLServerConnectionCreator)
class ServerIdentity(Files):
    """The certificate that a server presents, and the CA for client certificates, if any.

    Each new connection uses the files as last loaded. Raises `ConfigurationError` if a file is
    invalid.
    """

    def __init__(self, certificate: Path, private_key: Path, client_ca: Path | None = None) -> None:
        super().__init__(certificate, private_key, client_ca)
        self.certificates = [path for path in (certificate, client_ca) if path is not None]
        self._paths = (certificate, private_key, client_ca)
        self._options = self._make_options()

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Return OpenSSL's side of a new connection."""
        return self._options.serverConnectionForTLS(protocol)

    def load(self) -> None:
        self._options = self._make_options()

    def _make_options(self) -> CertificateOptions:
        options = server_options(*self._paths)
        options.getContext().set_alpn_select_callback(_agree)
        return options


def _agree(connection: SSL.Connection, offered: list[bytes]) -> Any:
    """Select a protocol by ALPN: the first of the factory's own that the client offers.

    If there is none, raise `SSL.Error`, for which OpenSSL sends alert 120 (RFC 7301 §3.2);
    Twisted's own callback causes alert 80. A factory that names no protocols ignores ALPN: AMQP
    0-9-1 has no registered protocol name.
    """
    protocol = cast("TLSMemoryBIOProtocol", connection.get_app_data())
    ours = IProtocolNegotiationFactory(cast("Any", protocol.factory).wrappedFactory, None)
    if ours is None:
        return SSL.NO_OVERLAPPING_PROTOCOLS
    for name in ours.acceptableProtocols():
        if name in offered:
            return name
    raise SSL.Error([("SSL routines", "", "no application protocol")])


class CountedTLS(PromptTLS):
    """One TLS connection, which holds a `slot` of the connection limit.

    `address` is the name by which it is counted, or None if that is not known yet.
    """

    slot: Slot | None = None

    def __init__(self, factory: LimitedTLS, wrapped: IProtocol, address: str | None) -> None:
        super().__init__(factory, wrapped)
        self.address = address

    def peer_known(self) -> bool:
        """See `rtprov.network.proxy_protocol.KnowsPeerLater`."""
        self.address = _counted_as(cast("ITransport", self.transport).getPeer())
        return cast("LimitedTLS", self.factory).count_address(self)


class LimitedTLS(TLSMemoryBIOFactory):
    """Adds TLS to each connection, and closes connections over the limit of `connections`.

    Such a connection is closed before anything is read from it.
    """

    def __init__(
        self,
        identity: ServerIdentity,
        factory: IProtocolFactory,
        clock: IReactorTime,
        connections: Connections | None,
    ) -> None:
        super().__init__(identity, False, factory, clock)
        self._connections = connections
        self._warn_from = clock.seconds()

    def buildProtocol(self, addr: IAddress | None) -> CountedTLS | None:  # type: ignore[override] # IProtocolFactory allows None
        """Make the protocol of a connection from `addr`; None if the limit is reached.

        `addr` is None if the address is reported later, to `CountedTLS.peer_known`.
        """
        address = None if addr is None else _counted_as(addr)
        if self._connections is not None and not self._connections.room_for(address):
            self._warn(address)
            return None
        wrapped = self.wrappedFactory.buildProtocol(addr)
        return None if wrapped is None else CountedTLS(self, wrapped, address)

    def registerProtocol(self, protocol: TLSMemoryBIOProtocol) -> None:
        cast("Any", super()).registerProtocol(protocol)
        assert isinstance(protocol, CountedTLS)
        # Twisted registers each protocol twice.
        if self._connections is not None and protocol.slot is None:
            protocol.slot = self._connections.opened(protocol.address)

    def unregisterProtocol(self, protocol: TLSMemoryBIOProtocol) -> None:
        cast("Any", super()).unregisterProtocol(protocol)
        assert isinstance(protocol, CountedTLS)
        if protocol.slot is not None:
            protocol.slot.release()

    def count_address(self, protocol: CountedTLS) -> bool:
        """Count the connection for its client's address, which is known from now on.

        Return False if the address has no room.
        """
        if (
            protocol.slot is None
            or protocol.address is None
            or protocol.slot.set_address(protocol.address)
        ):
            return True
        self._warn(protocol.address)
        return False

    def _warn(self, address: str | None) -> None:
        now = self._clock.seconds()
        if now >= self._warn_from:
            self._warn_from = now + WARN_EVERY_S
            _log.warn(
                "too many connections: closed one from {address}; more are not logged for"
                " {quiet_s:g} s",
                address=address or "a proxy",
                quiet_s=WARN_EVERY_S,
            )


def _counted_as(addr: object) -> str:
    """Return the name by which connections from `addr` are counted."""
    return network_of(getattr(addr, "host", None))


@implementer(IStreamServerEndpoint)
class TLSEndpoint:
    """Listens on `endpoint`, and adds the server's side of TLS to each connection."""

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        identity: ServerIdentity,
        clock: IReactorTime,
        connections: Connections | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._identity = identity
        self._clock = clock
        self._connections = connections

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        return self._endpoint.listen(
            LimitedTLS(self._identity, protocolFactory, self._clock, self._connections)
        )
