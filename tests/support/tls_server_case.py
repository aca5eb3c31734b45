"""A test case with a TLS server in memory, and its clients."""

from __future__ import annotations

from rtprov.security.tls_server import ServerIdentity
from tests.support.tls_peers import Peer, Peers, TlsTestCase


class Everybody(Peers):
    """A factory that accepts every client, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.peers: list[Peer] = []
        self.room = 100

    def buildProtocol(self, addr: object) -> Peer | None:  # type: ignore[override] # as IProtocolFactory has it
        if len(self.peers) >= self.room:
            return None
        self.peers.append(Peer())
        return self.peers[-1]


class ServerTestCase(TlsTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.identity = self.new_identity()

    def new_identity(self, client_ca: str | None = None) -> ServerIdentity:
        return ServerIdentity(
            self.file("a.pem"),
            self.file("a.key"),
            None if client_ca is None else self.file(client_ca),
        )

    def serial_seen(self, peers: tuple[Peer, Peer]) -> int:
        """Return the serial number of the certificate that the server showed."""
        certificate = peers[1].tls.get_peer_certificate()
        assert certificate is not None
        return certificate.get_serial_number()
