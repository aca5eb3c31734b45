"""The files that say who a command is, and whom it trusts: certificates, CA, sealing keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rtprov.errors import ConfigurationError
from rtprov.security.development import SEAL_KEY
from rtprov.security.files import is_there
from rtprov.security.key_file import KeyFile
from rtprov.security.tls_server import ServerIdentity
from rtprov.tap.reloading import warn_of_expiry


def server_identity(options: dict[str, Any], role: str) -> ServerIdentity:
    """What a server command shows. Raises `ConfigurationError`."""
    certificate, key = identity_files(options, role)
    identity = ServerIdentity(certificate, key, options.get("client-ca"))
    warn_of_expiry(*identity.certificates)
    return identity


def identity_files(options: dict[str, Any], role: str) -> tuple[Path, Path]:
    """Certificate and key of a role: single files, or those of --certs. Raises `ConfigurationError`
    that says how to make a set.
    """
    certs: Path = options["certs"]
    certificate: Path = options.get("certificate") or certs / f"{role}.pem"
    key: Path = options.get("private-key") or certs / f"{role}.key"
    for file in (certificate, key):
        _require(file, certs)
    return certificate, key


def _require(file: Path, certs: Path) -> None:
    if file.parent == certs and not is_there(file):
        raise ConfigurationError(
            f"{file} is missing; python -m rtprov.certs {certs} makes a set for development"
        )


def ca_file(options: dict[str, Any]) -> Path:
    """The CA that vouches for the servers we call. Raises `ConfigurationError`."""
    certs: Path = options["certs"]
    file: Path = options.get("ca") or certs / "ca.pem"
    _require(file, certs)
    return file


def key_file(options: dict[str, Any]) -> KeyFile:
    """The file with the sealing keys. It may be missing: `rtprov.journal.first_key` makes it, if it
    may. Raises `ConfigurationError`.
    """
    return KeyFile(options.get("seal-keys") or options["certs"] / SEAL_KEY)
