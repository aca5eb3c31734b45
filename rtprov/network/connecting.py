"""Opens connections to A and to the broker: name look-up, TCP and TLS under one deadline.

`rtprov.network.host_endpoint` looks the name up and connects by TCP. Each phase has its own error.
For example::

    tcp = HostEndpoint(reactor, "a.example", 8444, names, is_usable)
    endpoint = ServerEndpoint(
        tcp,
        where="a.example:8444",
        secure=lambda: servers.server("a.example", 8444),
        timeout_s=10,
        at_once=64,
        clock=reactor,
    )
    protocol = await endpoint.connect(factory)

The application's protocol is made only after the last phase: with TLS, after the handshake is
complete and the server is verified. So if an earlier phase fails, no byte of the application has
been sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from attrs import define
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import (
    IHandshakeListener,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from rtprov.errors import NotConnected
from rtprov.security.tls_failures import explain

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress, IReactorTime

    from rtprov.security.tls_client import VerifiedServer


@implementer(IStreamClientEndpoint)
class ServerEndpoint:
    """Connects to a server over `tcp`, with TLS on top if `secure` is given.

    `where` names the server in errors. `secure` makes the client's side of TLS for one connection.
    All phases together may take `timeout_s` seconds.

    At most `at_once` connections are opened at the same time. Further calls wait, and their timeout
    starts when it is their turn. Thousands of simultaneous handshakes would all exceed it.

    Connecting fires after the last phase. It fails with `NotConnected`. Cancelling aborts the
    connection.
    """

    def __init__(
        self,
        tcp: IStreamClientEndpoint,
        *,
        where: str,
        secure: Callable[[], VerifiedServer] | None,
        timeout_s: float,
        at_once: int,
        clock: IReactorTime,
    ) -> None:
        self._tcp = tcp
        self._where = where
        self._secure = secure
        self._timeout_s = timeout_s
        self._slots = DeferredSemaphore(at_once)
        self._clock = clock

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        await self._slots.acquire()
        try:
            opening = _Opening()
            connecting = Deferred.fromCoroutine(self._open(factory, opening))
            return await connecting.addTimeout(
                self._timeout_s, self._clock, lambda *_: Failure(self._late(opening))
            )
        finally:
            self._slots.release()

    async def _open(self, factory: IProtocolFactory, opening: _Opening) -> IProtocol:
        if self._secure is None:
            return await self._tcp.connect(factory)
        server = self._secure()
        try:
            return await self._open_tls(factory, opening, server)
        except NotConnected:
            if not server.resuming:
                raise
        # Some servers cannot resume their sessions, and some end the handshake. Nothing of the
        # application was sent yet.
        return await self._open_tls(factory, opening, self._secure())

    async def _open_tls(
        self, factory: IProtocolFactory, opening: _Opening, server: VerifiedServer
    ) -> IProtocol:
        handshake = _Handshake(factory, server.completed)
        await self._tcp.connect(
            TLSMemoryBIOFactory(
                server, True, _SingleProtocolFactory(handshake, factory), self._clock
            )
        )
        opening.in_tls = True
        try:
            return await handshake.finished
        except NotConnected as error:
            server.failed()
            if server.refusal is None:
                raise
            raise NotConnected(str(explain(server.refusal))) from error

    def _late(self, opening: _Opening) -> NotConnected:
        within = f"within {self._timeout_s:g} s"
        if opening.in_tls:
            return NotConnected(
                f"TLS: {self._where} accepted the connection and did not finish the handshake"
                f" {within}"
            )
        return NotConnected(f"could not connect to {self._where} {within}")


@define
class _Opening:
    """How far the opening of one connection has come."""

    in_tls: bool = False


@implementer(IHandshakeListener)
class _Handshake(Protocol):
    """The protocol on top of TLS until the handshake is complete.

    It then calls `on_completed` and makes the application's protocol. `finished` fires with that
    protocol, or fails with `NotConnected`. Cancelling `finished` aborts the connection.
    """

    def __init__(self, factory: IProtocolFactory, on_completed: Callable[[], None]) -> None:
        self._factory = factory
        self._on_completed = on_completed
        self._application: IProtocol | None = None
        self.finished: Deferred[IProtocol] = Deferred(lambda _: self._abort())

    def handshakeCompleted(self) -> None:
        if self.finished.called:
            return
        self._on_completed()
        assert self.transport is not None
        application = self._application = self._factory.buildProtocol(self.transport.getPeer())
        if application is None:
            self._abort()
            return
        application.makeConnection(self.transport)
        self.finished.callback(application)

    def dataReceived(self, data: bytes) -> None:
        assert self._application is not None
        self._application.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        application, self._application = self._application, None
        if application is not None:
            application.connectionLost(reason)
        elif not self.finished.called:
            assert reason.value is not None
            text = explain(reason.value) or "TLS: the connection was closed during the handshake"
            self.finished.errback(NotConnected(text))

    def _abort(self) -> None:
        cast("Any", self.transport).abortConnection()


class _SingleProtocolFactory(Factory):
    """Builds one given protocol. Starts and stops together with the application's `factory`."""

    noisy = False

    def __init__(self, protocol: _Handshake, factory: IProtocolFactory) -> None:
        self._protocol = protocol
        self._factory = factory

    def doStart(self) -> None:
        cast("Any", super()).doStart()
        self._factory.doStart()

    def doStop(self) -> None:
        cast("Any", super()).doStop()
        self._factory.doStop()

    def buildProtocol(self, addr: IAddress | None) -> _Handshake:
        return self._protocol
