"""The client's side of TLS: verifies a server's certificate and its name.

A server is accepted if a trusted CA signed its certificate and the certificate's subjectAltName
contains the called host (RFC 9525 §6). The common name is ignored. Any error during verification
refuses the connection.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from cryptography.x509 import DNSName, ExtensionNotFound, IPAddress, SubjectAlternativeName
from OpenSSL import SSL
from service_identity.exceptions import CertificateError
from service_identity.hazmat import DNS_ID, DNSPattern, IPAddress_ID, IPAddressPattern
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import CertificateOptions
from zope.interface import implementer

from rtprov.security.certificates import MINIMUM, load_identity, load_trust_root
from rtprov.security.files import Files
from rtprov.security.tls_failures import CertificateRefused, reason_of_refusal
from rtprov.security.tls_sessions import KnownServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cryptography.x509 import Certificate, GeneralName
    from OpenSSL.crypto import X509
    from service_identity.hazmat import CertificatePattern, ServiceID
    from twisted.protocols.tls import TLSMemoryBIOProtocol

MAX_NAMES_SHOWN = 3
MAX_NAME_SHOWN = 100


def service_id(host: str) -> ServiceID:
    """Return the identity that the certificate of `host` must contain.

    Raises ValueError if `host` is neither an IP address nor a DNS name.
    """
    try:
        return IPAddress_ID(ip_address(host))
    except ValueError:
        return DNS_ID(host)


def check_name(certificate: Certificate, wanted: ServiceID, host: str) -> None:
    """Check that the certificate's subjectAltName contains `wanted`, the identity of `host`.

    Invalid names in the certificate (``*``, ``f*.example``, an address written as a DNS name) are
    ignored, as RFC 9525 §6.3 requires; so are URIs and e-mail addresses.

    Raises `CertificateRefused` if no name matches, and other errors if the certificate cannot be
    parsed.
    """
    try:
        names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        raise CertificateRefused(
            "the certificate has no subjectAltName (a common name is not enough)"
        ) from None
    if any(wanted.verify(pattern) for name in names for pattern in _patterns(name)):
        return
    shown = [_shown(name.value) for name in names if isinstance(name, (DNSName, IPAddress))]
    more = ", …" if len(shown) > MAX_NAMES_SHOWN else ""
    holds = f"for {', '.join(shown[:MAX_NAMES_SHOWN])}{more}" if shown else "for no host at all"
    raise CertificateRefused(f"the certificate is {holds}, and not for {host}")


def _patterns(name: GeneralName) -> list[CertificatePattern]:
    """Return the pattern of one name in a certificate; nothing if it is not a valid host name."""
    if isinstance(name, IPAddress):
        return [IPAddressPattern(name.value)]  # type: ignore[arg-type] # a network is not a valid name, and equals no address
    if isinstance(name, DNSName) and name.value == name.value.strip():  # service-identity strips
        with suppress(CertificateError):
            return [DNSPattern.from_bytes(name.value.encode())]
    return []


def _shown(name: object) -> str:
    """Return a foreign certificate's name, shortened and printable, for one line of a log."""
    return "".join(each if each.isprintable() else "\ufffd" for each in str(name)[:MAX_NAME_SHOWN])


@implementer(IOpenSSLClientConnectionCreator)
class VerifiedServer:
    """Makes the client's side of TLS for one connection to `host`.

    `host` is a DNS name in ASCII or an IP address. `known` is what earlier connections have learnt
    of this server. `refusal` is set when the server's certificate is refused; the handshake then
    ends with an alert. `resuming` says that the handshake began with an earlier session.

    Twisted's own `optionsForClientTLS` accepts a certificate if the name check fails with any error
    other than a mismatch. A certificate without a subjectAltName is such a case (service-identity
    24.1 and later). This class refuses on every error.
    """

    def __init__(self, options: CertificateOptions, host: str, known: KnownServer) -> None:
        self._options = options
        self._host = host
        self._wanted = service_id(host.removesuffix("."))
        self._known = known
        self._connection: SSL.Connection | None = None
        # When the first certificate of the chain expires; None if this handshake verified none.
        self._valid_until: bytes | None = None
        self.refusal: CertificateRefused | None = None
        self.resuming = False

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection: SSL.Connection = self._options.clientConnectionForTLS(tlsProtocol)
        if isinstance(self._wanted, DNS_ID):  # no SNI for addresses (RFC 6066 §3)
            connection.set_tlsext_host_name(self._wanted.hostname)
        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._verify)
        session = self._known.session()
        if session is not None:
            connection.set_session(session)
            self.resuming = True
        self._connection = connection
        return connection

    def completed(self) -> None:
        """Call this when the handshake is complete."""
        connection, self._connection = self._connection, None
        if self._valid_until is None:  # OpenSSL verifies nothing if it resumes a session
            self._known.was_resumed()
        elif connection is not None:
            self._known.was_verified(connection, self._valid_until)

    def failed(self) -> None:
        """Call this when the handshake has failed."""
        self._connection = None
        if self.resuming:
            self._known.was_not_resumed()

    def _verify(
        self, connection: SSL.Connection, certificate: X509, error: int, depth: int, ok: int
    ) -> bool:
        """Called by OpenSSL for each certificate of the chain, the server's own last, at depth 0.

        Returning False ends the handshake.
        """
        try:
            if not ok:
                raise CertificateRefused(reason_of_refusal(error, depth))
            if depth == 0:
                self._check_name(certificate)
            self._note_end(certificate.get_notAfter() or b"")
        except CertificateRefused as problem:
            self.refusal = problem
        except Exception as problem:
            self.refusal = CertificateRefused(f"the certificate cannot be read: {problem}")
        return self.refusal is None

    def _note_end(self, until: bytes) -> None:
        if self._valid_until is None or until < self._valid_until:
            self._valid_until = until

    def _check_name(self, certificate: X509) -> None:
        """Check the certificate's names, if that was not done before. Raises as `check_name`."""
        digest = certificate.digest("sha256")
        if not self._known.has_checked(digest):
            check_name(certificate.to_cryptography(), self._wanted, self._host)
            self._known.checked(digest)


class VerifiedServers(Files):
    """Verifies servers against the CAs in `ca`, and may present a client certificate to them.

    All connections share one TLS context. A separate context would cost about 20 KB of memory per
    connection. `wall_clock` returns seconds since the epoch.
    """

    def __init__(
        self,
        ca: Path,
        certificate: Path | None = None,
        private_key: Path | None = None,
        *,
        wall_clock: Callable[[], float],
    ) -> None:
        """Raises `ConfigurationError`."""
        super().__init__(ca, certificate, private_key)
        self.certificates = [path for path in (ca, certificate) if path is not None]
        self._paths = (ca, certificate, private_key)
        self._wall_clock = wall_clock
        self._known: dict[tuple[str, int], KnownServer] = {}
        self.load()

    def load(self) -> None:
        ca, certificate, private_key = self._paths
        trust_root = load_trust_root(ca)
        identity: dict[str, Any] = {}
        if certificate is not None and private_key is not None:
            identity = load_identity(certificate, private_key)
        # Tickets are how TLS 1.2 resumes sessions; TLS 1.3 does so in any case.
        self._options = CertificateOptions(
            **identity, trustRoot=trust_root, raiseMinimumTo=MINIMUM, enableSessionTickets=True
        )
        # What was verified with the files before does not count any more.
        self._known = {}

    def known(self, host: str, port: int = 0) -> KnownServer:
        """Return what is remembered of a server since the files were loaded."""
        known = self._known.get((host, port))
        if known is None:
            known = self._known[host, port] = KnownServer(self._wall_clock)
        return known

    def server(self, host: str, port: int = 0) -> VerifiedServer:
        """Return the TLS side of one connection to `host`, with the files as last loaded.

        Connections to the same host and port share what was learnt of the server. Raises ValueError
        if `host` is neither a host name nor an address.
        """
        return VerifiedServer(self._options, host, self.known(host, port))
