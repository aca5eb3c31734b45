"""Certificates of every kind, valid and invalid, made with `cryptography`. (trustme makes only
valid ones.)

    authority = Authority()
    identity = authority.issue(dns("a.example"))
    identity.server_options()       # for a server that shows this certificate
    authority.pem                   # for its clients, which trust this authority

Certificates are valid by the real clock, because OpenSSL compares with it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL.crypto import X509, PKey
from twisted.internet.ssl import Certificate as TwistedCertificate
from twisted.internet.ssl import CertificateOptions, trustRootFromCertificates

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
DAY = timedelta(days=1)


def dns(*names: str) -> list[x509.GeneralName]:
    """DNS names, valid or not."""
    return [x509.DNSName(name) for name in names]


def ip(*addresses: str) -> list[x509.GeneralName]:
    """IP addresses."""
    return [x509.IPAddress(ip_address(address)) for address in addresses]


def subject(*common_names: str) -> x509.Name:
    """Return a distinguished name with these common names, or an empty one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that is too long is intended
        return x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=False)
                for name in common_names
            ]
        )


@frozen
class Identity:
    """A certificate with its key. `chain` are the certificates that are shown with it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: Sequence[x509.Certificate] = ()

    @property
    def pem(self) -> bytes:
        return b"".join(each.public_bytes(Encoding.PEM) for each in (self.certificate, *self.chain))

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def options(self, trusted: Authority | None = None) -> CertificateOptions:
        """Return Twisted's options for an end that shows this certificate. With `trusted`, it
        requests and verifies the peer's certificate.
        """
        root: Any = (
            None
            if trusted is None
            else trustRootFromCertificates([TwistedCertificate.loadPEM(trusted.pem)])
        )
        return CertificateOptions(
            privateKey=PKey.from_cryptography_key(self.key),
            certificate=X509.from_cryptography(self.certificate),
            extraCertChain=[X509.from_cryptography(each) for each in self.chain],
            trustRoot=root,
        )

    def write(self, folder: Path, name: str) -> None:
        (folder / f"{name}.pem").write_bytes(self.pem)
        (folder / f"{name}.key").write_bytes(self.key_pem)


class Authority:
    """A certificate authority; with `parent`, an intermediate one."""

    def __init__(
        self,
        name: str = "test authority",
        parent: Authority | None = None,
        *,
        begins_in: timedelta = -DAY,
        ends_in: timedelta = DAY,
    ) -> None:
        self.name = subject(name)
        self.key = ec.generate_private_key(ec.SECP256R1())
        signer = parent or self
        self.certificate = _certificate(
            self.name,
            signer.name,
            self.key,
            signer.key,
            x509.BasicConstraints(ca=True, path_length=None),
            begins_in=begins_in,
            ends_in=ends_in,
        )
        self.pem = self.certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        names: Sequence[x509.GeneralName] | None,
        *,
        common_names: Sequence[str] = ("another client",),
        usage: x509.ObjectIdentifier | None = SERVER,
        begins_in: timedelta = -DAY,
        ends_in: timedelta = DAY,
        is_ca: bool = False,
        extra: Sequence[x509.ExtensionType] = (),
        chain: Sequence[x509.Certificate] = (),
        self_signed: bool = False,
    ) -> Identity:
        """Issue a certificate with these subjectAltNames. With None it has no such extension, with
        an empty list an empty one.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        extensions = list(extra)
        if names is not None:
            extensions.append(x509.SubjectAlternativeName(names))
        if usage is not None:
            extensions.append(x509.ExtendedKeyUsage([usage]))
        owner = subject(*common_names)
        certificate = _certificate(
            owner,
            owner if self_signed else self.name,
            key,
            key if self_signed else self.key,
            x509.BasicConstraints(ca=is_ca, path_length=None),
            *extensions,
            begins_in=begins_in,
            ends_in=ends_in,
        )
        return Identity(certificate, key, chain)


def _certificate(
    owner: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signing_key: ec.EllipticCurvePrivateKey,
    *extensions: x509.ExtensionType,
    begins_in: timedelta = -DAY,
    ends_in: timedelta = DAY,
) -> x509.Certificate:
    now = datetime.now(timezone.utc)  # OpenSSL compares with the real clock
    builder = x509.CertificateBuilder(
        issuer, owner, key.public_key(), x509.random_serial_number(), now + begins_in, now + ends_in
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signing_key, hashes.SHA256())
