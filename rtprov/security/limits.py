"""How much one client may take: requests a second, and connections. Pure counting; time is an
argument.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from ipaddress import IPv6Address

from attrs import define

from rtprov.errors import TooManyRequests

MAX_REMEMBERED = 100_000


def network_of(host: str | None) -> str:
    """What an address is counted by: itself, or for IPv6 its /64, of which whoever has one address
    has all.

    A client without an address, as on a Unix socket, is "local".
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
    """At most `per_s` requests a second from each client, over any time, and at once as many as
    come in a second, at least one.

    Kept is, for each client, when it would have used up what it has taken (the "generic cell rate
    algorithm"); who is past that time is forgotten. What is refused costs the client nothing more.
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
        """Count a request. Raises `TooManyRequests` where it is one too many."""
        used_up = max(self._used_up.get(client, now), now) + self._each_s
        too_early_s = used_up - now - self._burst_s
        if too_early_s > 1e-6:
            raise TooManyRequests(math.ceil(too_early_s), client)
        self._used_up[client] = used_up
        self._used_up.move_to_end(client)
        self._forget(now)

    def _forget(self, now: float) -> None:
        """Those that were heard of longest ago come first; two of them on each call keep pace with
        all that come.
        """
        for _ in range(2):
            client, used_up = next(iter(self._used_up.items()))
            if used_up > now and len(self._used_up) <= self._max_remembered:
                return
            del self._used_up[client]


class Connections:
    """At most `total` connections at once, and `per_address` from one address. `open` counts them;
    the length is that of addresses.
    """

    def __init__(self, *, total: int, per_address: int) -> None:
        self._total = total
        self._per_address = per_address
        self._by_address: Counter[str] = Counter()
        self.open = 0

    def __len__(self) -> int:
        return len(self._by_address)

    def room_for(self, address: str | None) -> bool:
        """Whether another connection may be opened from this address, or from one that is not known
        yet (None).
        """
        return self.open < self._total and self._room_at(address)

    def opened(self, address: str | None) -> Slot:
        """Count a connection, until `Slot.release` is called."""
        self.open += 1
        slot = Slot(self)
        if address is not None:
            slot._count_for(address)
        return slot

    def _room_at(self, address: str | None) -> bool:
        return address is None or self._by_address[address] < self._per_address


@define(eq=False)
class Slot:
    """One connection's share of `Connections`. It keeps the address that it was counted for, and
    releases that one.
    """

    _connections: Connections
    _address: str | None = None
    _released: bool = False

    def set_address(self, address: str) -> bool:
        """Count for this address, which was unknown when the connection was opened. Returns False
        if it has no room.
        """
        if self._address is not None or self._released or not self._connections._room_at(address):
            return False
        self._count_for(address)
        return True

    def release(self) -> None:
        """Release the share. Does nothing the second time."""
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
