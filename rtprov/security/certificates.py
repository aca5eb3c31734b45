"""TLS for both sides: 1.2 or later, certificates from PEM files.

Every problem with a file is a `ConfigurationError` of one line that names the file and never its
content."""

from __future__ import annotations

from datetime import datetime, timedelta
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
# What a server takes of TLS 1.2: forward secrecy and authenticated encryption only, as all of TLS
# 1.3 has them (RFC 9325 §4.2).
CIPHERS = AcceptableCiphers.fromOpenSSLCipherString("ECDHE+AESGCM:ECDHE+CHACHA20")
WARN_BEFORE = timedelta(days=14)
# of pyOpenSSL and cryptography, for what is not PEM, X.509 or a key
UNREADABLE = (OpenSSLError, ValueError)


def load_certificates(path: Path) -> list[Certificate]:
    """All certificates of a PEM file, at least one."""
    marker = b"-----END CERTIFICATE-----"
    parts = read_file(path, "certificate").split(marker)[:-1]
    try:
        certificates = [Certificate.loadPEM(part + marker) for part in parts]
        for each in certificates:
            _ = each.original.to_cryptography().not_valid_after_utc  # is stricter than OpenSSL
    except UNREADABLE:
        certificates = []
    if not certificates:
        raise ConfigurationError(f"{path}: holds no PEM certificate")
    return certificates


def load_trust_root(path: Path) -> Any:  # Twisted's interface for it is private
    """Return the CAs of a PEM file, for peers' certificates to be verified against."""
    return trustRootFromCertificates(load_certificates(path))


def load_identity(certificate: Path, private_key: Path) -> dict[str, Any]:
    """Arguments for Twisted's `CertificateOptions` that make us show this certificate, with its
    chain, if the file has one.
    """
    first, *chain = load_certificates(certificate)
    pem = read_file(private_key, "private key")
    if b"ENCRYPTED" in pem:
        raise ConfigurationError(
            f"{private_key}: is encrypted, and there is nobody to ask for the passphrase; store the"
            " key without one"
        )
    try:
        # with no passphrase at all, OpenSSL would ask the terminal for one
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
            f"{certificate}: OpenSSL does not take it: {error.args[0][-1][-1]}"
        ) from None
    return identity


def expiry_warning(path: Path, now: datetime) -> str | None:
    """What is wrong with the time of one of the file's certificates, or will be within 14 days;
    None where nothing is.
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
    """What a server shows. With `client_ca`, clients must show a certificate that it vouches
    for.
    """
    trust_root = None if client_ca is None else load_trust_root(client_ca)
    identity = load_identity(certificate, private_key)
    return CertificateOptions(
        **identity, trustRoot=trust_root, raiseMinimumTo=MINIMUM, acceptableCiphers=CIPHERS
    )
