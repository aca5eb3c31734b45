"""TCP connections to a host: tries the addresses of a name until one answers (RFC 8305)."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

from rtprov.errors import NotConnected, OutOfResources
from rtprov.network.hosts import bracketed
from rtprov.network.shortages import NO_PORT, shortage_of

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

ATTEMPT_DELAY_S = 0.3  # between attempts at a host's addresses (RFC 8305 §5)

Address = IPv4Address | IPv6Address


class Names(Protocol):
    """See `rtprov.network.names.Names`."""

    def look_up(self, host: str) -> Deferred[list[Address]]: ...

    def forget(self, host: str) -> None: ...


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
        protocol = None
        try:
            protocol = await race.winner
        finally:
            if protocol is None:  # also if the wait was cancelled, because no address answered
                self._names.forget(self._host)
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
