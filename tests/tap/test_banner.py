"""The log line with a curl command to try first, for each kind of endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import attrs
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress

from rtprov.network.address_networks import Network, parse_network
from rtprov.security.development import make_development_set
from rtprov.tap import banner
from rtprov.tap.banner import log_ready
from tests.support.command_files import FilesTestCase

HERE = IPv4Address("TCP", "127.0.0.1", 8443)


@attrs.define
class Ready:
    """A connection to the broker, and a service that listens."""

    host: IAddress = HERE
    where: str = "tcp:8443:interface=127.0.0.1"
    proxies: Sequence[Network] = ()
    connected: Deferred[None] = attrs.field(factory=Deferred)

    def when_connected(self) -> Deferred[None]:
        return self.connected


class Banner(FilesTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.lines: list[str] = []
        self.patch(banner, "_log", self)

    def info(self, text: str, **fields: object) -> None:
        """Collect a log line."""
        self.lines.append(text.format(**fields))

    def show(
        self,
        host: IAddress = HERE,
        where: str = "tcp:8443",
        *,
        certs: Path | None = None,
        client_ca: Path | None = None,
        tokens: Path | None = None,
        command: str | None = None,
        proxies: Sequence[str] = (),
    ) -> str:
        ready = Ready(host, where, [parse_network(each) for each in proxies], succeed(None))
        log_ready(
            cast("Any", [ready]),
            cast("Any", ready),
            certs=certs or self.certs,
            client_ca=client_ca,
            tokens=tokens,
            command=command,
        )
        (line,) = self.lines
        self.lines.clear()
        return line

    def test_command(self) -> None:
        """The command trusts the CA in the folder, whatever characters the path has."""
        self.certs = self.certs.parent / "our certs"
        make_development_set(self.certs)
        line = self.show()
        self.assertTrue(
            line.startswith(
                f"ready; try: curl --cacert '{self.certs}/ca.pem' -H 'Content-Type:"
                " application/json' -d '{"
            )
        )
        self.assertTrue(line.endswith("}' https://localhost:8443/api/v1/equipment/cpe/ABC123456"))

    def test_no_ca(self) -> None:
        """If the folder has no CA, or the CA cannot be read, the command has no ``--cacert``."""
        for folder in (self.certs, self.certs.parent / ("a" * 300)):
            line = self.show(certs=folder)
            self.assertTrue(line.startswith("ready; try: curl -H "), line)

    def test_credentials(self) -> None:
        """If clients need a certificate or a token, no command is shown, because it would not
        work.
        """
        self.assertEqual(self.show(client_ca=Path("/ca.pem")), "ready")
        self.assertEqual(self.show(tokens=Path("/tokens")), "ready")

    def test_given_command(self) -> None:
        """A command that is given is shown as it is, also if clients need a token."""
        for tokens in (None, Path("/tokens")):
            line = self.show(command="curl -d '{\"vlan\": 1}' …", tokens=tokens)
            self.assertEqual(line, "ready; try: curl -d '{\"vlan\": 1}' …")

    def test_other_addresses(self) -> None:
        """The certificate is for localhost. If the service listens on another address,
        ``--resolve`` names it.
        """
        for host, way in (
            (IPv4Address("TCP", "0.0.0.0", 99), ""),  # noqa: S104 - nothing listens
            (IPv4Address("TCP", "192.0.2.7", 99), "--resolve localhost:99:192.0.2.7 "),
            (IPv4Address("TCP", "127.0.0.2", 99), "--resolve localhost:99:127.0.0.2 "),
            (IPv6Address("TCP", "::", 99), "--resolve localhost:99:[::1] "),
            (IPv6Address("TCP", "2001:db8::7", 99), "--resolve localhost:99:[2001:db8::7] "),
        ):
            line = self.show(host)
            self.assertTrue(line.startswith(f"ready; try: curl {way}-H "), line)
            self.assertIn(" https://localhost:99/api/", line)

    def test_socket_in_the_file_system(self) -> None:
        """For a Unix socket, ``--unix-socket`` has the path."""
        line = self.show(UNIXAddress("/run/our rtprov.sock"), "unix:/run/our rtprov.sock")
        self.assertTrue(
            line.startswith("ready; try: curl --unix-socket '/run/our rtprov.sock' -H "), line
        )
        self.assertIn(" https://localhost/api/", line)

    def test_behind_a_proxy(self) -> None:
        """If a PROXY header is expected, curl sends one."""
        line = self.show(where="haproxy:tcp:8443:interface=127.0.0.1")
        self.assertTrue(line.startswith("ready; try: curl --haproxy-protocol -H "), line)

    def test_in_a_proxys_network(self) -> None:
        """If this machine is a proxy to the front end, curl sends a header."""
        everywhere = IPv4Address("TCP", "0.0.0.0", 99)  # noqa: S104 - nothing listens
        for host, network, sends in (
            (HERE, "127.0.0.1", True),
            (HERE, "10.0.0.0/8", False),
            (everywhere, "127.0.0.0/8", True),
            (IPv4Address("TCP", "127.0.0.2", 99), "127.0.0.1", True),
            (IPv4Address("TCP", "10.0.0.7", 99), "10.0.0.0/8", True),
            (IPv4Address("TCP", "10.0.0.7", 99), "127.0.0.1", False),
            (IPv6Address("TCP", "::", 99), "::1", True),
            (IPv6Address("TCP", "fe80::1%eth0", 99), "fe80::/10", True),
            (UNIXAddress("/run/b.sock"), "127.0.0.1", False),
        ):
            line = self.show(host, proxies=[network])
            self.assertIs("curl --haproxy-protocol " in line, sends, (host, network))

    def test_all_connected(self) -> None:
        """The line is logged only after all connections are made."""
        one, other = Ready(), Ready()
        log_ready(
            cast("Any", [one, other]),
            cast("Any", one),
            certs=self.certs,
            client_ca=None,
            tokens=None,
        )
        one.connected.callback(None)
        self.assertEqual(self.lines, [])
        other.connected.callback(None)
        self.assertEqual(len(self.lines), 1)
