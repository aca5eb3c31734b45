"""Looks host names up on separate threads, so that a slow name server blocks nothing else.

The system's `getaddrinfo` does the work, because it follows the administrator's configuration
(/etc/hosts, search domains, NSS). It blocks for as long as a name server does not answer, which may
be a minute. Therefore:

- Each look-up has a deadline.
- Look-ups for the same name share a thread.
- The number of threads is limited, in total and for each name. Look-ups for one name cannot use up
  the threads of another.
- The threads are daemons, so a stopping process does not wait for them.

Addresses are kept for 30 s, because a burst of calls would look the same name up thousands of
times. `getaddrinfo` does not tell for how long an answer is valid. `HostEndpoint` lets a name be
looked up again as soon as none of its addresses can be reached.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv6Address as IPv6
from ipaddress import ip_address
from threading import Thread
from typing import Any, cast

from attrs import define, field
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import (
    IHostnameResolver,
    IHostResolution,
    IReactorTime,
    IResolutionReceiver,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from rtprov.errors import NotConnected, OutOfResources
from rtprov.network.shortages import shortage_of

DEADLINE_S = 5.0
MAX_THREADS = 16
MAX_THREADS_PER_NAME = 3
# After this time a further thread tries again. The system's own timeouts for a silent name server
# are shorter.
STUCK_AFTER_S = 30.0
KEPT_S = 30.0
MAX_KEPT = 100  # names

Address = IPv4Address | IPv6Address
_FAMILIES: dict[type, int] = {IPv4Address: socket.AF_INET, IPv6Address: socket.AF_INET6}
GetAddrInfo = Callable[..., Sequence[tuple[Any, ...]]]


def _run_in_thread(function: Callable[[], None]) -> None:
    # A daemon thread: the process ends without waiting for a look-up.
    Thread(target=function, name="rtprov-names", daemon=True).start()


@define(eq=False)
class _LookUp:
    """The work of one thread, and the Deferreds that wait for its result."""

    host: str
    family: int
    began_at: float
    waiting: list[Deferred[list[Address]]] = field(factory=list)


@implementer(IHostnameResolver)
class Names:
    """Looks names up. Also a resolver for Twisted's reactor.

    `run_in_thread` runs a function on a new daemon thread; it raises RuntimeError if no thread can
    be started. `call_from_thread` calls a function on the reactor's thread. `getaddrinfo` is
    `socket.getaddrinfo`.
    """

    def __init__(
        self,
        *,
        clock: IReactorTime,
        run_in_thread: Callable[[Callable[[], None]], None],
        call_from_thread: Callable[..., None],
        getaddrinfo: GetAddrInfo,
    ) -> None:
        self._clock = clock
        self._run_in_thread = run_in_thread
        self._call_from_thread = call_from_thread
        self._getaddrinfo = getaddrinfo
        self._running: list[_LookUp] = []
        # When the answer came, and the answer; by name and family.
        self._kept: dict[tuple[str, int], tuple[float, list[Address]]] = {}

    @classmethod
    def of(cls, reactor: Any) -> Names:
        """Return the look-up of names with the system's `getaddrinfo`, for a real reactor."""
        return cls(
            clock=reactor,
            run_in_thread=_run_in_thread,
            call_from_thread=reactor.callFromThread,
            getaddrinfo=socket.getaddrinfo,
        )

    def look_up(self, host: str, family: int = socket.AF_UNSPEC) -> Deferred[list[Address]]:
        """Fire with the host's addresses (with port 0), best first (RFC 6724); at least one.

        IP addresses need no look-up. Fails with `NotConnected` after 5 s at the latest, or with
        `OutOfResources`. Cancelling ends the wait, but not the look-up.
        """
        literal = _literal(host, family)
        if literal:
            return succeed(literal)
        kept = self._kept.get((host, family))
        if kept is not None and self._clock.seconds() - kept[0] < KEPT_S:
            return succeed(list(kept[1]))
        look_up = self._joinable(host, family)
        if look_up is None:
            try:
                look_up = self._begin(host, family)
            except OutOfResources:
                return fail()
        waiter: Deferred[list[Address]] = Deferred()
        look_up.waiting.append(waiter)
        late = NotConnected(
            f"the name {host} was not found within {DEADLINE_S:g} s: the name server does not"
            " answer"
        )
        return waiter.addTimeout(DEADLINE_S, self._clock, lambda *_: Failure(late))

    def forget(self, host: str) -> None:
        """Look the host up again next time: its addresses cannot be reached."""
        for family in (socket.AF_UNSPEC, *_FAMILIES.values()):
            self._kept.pop((host, family), None)

    def _joinable(self, host: str, family: int) -> _LookUp | None:
        """Return a running look-up to wait for, or None if a new one should begin.

        A look-up that takes too long is not joined, unless the name has used up its threads.
        """
        same = [each for each in self._running if (each.host, each.family) == (host, family)]
        if same and (
            self._clock.seconds() - same[-1].began_at < STUCK_AFTER_S
            or len(same) >= MAX_THREADS_PER_NAME
        ):
            return same[-1]
        return None

    def _begin(self, host: str, family: int) -> _LookUp:
        if len(self._running) >= MAX_THREADS:
            raise OutOfResources(f"all {MAX_THREADS} threads for name look-ups are busy")
        look_up = _LookUp(host, family, self._clock.seconds())
        try:
            self._run_in_thread(partial(self._run, look_up))
        except RuntimeError as error:
            raise OutOfResources(
                f"could not start a thread to look up {host} ({error}); see ulimit -u"
            ) from None
        self._running.append(look_up)
        return look_up

    def _run(self, look_up: _LookUp) -> None:
        """Look the name up. Runs on the look-up's own thread."""
        result: list[Address] | Failure
        try:
            result = _addresses(_resolve(self._getaddrinfo, look_up.host, look_up.family))
        except BaseException:
            result = Failure()
        self._call_from_thread(self._on_end, look_up, result)

    def _on_end(self, look_up: _LookUp, result: list[Address] | Failure) -> None:
        self._running.remove(look_up)
        error: Exception | None = None
        if isinstance(result, Failure):
            error = _describe(look_up.host, result.value)
        elif not result:
            error = NotConnected(f"the name {look_up.host} has no address")
        else:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[look_up.host, look_up.family] = self._clock.seconds(), result
        for waiter in look_up.waiting:
            if waiter.called:  # cancelled, or timed out
                continue
            if error is None:
                waiter.callback(list(cast("list[Address]", result)))
            else:
                waiter.errback(error)

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """Implement `IHostnameResolver`, which has no way to report a reason."""
        types = list(addressTypes or _FAMILIES)
        looking = self.look_up(
            hostName, _FAMILIES[types[0]] if len(types) == 1 else socket.AF_UNSPEC
        )
        resolution = _Resolution(hostName, looking)
        resolutionReceiver.resolutionBegan(resolution)

        def finish(found: list[Address] | Failure) -> None:
            for address in [] if isinstance(found, Failure) else found:
                resolutionReceiver.addressResolved(_with_port(address, portNumber))
            resolutionReceiver.resolutionComplete()

        looking.addBoth(finish)
        return resolution


@implementer(IHostResolution)
@define(eq=False)
class _Resolution:
    name: str
    _looking: Deferred[Any]

    def cancel(self) -> None:
        """End the wait."""
        self._looking.cancel()


def _resolve(getaddrinfo: GetAddrInfo, host: str, family: int) -> Sequence[tuple[Any, ...]]:
    try:
        return getaddrinfo(host, None, family, socket.SOCK_STREAM)
    except socket.gaierror:
        # If no file can be opened, the C library reports an unknown name. Opening a socket then
        # raises the real error.
        with socket.socket():
            raise


def _literal(host: str, family: int) -> list[Address]:
    """Return the address if `host` is an IP address, else nothing.

    Does not call `getaddrinfo`, which may block.
    """
    try:
        address = ip_address(host)
        if isinstance(address, IPv6):
            zone = address.scope_id or "0"
            bare = str(address).partition("%")[0]
            found: Address = IPv6Address(
                "TCP", bare, 0, 0, int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
            )
        else:
            found = IPv4Address("TCP", str(address), 0)
    except (ValueError, OSError):  # OSError: no such network interface
        return []
    return [found] if family in (socket.AF_UNSPEC, _FAMILIES[type(found)]) else []


def _addresses(found: Sequence[tuple[Any, ...]]) -> list[Address]:
    types: dict[int, type[Address]] = {family: kind for kind, family in _FAMILIES.items()}
    return [types[family]("TCP", *address) for family, _, _, _, address in found if family in types]


def _with_port(address: Address, port: int) -> Address:
    if isinstance(address, IPv6Address):
        return IPv6Address("TCP", address.host, port, address.flowInfo, address.scopeID)
    return IPv4Address("TCP", address.host, port)


def _describe(host: str, error: BaseException | None) -> Exception:
    if isinstance(error, socket.gaierror):
        return NotConnected(f"the name {host} was not found: {error.strerror}")
    shortage = shortage_of(getattr(error, "errno", None))
    if shortage is not None:
        return OutOfResources(f"the name {host} could not be looked up: {shortage}")
    return NotConnected(f"the name {host} could not be looked up: {type(error).__name__}: {error}")
