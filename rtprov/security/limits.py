"""Limits for each client: requests per second and open connections.

The classes only count; the caller passes the time.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from ipaddress import IPv6Address

from attrs import define

from rtprov.errors import TooManyRequests

MAX_REMEMBERED = 100_000


def network_of(host: str | None) -> str:
    """Return the name by which an address is counted.

    This is the address itself, or the /64 of an IPv6 address: one client usually has all addresses
    of a /64. A client without an address, as on a Unix socket, is "local".
    """
    if host is None:
        return "local"
    if ":" not in host:
        return host
    try:
        address = IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


class Rate:
    """Allows each client `per_s` requests a second on average, in bursts of one second's worth.

    `per_s` is more than 0. A burst is at least one request. A refused request does not count.

    This is the generic cell rate algorithm. The class stores one time for each client. Each
    accepted request moves it forward by 1 / `per_s` seconds, from now at the earliest. A request
    that would move it further ahead of now than a burst takes is refused. A client whose time has
    passed is forgotten.
    """

    def __init__(self, per_s: float, max_remembered: int = MAX_REMEMBERED) -> None:
        self._each_s = 1 / per_s
        self._burst_s = max(1.0, self._each_s)
        self._max_remembered = max_remembered
        self._used_up: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """How many clients are remembered."""
        return len(self._used_up)

    def take(self, client: str, now: float) -> None:
        """Count a request at `now`, in seconds. Raises `TooManyRequests` if it exceeds the rate."""
        used_up = max(self._used_up.get(client, now), now) + self._each_s
        too_early_s = used_up - now - self._burst_s
        if too_early_s > 1e-6:
            raise TooManyRequests(math.ceil(too_early_s), client)
        self._used_up[client] = used_up
        self._used_up.move_to_end(client)
        self._forget(now)

    def _forget(self, now: float) -> None:
        """Remove up to two clients, those seen longest ago first.

        A client is removed if its time has passed, or if the table is full. `take` adds at most one
        client, so the table does not grow beyond its limit.
        """
        for _ in range(2):
            client, used_up = next(iter(self._used_up.items()))
            if used_up > now and len(self._used_up) <= self._max_remembered:
                return
            del self._used_up[client]


class Connections:
    """Limits open connections to `total` in all, and to `per_address` from one address.

    `open` is the number of open connections, ``len`` that of addresses that have some.
    """

    def __init__(self, *, total: int, per_address: int) -> None:
        self._total = total
        self._per_address = per_address
        self._by_address: Counter[str] = Counter()
        self.open = 0

    def __len__(self) -> int:
        return len(self._by_address)

    def room_for(self, address: str | None) -> bool:
        """Return whether another connection from this address may be opened.

        `address` is None if it is not known yet.
        """
        return self.open < self._total and self._room_at(address)

    def opened(self, address: str | None) -> Slot:
        """Count a connection until `Slot.release` is called."""
        self.open += 1
        slot = Slot(self)
        if address is not None:
            slot._count_for(address)
        return slot

    def _room_at(self, address: str | None) -> bool:
        return address is None or self._by_address[address] < self._per_address


@define(eq=False)
class Slot:
    """One counted connection. It remembers for which address it was counted."""

    _connections: Connections
    _address: str | None = None
    _released: bool = False

    def set_address(self, address: str) -> bool:
        """Count the connection for this address, which was unknown when it was opened.

        Return False, and count nothing, if the address has no room.
        """
        if self._address is not None or self._released or not self._connections._room_at(address):
            return False
        self._count_for(address)
        return True

    def release(self) -> None:
        """Stop counting the connection. A second call does nothing."""
        if self._released:
            return
        self._released = True
        self._connections.open -= 1
        if self._address is not None:
            by_address = self._connections._by_address
            by_address[self._address] -= 1
            if not by_address[self._address]:
                del by_address[self._address]

    def _count_for(self, address: str) -> None:
        self._address = address
        self._connections._by_address[address] += 1
