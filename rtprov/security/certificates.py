"""PEM certificates and private keys, and what servers and clients share of TLS (1.2 or later).

An invalid file raises `ConfigurationError`: one line that names the file and never its content.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from OpenSSL.crypto import FILETYPE_PEM, load_privatekey
from OpenSSL.crypto import Error as OpenSSLError
from twisted.internet.error import VerifyError
from twisted.internet.ssl import (
    AcceptableCiphers,
    Certificate,
    CertificateOptions,
    KeyPair,
    PrivateCertificate,
    TLSVersion,
    trustRootFromCertificates,
)

from rtprov.errors import ConfigurationError
from rtprov.security.files import read_file

MINIMUM = TLSVersion.TLSv1_2
# A server's cipher suites for TLS 1.2: only those with forward secrecy and authenticated
# encryption, which all suites of TLS 1.3 have (RFC 9325 §4.2).
CIPHERS = AcceptableCiphers.fromOpenSSLCipherString("ECDHE+AESGCM:ECDHE+CHACHA20")
MAX_RECORD = 16384  # bytes (RFC 8446 §5.1)
WARN_BEFORE = timedelta(days=14)
# Raised by pyOpenSSL and cryptography for data that is not PEM, not X.509 or not a key.
UNREADABLE = (OpenSSLError, ValueError)
_PEM_END = re.compile(rb"-----END [^-\r\n]+-----")


def load_certificates(path: Path) -> list[Certificate]:
    """Return all certificates of a PEM file.

    Raises `ConfigurationError` if there is none, or if one is incomplete.
    """
    marker = b"-----END CERTIFICATE-----"
    content = read_file(path, "certificate")
    parts = content.split(marker)[:-1]
    try:
        certificates = [Certificate.loadPEM(part + marker) for part in parts]
        for each in certificates:
            _ = each.original.to_cryptography().not_valid_after_utc  # stricter than OpenSSL
    except UNREADABLE:
        certificates = []
    if not certificates:
        raise ConfigurationError(f"{path}: holds no PEM certificate")
    if content.count(b"-----BEGIN ") != len(_PEM_END.findall(content)):
        raise ConfigurationError(f"{path}: is incomplete: a PEM block has no end line")
    return certificates


def load_trust_root(path: Path) -> Any:  # Twisted's interface for it is private
    """Return the CAs of a PEM file as a trust root for `CertificateOptions`.

    Raises `ConfigurationError`.
    """
    return trustRootFromCertificates(load_certificates(path))


def load_identity(certificate: Path, private_key: Path) -> dict[str, Any]:
    """Return arguments for Twisted's `CertificateOptions` that present this certificate.

    The intermediate certificates in the file are sent along. Raises `ConfigurationError`.
    """
    first, *chain = load_certificates(certificate)
    pem = read_file(private_key, "private key")
    if b"ENCRYPTED" in pem:
        raise ConfigurationError(
            f"{private_key}: is encrypted, and rtprov cannot ask for a passphrase; store the key"
            " without one"
        )
    try:
        # Without this empty passphrase, OpenSSL would ask for one on the terminal.
        pair = KeyPair(load_privatekey(FILETYPE_PEM, pem, b""))
        private = PrivateCertificate.fromCertificateAndKeyPair(first, pair)
    except (*UNREADABLE, VerifyError):
        raise ConfigurationError(
            f"{private_key}: is not the PEM private key for {certificate}"
        ) from None
    identity: dict[str, Any] = {
        "privateKey": private.privateKey.original,
        "certificate": private.original,
        "extraCertChain": [each.original for each in chain],
    }
    try:
        CertificateOptions(**identity).getContext()
    except SSL.Error as error:
        raise ConfigurationError(
            f"{certificate}: OpenSSL does not accept it: {error.args[0][-1][-1]}"
        ) from None
    return identity


def expires_at(path: Path) -> float:
    """Return when the first certificate of the file expires, in seconds since the epoch.

    Raises `ConfigurationError` if the file is invalid.
    """
    ends = [each.original.to_cryptography().not_valid_after_utc for each in load_certificates(path)]
    return float(min(ends).timestamp())


def expiry_warning(path: Path, now: datetime) -> str | None:
    """Return a warning if a certificate of the file is not valid, or expires within 14 days.

    Otherwise return None. Raises `ConfigurationError` if the file is invalid.
    """
    certificates = [each.original.to_cryptography() for each in load_certificates(path)]
    begin, end = (
        max(each.not_valid_before_utc for each in certificates),
        min(each.not_valid_after_utc for each in certificates),
    )
    if now < begin:
        return f"{path}: the certificate is not valid before {begin:%Y-%m-%d %H:%M} UTC"
    if end < now + WARN_BEFORE:
        return (
            f"{path}: the certificate {'has expired' if end < now else 'expires'} on"
            f" {end:%Y-%m-%d %H:%M} UTC"
        )
    return None


def server_options(
    certificate: Path, private_key: Path, client_ca: Path | None = None
) -> CertificateOptions:
    """Return the TLS options of a server that presents `certificate`.

    With `client_ca`, clients must present a certificate that one of these CAs has signed. Raises
    `ConfigurationError`.
    """
    trust_root = None if client_ca is None else load_trust_root(client_ca)
    make = partial(
        CertificateOptions,
        **load_identity(certificate, private_key),
        trustRoot=trust_root,
        raiseMinimumTo=MINIMUM,
        acceptableCiphers=CIPHERS,
    )
    try:
        _answer_a_client(make())  # a context that has made a connection cannot be changed
    except SSL.Error as error:
        raise ConfigurationError(
            f"{certificate}: no client can use it ({error.args[0][-1][-1]}): its key must be RSA,"
            " Ed25519, or ECDSA on the curve P-256, P-384 or P-521"
        ) from None
    return make()


def _answer_a_client(server_side: CertificateOptions) -> None:
    """Answer the first message of a client with OpenSSL's default settings, in memory.

    Raises `SSL.Error` if that client cannot use the server's kind of key.
    """
    client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    client.set_connect_state()
    server = SSL.Connection(server_side.getContext(), None)
    server.set_accept_state()
    with suppress(SSL.WantReadError):
        client.do_handshake()
    server.bio_write(client.bio_read(MAX_RECORD))
    with suppress(SSL.WantReadError):
        server.do_handshake()
