"""Checks of certificates, sealing keys and the tokens file."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cryptography import x509
from OpenSSL.crypto import X509Store, X509StoreContext, X509StoreContextError

from rtprov.cli.doctor.finding import Check, Finding, Level, open_to_others, or_ok
from rtprov.errors import ConfigurationError
from rtprov.security.certificates import expiry_warning, load_certificates, load_identity
from rtprov.security.files import is_there, read_text
from rtprov.security.sealer import key_id, load_keys
from rtprov.security.tls_client import check_name, service_id
from rtprov.security.tls_failures import CertificateRefused
from rtprov.security.tokens import Role, parse_tokens

if TYPE_CHECKING:
    from twisted.internet.ssl import Certificate

_ROLES = ("frontend", "worker", "stub", "broker")
_RENEW = "renew the certificate; running processes use the new file within 5 s"


def certificates(folder: Path, url: str, now: datetime) -> list[Finding]:
    """Check the folder of ``--certs``. `url` is that of service B, whose name must be in it."""
    check = Check("certificates", str(folder))
    found = _in_folder(check, folder, url, now)
    return or_ok(check.until_error(found), check, "all are valid, and belong together")


def _in_folder(check: Check, folder: Path, url: str, now: datetime) -> Iterator[Finding]:
    if not (is_there(folder) and folder.is_dir()):
        yield check.error(
            "the folder does not exist",
            "name it with --certs; for development, `rtprov certs dev certs` makes one",
        )
        return
    authority = folder / "ca.pem"
    found = list(authority_of(authority, now))
    yield from found
    if any(each.level is Level.ERROR for each in found):
        return
    for role in _ROLES:
        certificate, key = folder / f"{role}.pem", folder / f"{role}.key"
        if is_there(certificate) or is_there(key):
            yield from pair(certificate, key, authority, now)
    certificate = folder / "frontend.pem"
    if is_there(certificate):
        yield from server_name(certificate, url)


def authority_of(file: Path, now: datetime) -> Iterator[Finding]:
    """Check the file with the CA."""
    check = Check("ca", str(file))
    try:
        load_certificates(file)
    except ConfigurationError as error:
        yield check.refused(error, "put the CA's certificate there, as PEM")
        return
    yield from validity(file, now)


def validity(file: Path, now: datetime) -> Iterator[Finding]:
    """Check that a certificate is valid now, and for two weeks more."""
    check = Check("validity", str(file))
    text = expiry_warning(file, now)
    if text is None:
        return
    text = text.removeprefix(f"{file}: ")
    if "not valid before" in text:
        yield check.error(text, "is the clock of this machine right? Compare `date -u`")
    elif "has expired" in text:
        yield check.error(text, _RENEW)
    else:
        yield check.warning(text, _RENEW)


def pair(certificate: Path, key: Path, authority: Path, now: datetime) -> Iterator[Finding]:
    """Check a certificate with its key: present, readable, a pair, signed by the CA, valid."""
    check = Check("certificate", str(certificate))
    for file in (certificate, key):
        if not is_there(file):
            yield Check("certificate", str(file)).error(
                "the file is missing", "a certificate and its key belong together: copy both"
            )
            return
    try:
        load_identity(certificate, key)
    except ConfigurationError as error:
        advice = (
            f"openssl pkey -in {key} -out {key}.plain"
            if "encrypted" in str(error)
            else "copy certificate and key from the same place again"
        )
        yield check.refused(error, advice)
        return
    yield from open_to_others(key, "private key")
    yield from validity(certificate, now)
    why = not_signed_by(certificate, authority, now)
    if why is not None:
        yield check.error(
            f"is not signed by {authority}: {why}",
            f"append the CA's certificate to {authority}, or renew the certificate with that CA",
        )


def not_signed_by(certificate: Path, authority: Path, now: datetime) -> str | None:
    """Return why a certificate is not signed by one of the CAs in a file; None if it is.

    An expired certificate does not count here.
    """
    first, *chain = load_certificates(certificate)
    store = X509Store()
    for each in load_certificates(authority):
        store.add_cert(each.original)
    begin = first.original.to_cryptography().not_valid_before_utc
    end = first.original.to_cryptography().not_valid_after_utc
    store.set_time(min(max(now, begin), end).replace(tzinfo=None))
    try:
        X509StoreContext(
            store, first.original, [each.original for each in chain]
        ).verify_certificate()
    except X509StoreContextError as error:
        return str(error.args[0])
    return None


def server_name(certificate: Path, url: str) -> Iterator[Finding]:
    """Check that service B's certificate is for the host that clients call."""
    host = urlsplit(url).hostname or ""
    parsed: Certificate = load_certificates(certificate)[0]
    try:
        check_name(parsed.original.to_cryptography(), service_id(host), host)
    except (CertificateRefused, x509.DuplicateExtension) as error:
        yield Check("server name", str(certificate)).error(
            str(error),
            f"make a certificate for {host}, or call service B (--url) by a name that is in it",
        )


def sealing_keys(file: Path) -> list[Finding]:
    """Check the file with the sealing keys."""
    check = Check("sealing keys", str(file))
    return list(check.until_error(_sealing_keys(check, file)))


def _sealing_keys(check: Check, file: Path) -> Iterator[Finding]:
    if not is_there(file):
        yield check.error(
            "the file does not exist",
            "copy it from another role or from the backup; a new key cannot open old tasks",
        )
        return
    try:
        ids = [key_id(each) for each in load_keys(read_text(file, "sealing keys"))]
    except ConfigurationError as error:
        yield check.refused(error, "one key a line; copy the file again from another machine")
        return
    found = list(open_to_others(file, "sealing keys"))
    if len(set(ids)) != len(ids):
        found.append(check.warning("holds the same key twice", "delete one of the two lines"))
    if file.resolve().parent.name == "state" or is_there(file.parent / "journal.sqlite"):
        found.append(
            check.warning(
                "is in the same folder as the state",
                "a backup of that folder can be read with the key in it: keep them apart",
            )
        )
    yield from or_ok(found, check, f"{', '.join(ids)}; the first one seals")


def tokens(file: Path, now: float) -> list[Finding]:
    """Check the file with the bearer tokens of a front end. `now` is in seconds since the epoch."""
    check = Check("tokens", str(file))
    return list(check.until_error(_tokens(check, file, now)))


def _tokens(check: Check, file: Path, now: float) -> Iterator[Finding]:
    try:
        listed = parse_tokens(read_text(file, "tokens"))
    except ConfigurationError as error:
        yield check.refused(error, "each line: NAME sha256:HASH; `rtprov token add` makes one")
        return
    found = []
    if not listed:
        found.append(
            check.error("lists no token, so no request is accepted", "rtprov token add NAME")
        )
    for each in listed:
        if each.expired(now):
            found.append(
                check.warning(
                    f"the token of {each.name} has expired",
                    f"rtprov token revoke {each.name}, and add a new one",
                )
            )
    if listed and not any(each.role >= Role.ORDER for each in listed):
        found.append(
            check.warning("no token may order tasks: all have the role read", "add one with --role")
        )
    if file.stat().st_mode & 0o002:
        found.append(check.error("every user of this machine can write it", f"chmod o-w {file}"))
    yield from or_ok(found, check, f"{len(listed)} tokens")
