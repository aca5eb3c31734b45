"""Networks of addresses: what an option accepts, and which peers lie in them."""

from __future__ import annotations

from ipaddress import ip_network

from twisted.trial.unittest import SynchronousTestCase

from rtprov.network.address_networks import lies_in, parse_network


class Parsing(SynchronousTestCase):
    def test_accepted(self) -> None:
        """Networks and single addresses of both versions; IPv4 within IPv6 is IPv4."""
        for text, network in (
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::/0", "::/0"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::7:0:0/96", "::7:0:0/96"),
        ):
            self.assertEqual(parse_network(text), ip_network(network), text)

    def test_refused(self) -> None:
        """Anything else is refused with an error that names it, as is a network with host bits."""
        for text in ("", "proxy.example", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "1", "::1%lo"):
            error = self.assertRaises(ValueError, parse_network, text)
            self.assertIn(f"{text!r} is not a network or an address", str(error))


class Membership(SynchronousTestCase):
    def test_lies_in(self) -> None:
        """A peer lies in a network however its address is written."""
        networks = [parse_network(text) for text in ("10.0.0.0/8", "192.0.2.7", "fe80::/10")]
        for host, inside in (
            ("10.255.255.255", True),
            ("11.0.0.0", False),
            ("192.0.2.7", True),
            ("192.0.2.8", False),
            ("::ffff:10.1.2.3", True),
            ("::ffff:11.1.2.3", False),
            ("fe80::1%eth0", True),
            ("2001:db8::1", False),
            ("::10.1.2.3", False),
            (None, False),
            ("/run/b.sock", False),
            ("", False),
        ):
            self.assertIs(lies_in(host, networks), inside, host)
        self.assertFalse(lies_in("10.0.0.1", []))
