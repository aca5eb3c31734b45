"""The files of a command's identity and trust: certificate, private key, CA, sealing keys."""

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
    """Load the certificate, private key and client CA of a server command.

    Raises `ConfigurationError`.
    """
    certificate, key = identity_files(options, role)
    identity = ServerIdentity(certificate, key, options.get("client-ca"))
    warn_of_expiry(*identity.certificates)
    return identity


def identity_files(options: dict[str, Any], role: str) -> tuple[Path, Path]:
    """Return the paths of a role's certificate and private key: single files, or files in --certs.

    Raises `ConfigurationError` if a file in --certs is missing; the message names the command that
    creates a set.
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
    """Return the path of the CA that verifies the servers this process connects to.

    Raises `ConfigurationError`.
    """
    certs: Path = options["certs"]
    file: Path = options.get("ca") or certs / "ca.pem"
    _require(file, certs)
    return file


def key_file(options: dict[str, Any]) -> KeyFile:
    """Load the sealing keys. Raises `ConfigurationError`.

    The file may be missing: `rtprov.journal.first_key` creates it later if no task needs an older
    key.
    """
    return KeyFile(options.get("seal-keys") or options["certs"] / SEAL_KEY)
