"""What a client remembers of one server: verified certificates, and a TLS session to resume.

A resumed handshake (RFC 8446 §2.2) takes about half of the CPU time of a full one, because nothing
is signed and verified again. A session may be resumed only if a full handshake would accept the
server now. That depends on the CAs, the client certificate, the called host and the time.
`VerifiedServers` makes new objects when its files are replaced, there is one object for each host
and port, and a session is not used after the end of any certificate of the chain that was verified.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from OpenSSL import SSL

MAX_CERTIFICATES = 100
# A server that fails so many resumed handshakes in succession is not resumed any more.
MAX_FAILURES = 3


class KnownServer:
    """One server, as this process knows it. `wall_clock` returns seconds since the epoch.

    OpenSSL does not resume a session whose connection was freed without a proper end. So this
    object keeps a connection, and takes the session from it when one is needed. With TLS 1.3 that
    also covers sessions that the server sends after the handshake.
    """

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._certificates: dict[bytes, None] = {}  # an ordered set of digests
        self._source: SSL.Connection | None = None
        self._valid_until = b""
        self._failures = 0
        self.resumed = 0
        """How many handshakes were resumed."""

    # Certificates whose names were checked.

    def has_checked(self, digest: bytes) -> bool:
        """Return whether the certificate with this digest contains the host's name."""
        return digest in self._certificates

    def checked(self, digest: bytes) -> None:
        """The certificate with this digest contains the host's name."""
        if len(self._certificates) >= MAX_CERTIFICATES:
            self._certificates.clear()
        self._certificates[digest] = None

    # Sessions.

    def session(self) -> SSL.Session | None:
        """Return the session to resume, or None for a full handshake."""
        if self._source is None:
            return None
        now = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(self._wall_clock()))
        if now.encode() >= self._valid_until:
            self._source = None
            return None
        return self._source.get_session()

    def was_verified(self, connection: SSL.Connection, valid_until: bytes) -> None:
        """A full handshake is complete. Later ones may resume its session.

        `valid_until` is when the first certificate of the chain expires, as ASN.1 GENERALIZEDTIME.
        """
        if self._failures < MAX_FAILURES:
            self._source, self._valid_until = connection, valid_until

    def was_resumed(self) -> None:
        """A resumed handshake is complete."""
        self.resumed += 1
        self._failures = 0

    def was_not_resumed(self) -> None:
        """A handshake that began with a session has failed: make a full one next."""
        self._source = None
        self._failures += 1
