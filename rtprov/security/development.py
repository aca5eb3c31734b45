"""Makes certificates and a sealing key for development: ``python -m rtprov.certs DIR``.

A set is ``ca.pem``, and a ``.pem`` and a ``.key`` for each of `frontend`, `stub`, `broker` (for
localhost, 127.0.0.1, ::1 and each ``--name``) and `worker`. The CA's own key is not stored, so no
further certificate can be signed with it. Existing files are never overwritten.

Making keys takes several milliseconds of CPU time. Do not call it on the reactor's thread.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import trustme
from cryptography import x509

from rtprov.errors import ConfigurationError, refusal
from rtprov.security.certificates import load_certificates
from rtprov.security.files import is_there
from rtprov.security.sealer import new_key

SERVERS = ("frontend", "stub", "broker")
CLIENTS = ("worker",)
SERVER_NAMES = ("localhost", "127.0.0.1", "::1")
SEAL_KEY = "seal.key"
_HOST_NAME = re.compile(r"(?:\*\.)?(?!-)[a-z0-9-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9-]{1,63}(?<!-))*")
# Earlier versions made no certificate for the broker; their sets count as complete.
ADDED_LATER = ("broker.pem", "broker.key")
FILES = (
    "ca.pem",
    *(f"{name}.{suffix}" for name in (*SERVERS, *CLIENTS) for suffix in ("pem", "key")),
)


def make_development_set(directory: Path, names: Sequence[str] = ()) -> bool:
    """Make a set of certificates in `directory`; return False if there is one already.

    `directory` is created if it does not exist. `names` are host names and addresses of the
    servers, in addition to `SERVER_NAMES`. Private keys have mode 0600 from the start.

    Raises `ConfigurationError` if a set is incomplete or lacks one of the names, or if the folder
    cannot be written.
    """
    missing = [name for name in FILES if not is_there(directory / name)]
    if tuple(missing) in ((), ADDED_LATER):
        _check_names(directory, names)
        return False
    if len(missing) < len(FILES):
        raise ConfigurationError(
            f"{directory}: the set of certificates is incomplete, {', '.join(missing)} missing;"
            " nothing was overwritten"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write_set(directory, names)
    except OSError as error:
        raise refusal(
            f"{error.filename or directory}: cannot write the development certificates:"
            f" {error.strerror}",
            error,
        ) from None
    return True


def _write_set(directory: Path, names: Sequence[str]) -> None:
    """Write all files of a set. If one cannot be written, remove the others."""
    written: list[Path] = []
    try:
        for name, content in _new_set(names).items():
            path = directory / name
            handle = os.open(
                path,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL,
                0o600 if name.endswith(".key") else 0o644,
            )
            written.append(path)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
    except OSError:
        for path in written:
            path.unlink()
        raise


def _new_set(names: Sequence[str]) -> dict[str, bytes]:
    ca = trustme.CA(organization_name="rtprov development")
    hosts = dict.fromkeys((*SERVER_NAMES, *names))
    leaves = {name: ca.issue_cert(*hosts, common_name=f"rtprov {name}") for name in SERVERS}
    leaves |= {
        name: ca.issue_cert(f"rtprov-{name}", common_name=f"rtprov {name}") for name in CLIENTS
    }
    contents = {f"{name}.key": leaf.private_key_pem.bytes() for name, leaf in leaves.items()}
    contents |= {
        f"{name}.pem": b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
        for name, leaf in leaves.items()
    }
    return contents | {"ca.pem": ca.cert_pem.bytes()}


def server_name(text: str) -> str:
    """Return a certificate's form of an IP address or a host name.

    The first label of a host name may be ``*``. Raises ValueError.
    """
    try:
        return str(ip_address(text))
    except ValueError:
        name = text.rstrip(".").lower()
        if len(name) > 253 or not _HOST_NAME.fullmatch(name):
            raise ValueError(f"{text!r} is neither a host name nor an IP address") from None
        return name


def _check_names(directory: Path, names: Sequence[str]) -> None:
    """Raise `ConfigurationError` if an existing server certificate lacks one of the names."""
    for server in SERVERS:
        file = directory / f"{server}.pem"
        if is_there(file):
            there = _names_in(file)
            lacking = [name for name in names if name not in there]
            if lacking:
                raise ConfigurationError(
                    f"{file}: exists already, without {', '.join(lacking)}; nothing was"
                    " overwritten; make a set in another folder"
                )


def _names_in(file: Path) -> set[str]:
    certificate = load_certificates(file)[0].original.to_cryptography()
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    }


def _sync_folder(directory: Path) -> None:
    """Flush the folder's entries to disk, so that new files survive a power failure."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def ensure_seal_key(path: Path) -> bool:
    """Make the file with the sealing key if it does not exist; return whether it was made.

    Two processes that call this at the same time get the same key. Raises `ConfigurationError`.
    """
    if is_there(path):
        return False
    text = (
        "# rtprov sealing keys: the first encrypts, all decrypt. Every front end and worker needs"
        f" this file.\n{new_key()}\n"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".seal-")  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())  # or a power failure could lose the key of stored tasks
            os.link(temporary, path)
            _sync_folder(path.parent)
        except FileExistsError:  # another process made it meanwhile
            return False
        finally:
            Path(temporary).unlink()
    except OSError as error:
        raise refusal(f"{path}: cannot make the sealing key: {error.strerror}", error) from None
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rtprov.certs",
        description="Make a set of development certificates and a sealing key.",
    )
    parser.add_argument(
        "directory",
        type=Path,
        metavar="DIR",
        help="the folder; created if it does not exist; existing files are not overwritten",
    )
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="NAME",
        help=(
            "a further host name or IP address of the servers, besides localhost, 127.0.0.1 and"
            " ::1; repeatable"
        ),
    )
    options = parser.parse_args(arguments)
    directory: Path = options.directory
    try:
        made = make_development_set(directory, [server_name(text) for text in options.name])
        made_key = ensure_seal_key(directory / SEAL_KEY)
    except (ConfigurationError, ValueError) as error:
        print(f"rtprov.certs: {error}", file=sys.stderr)  # noqa: T201 - a command's output
        return ConfigurationError.exit_status
    done = [
        what
        for what, fresh in (("development certificates", made), ("a sealing key", made_key))
        if fresh
    ]
    print(f"{directory}: {'made ' + ' and '.join(done) if done else 'all files exist already'}")  # noqa: T201 - a command's answer
    return 0
