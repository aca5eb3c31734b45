"""Opens connections to A and to the broker: name look-up, TCP and TLS under one deadline.

Each phase has its own error. For example::

    tcp = HostEndpoint(reactor, "a.example", 8444, names, is_usable)
    endpoint = ServerEndpoint(
        tcp,
        where="a.example:8444",
        secure=lambda: servers.server("a.example"),
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

import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from attrs import define
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import (
    IHandshakeListener,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from rtprov.errors import NotConnected, OutOfResources
from rtprov.network.hosts import bracketed
from rtprov.network.shortages import NO_PORT, shortage_of
from rtprov.security.tls_failures import explain

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime

    from rtprov.security.tls_client import VerifiedServer

ATTEMPT_DELAY_S = 0.3  # between attempts at a host's addresses (RFC 8305 §5)

Address = IPv4Address | IPv6Address


class Names(Protocol):
    """See `rtprov.network.names.Names`."""

    def look_up(self, host: str) -> Deferred[list[Address]]: ...


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
        handshake = _Handshake(factory)
        await self._tcp.connect(
            TLSMemoryBIOFactory(
                server, True, _SingleProtocolFactory(handshake, factory), self._clock
            )
        )
        opening.in_tls = True
        try:
            return await handshake.finished
        except NotConnected as error:
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
class _Handshake(TwistedProtocol):
    """The protocol on top of TLS until the handshake is complete.

    It then makes the application's protocol. `finished` fires with that protocol, or fails with
    `NotConnected`. Cancelling `finished` aborts the connection.
    """

    def __init__(self, factory: IProtocolFactory) -> None:
        self._factory = factory
        self._application: IProtocol | None = None
        self.finished: Deferred[IProtocol] = Deferred(lambda _: self._abort())

    def handshakeCompleted(self) -> None:
        if self.finished.called:
            return
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


@implementer(IStreamClientEndpoint)
class HostEndpoint:
    """Connects by TCP to the first address of a host that answers (RFC 8305).

    `usable` returns whether this machine can send to an address and port at all (see `is_usable`).
    Connecting fails with `NotConnected`, or with `OutOfResources` if every attempt failed because
    this machine lacks a resource.
    """

    def __init__(
        self, reactor: Any, host: str, port: int, names: Names, usable: Callable[[str, int], bool]
    ) -> None:
        self._reactor = reactor
        self._host = host
        self._port = port
        self._names = names
        self._usable = usable

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        addresses = await self._names.look_up(self._host)
        race = _Race([self._endpoint(address) for address in addresses], factory, self._reactor)
        protocol = await race.winner
        if protocol is not None:
            return protocol
        raise self._error(addresses, race.errors)

    def _endpoint(self, address: Address) -> IStreamClientEndpoint:
        kind = TCP6ClientEndpoint if isinstance(address, IPv6Address) else TCP4ClientEndpoint
        return kind(self._reactor, _numeric(address), self._port)

    def _error(
        self, addresses: Sequence[Address], errors: Sequence[Exception | None]
    ) -> NotConnected:
        """Return the error for a host of which no address answered.

        It is `OutOfResources` only if every address failed for lack of a resource of this machine.
        """
        shortages = [
            self._shortage(address, error) for address, error in zip(addresses, errors, strict=True)
        ]
        here = f"{bracketed(self._host)}:{self._port}"
        if all(shortages):
            return OutOfResources(f"could not connect to {here}: {shortages[0]}")
        words = dict.fromkeys(
            _describe(error)
            for error, shortage in zip(errors, shortages, strict=True)
            if shortage is None
        )
        return NotConnected(f"could not connect to {here}: {'; '.join(words)}")

    def _shortage(self, address: Address, error: Exception | None) -> str | None:
        number = getattr(error, "osError", None)
        if number == errno.EADDRNOTAVAIL and self._usable(_numeric(address), self._port):
            return NO_PORT
        return shortage_of(number)


class _Race:
    """Tries endpoints one after the other.

    The next attempt begins when one fails, or 0.3 s after it began. `winner` fires with the first
    protocol, or with None if all attempts have failed; `errors` then has the error of each.
    Cancelling `winner` ends all attempts.
    """

    def __init__(
        self,
        endpoints: Sequence[IStreamClientEndpoint],
        factory: IProtocolFactory,
        clock: IReactorTime,
    ) -> None:
        self._waiting = list(enumerate(endpoints))
        self._factory = factory
        self._clock = clock
        self._pending: list[Deferred[IProtocol]] = []
        self._timer: IDelayedCall | None = None
        self._stopped = False
        self.errors: list[Exception | None] = [None for _ in endpoints]
        self.winner: Deferred[IProtocol | None] = Deferred(lambda _: self._stop())
        self._next()

    def _next(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._stopped:
            return
        if self._waiting:
            number, endpoint = self._waiting.pop(0)
            if self._waiting:
                self._timer = self._clock.callLater(ATTEMPT_DELAY_S, self._next)
            attempt = endpoint.connect(self._factory)
            self._pending.append(attempt)
            attempt.addCallbacks(self._win, self._lose, (attempt,), errbackArgs=(attempt, number))
        elif not self._pending:
            self.winner.callback(None)

    def _win(self, protocol: IProtocol, attempt: Deferred[IProtocol]) -> None:
        self._pending.remove(attempt)
        if self._stopped:  # connected in spite of being cancelled
            cast("Any", protocol).transport.abortConnection()
            return
        self._stop()
        self.winner.callback(protocol)

    def _lose(self, reason: Failure, attempt: Deferred[IProtocol], number: int) -> None:
        self._pending.remove(attempt)
        self.errors[number] = cast("Exception", reason.value)
        self._next()

    def _stop(self) -> None:
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        for attempt in list(self._pending):
            attempt.cancel()


def _numeric(address: Address) -> str:
    if isinstance(address, IPv6Address) and address.scopeID:
        return f"{address.host}%{address.scopeID}"
    return address.host


def _describe(error: Exception | None) -> str:
    number = getattr(error, "osError", None)
    return os.strerror(number) if isinstance(number, int) else str(error)


def is_usable(address: str, port: int) -> bool:
    """Return whether this machine has a source address for packets to `address`.

    Also True if the check fails because this machine has run out of a resource. Nothing is sent: a
    UDP socket only stores its peer, and uses none of the TCP ports.
    """
    try:
        with socket.socket(
            socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM
        ) as probe:
            return probe.connect_ex((address, port)) == 0
    except OSError as error:
        return shortage_of(error.errno) is not None
