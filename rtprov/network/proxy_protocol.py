"""The PROXY protocol, versions 1 and 2: a proxy sends the client's address before its data.

The specification is https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt. `ProxiedEndpoint`
implements ``haproxy:`` endpoints and ``--proxy-protocol``. It replaces Twisted's own, which accepts
any text as an address, logs a traceback if a port is not a number or if the factory refuses a
connection, and has no hook for the moment when the client's address is known.
"""

from __future__ import annotations

import re
import struct
from ipaddress import IPv4Address as IPv4
from ipaddress import IPv6Address as IPv6
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import attrs
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from zope.interface import implementer

from rtprov.network.address_networks import Network, lies_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import (
        IAddress,
        IListeningPort,
        IProtocol,
        IProtocolFactory,
        IReactorTime,
        ITCPTransport,
    )
    from twisted.python.failure import Failure

WARN_EVERY_S = 60.0
MAX_V1_BYTES = 107
# Addresses take at most 216 bytes. The rest is for further fields (TLVs), which are ignored.
MAX_V2_BYTES = 4096

_V1_BEGIN = b"PROXY "
_V2_BEGIN = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED = struct.Struct("!12sBBH")
_PORT = rb"(0|[1-9][0-9]{0,4})"
_V1 = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) %s %s\r\n" % (_PORT, _PORT))
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n")

_log = Logger()


class BadHeader(Exception):
    """A connection does not begin with a valid PROXY header."""


@attrs.frozen
class Header:
    """A PROXY header of `length` bytes.

    The addresses are None if the header has none, as in a proxy's health checks.
    """

    length: int
    source: IAddress | None = None
    destination: IAddress | None = None


def parse_header(data: bytes) -> Header | None:
    """Return the header at the beginning of `data`; None while it is incomplete.

    Raises `BadHeader`.
    """
    if data.startswith(_V2_BEGIN):
        return _parse_v2(data)
    if data.startswith(_V1_BEGIN):
        return _parse_v1(data)
    if _V1_BEGIN.startswith(data) or _V2_BEGIN.startswith(data):
        return None
    raise BadHeader


def _parse_v1(data: bytes) -> Header | None:
    line, end, _ = data[:MAX_V1_BYTES].partition(b"\r\n")
    if not end:
        if len(data) >= MAX_V1_BYTES:
            raise BadHeader
        return None
    line += end
    if _V1_UNKNOWN.fullmatch(line):
        return Header(len(line))
    match = _V1.fullmatch(line)
    if match is None:
        raise BadHeader
    family, *fields = (field.decode("ascii") for field in match.groups())
    source, destination, source_port, destination_port = fields
    return Header(
        len(line),
        _tcp(family, source, int(source_port)),
        _tcp(family, destination, int(destination_port)),
    )


def _tcp(family: str, host: str, port: int) -> IAddress:
    """Return a TCP address. Raises `BadHeader`."""
    if port > 65535:
        raise BadHeader
    try:
        return (
            IPv4Address("TCP", str(IPv4(host)), port)
            if family == "4"
            else IPv6Address("TCP", str(IPv6(host)), port)
        )
    except ValueError:
        raise BadHeader from None


def _parse_v2(data: bytes) -> Header | None:
    if len(data) < _V2_FIXED.size:
        return None
    _, command, family, rest = _V2_FIXED.unpack_from(data)
    length = _V2_FIXED.size + rest
    if command not in (0x20, 0x21) or length > MAX_V2_BYTES:
        raise BadHeader
    if len(data) < length:
        return None
    if command == 0x20 or family == 0x00:  # the command LOCAL, or no address family
        return Header(length)
    addresses = data[_V2_FIXED.size : length]
    try:
        if family == 0x11:
            source, destination, *ports = struct.unpack_from("!4s4sHH", addresses)
            return Header(length, _v4(source, ports[0]), _v4(destination, ports[1]))
        if family == 0x21:
            source, destination, *ports = struct.unpack_from("!16s16sHH", addresses)
            return Header(length, _v6(source, ports[0]), _v6(destination, ports[1]))
        if family == 0x31:
            source, destination = struct.unpack_from("!108s108s", addresses)
            return Header(
                length,
                UNIXAddress(source.rstrip(b"\x00")),
                UNIXAddress(destination.rstrip(b"\x00")),
            )
    except struct.error:
        pass
    raise BadHeader


def _v4(packed: bytes, port: int) -> IAddress:
    return cast("IAddress", IPv4Address("TCP", str(IPv4(packed)), port))


def _v6(packed: bytes, port: int) -> IAddress:
    return cast("IAddress", IPv6Address("TCP", str(IPv6(packed)), port))


@runtime_checkable
class KnowsPeerLater(Protocol):
    """A protocol that is notified when its transport's ``getPeer`` returns the client.

    Until then, ``getPeer`` returns the proxy.
    """

    def peer_known(self) -> bool:
        """Called once, before the client's first data. Return False to close the connection."""


class ProxiedProtocol(ProtocolWrapper):
    """Reads the PROXY header, then passes all data on to the wrapped protocol.

    A connection that does not begin with a valid header is aborted. The wrapped protocol is
    connected from the start, so its own timeout also limits the time for the header.
    """

    factory: ProxiedFactory
    _header: Header | None = None
    _begun = b""  # the part of the header that has arrived
    _aborted = False

    def dataReceived(self, data: bytes) -> None:
        if self._header is None:
            self._begun += data
            try:
                self._header = parse_header(self._begun)
            except BadHeader:
                self.factory.warn_of_bad_header(cast("ITCPTransport", self.transport).getPeer())
                self.abort()
                return
            if self._header is None:
                return
            data, self._begun = self._begun[self._header.length :], b""
            if (
                isinstance(self.wrappedProtocol, KnowsPeerLater)
                and not self.wrappedProtocol.peer_known()
            ):
                self.abort()
                return
        if data and not self._aborted:
            self.wrappedProtocol.dataReceived(data)

    def abort(self) -> None:
        """Close the connection at once. Data that has arrived is not passed on."""
        self._aborted = True
        cast("ITCPTransport", self.transport).abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._begun = b""
        cast("Any", super()).connectionLost(reason)

    def getPeer(self) -> IAddress:
        source = self._header.source if self._header is not None else None
        return source or cast("ITCPTransport", self.transport).getPeer()

    def getHost(self) -> IAddress:
        destination = self._header.destination if self._header is not None else None
        return destination or cast("ITCPTransport", self.transport).getHost()


class ProxiedFactory(WrappingFactory[ProxiedProtocol]):
    """Reads a PROXY header on each connection to `factory` from a proxy.

    `proxies` are the networks of the proxies; None means that each peer is one. For a proxy's
    connection, ``buildProtocol`` of `factory` is called with None, since the client's address is
    not known yet. A connection of another peer is served as it is: a header on it is data.
    """

    protocol = ProxiedProtocol
    noisy = False

    def __init__(
        self, factory: IProtocolFactory, clock: IReactorTime, proxies: Sequence[Network] | None
    ) -> None:
        cast("Any", super()).__init__(factory)
        self._clock = clock
        self._proxies = proxies
        self._warn_from = clock.seconds()

    def buildProtocol(self, addr: IAddress | None) -> IProtocol | None:  # type: ignore[override] # None is allowed, and not each protocol is wrapped
        if self._proxies is not None and not lies_in(getattr(addr, "host", None), self._proxies):
            return cast("IProtocol | None", self.wrappedFactory.buildProtocol(addr))
        wrapped = self.wrappedFactory.buildProtocol(None)
        return None if wrapped is None else ProxiedProtocol(self, wrapped)

    def warn_of_bad_header(self, proxy: object) -> None:
        """Log a connection without a valid header, at most once a minute.

        Clients that connect directly cause many of them.
        """
        now = self._clock.seconds()
        if now >= self._warn_from:
            self._warn_from = now + WARN_EVERY_S
            _log.warn(
                "closed a connection from {address}: it did not begin with a PROXY header; more are"
                " not logged for {quiet_s:g} s",
                address=getattr(proxy, "host", "a local socket"),
                quiet_s=WARN_EVERY_S,
            )


@implementer(IStreamServerEndpoint)
class ProxiedEndpoint:
    """Listens on `endpoint` for connections that begin with a PROXY header.

    `clock` limits the rate of log lines. With `proxies`, only connections from these networks begin
    with a header.
    """

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        clock: IReactorTime,
        proxies: Sequence[Network] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._proxies = proxies

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        return self._endpoint.listen(ProxiedFactory(protocolFactory, self._clock, self._proxies))
