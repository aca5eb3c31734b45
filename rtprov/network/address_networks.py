"""Networks of IP addresses, as an option names them, and whether a peer's address lies in one."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Network = IPv4Network | IPv6Network

MAPPED_BITS = 96  # of an IPv6 address that contains an IPv4 address (RFC 4291 §2.5.5.2)


def parse_network(text: str) -> Network:
    """Parse a network such as ``10.0.0.0/8``, or a single address.

    IPv6 networks of IPv4 addresses (``::ffff:10.0.0.0/104``) become IPv4 networks. Raises
    ValueError, with a message that names `text`.
    """
    try:
        if "%" in text:
            raise ValueError("a zone such as %eth0 is not possible here")
        network = ip_network(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not a network or an address, such as 10.0.0.0/8 or 2001:db8::7 ({error})"
        ) from None
    if isinstance(network, IPv6Network) and network.prefixlen >= MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - MAPPED_BITS))
    return network


def lies_in(host: str | None, networks: Iterable[Network]) -> bool:
    """Return whether a peer's address lies in one of the networks.

    An IPv6 address may have a zone (``fe80::1%eth0``), which is ignored. An IPv4 address in an IPv6
    address counts as the IPv4 address. A peer without an address, as on a Unix socket, lies in no
    network.
    """
    if host is None:
        return False
    try:
        address: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    plain = getattr(address, "ipv4_mapped", None) or address
    return any(plain in network for network in networks)
