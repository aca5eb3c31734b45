"""The files of a command's identity and trust: certificate, private key, CA, sealing keys."""

from __future__ import annotations

from pathlib import Path

from rtprov.errors import ConfigurationError
from rtprov.security.development import SEAL_KEY
from rtprov.security.files import is_there
from rtprov.security.key_file import KeyFile
from rtprov.security.tls_server import ServerIdentity
from rtprov.tap.reloading import warn_of_expiry


def server_identity(
    role: str,
    *,
    certs: Path,
    certificate: Path | None = None,
    private_key: Path | None = None,
    client_ca: Path | None = None,
) -> ServerIdentity:
    """Load the certificate, private key and client CA of a server command.

    The arguments are those of `identity_files`; `client_ca` is the CA that signs the certificates
    of clients, or None if clients need none. Raises `ConfigurationError`.
    """
    files = identity_files(role, certs=certs, certificate=certificate, private_key=private_key)
    identity = ServerIdentity(*files, client_ca)
    warn_of_expiry(*identity.certificates)
    return identity


def identity_files(
    role: str,
    *,
    certs: Path,
    certificate: Path | None = None,
    private_key: Path | None = None,
) -> tuple[Path, Path]:
    """Return the paths of a role's certificate and private key: single files, or files in --certs.

    `certs` is the folder of --certs; `certificate` and `private_key` are the single files, if they
    were given.

    Raises `ConfigurationError` if a file in --certs is missing; the message names the command that
    creates a set.
    """
    files = (certificate or certs / f"{role}.pem", private_key or certs / f"{role}.key")
    for file in files:
        _require(file, certs)
    return files


def _require(file: Path, certs: Path) -> None:
    if file.parent == certs and not is_there(file):
        raise ConfigurationError(
            f"{file} is missing; python -m rtprov.certs {certs} makes a set for development"
        )


def ca_file(certs: Path, ca: Path | None) -> Path:
    """Return the path of the CA that verifies the servers this process connects to: `ca`, or
    ca.pem in `certs`.

    Raises `ConfigurationError`.
    """
    file = ca or certs / "ca.pem"
    _require(file, certs)
    return file


def key_file(certs: Path, seal_keys: Path | None) -> KeyFile:
    """Load the sealing keys from `seal_keys`, or from their file in `certs`.

    Raises `ConfigurationError`.

    The file may be missing: `rtprov.messaging.first_key` creates it later if no task needs an older
    key.
    """
    return KeyFile(seal_keys or certs / SEAL_KEY)
