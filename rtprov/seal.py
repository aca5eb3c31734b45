"""Sealing: from the moment a request is validated until A is called, its body is readable by nobody in between.

A sealed body is a Fernet token (https://github.com/fernet/spec): AES-128-CBC and HMAC-SHA256. Front ends and workers share a key file; its
first key encrypts, all of them decrypt, so that keys can be rotated. A body's fingerprint is an HMAC-SHA256, its key derived from the
first one.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from rtprov.errors import ConfigurationError, SealError

# Stricter than `Fernet`, which passes over foreign characters, and over a second key that was appended without a line's end.
_KEY = re.compile(r"[A-Za-z0-9_-]{43}=")


class FernetSealer:
    """A `rtprov.interfaces.Sealer`. `keys` are Fernet keys, at least one."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        self._fingerprint_keys = [hmac.digest(urlsafe_b64decode(key), b"rtprov.fingerprint", "sha256") for key in keys]

    def __repr__(self) -> str:
        return "<FernetSealer>"

    def seal(self, body: bytes) -> str:
        """Encrypt with the first key; the result is URL-safe ASCII text."""
        return self._fernet.encrypt(body).decode("ascii")

    def open(self, sealed: str) -> bytes:
        """Decrypt with whichever key fits. Raises `SealError`."""
        try:
            return self._fernet.decrypt(sealed.encode("ascii"))
        except (InvalidToken, UnicodeEncodeError):
            raise SealError("The body is sealed with a key that is not in the key file, or was tampered with") from None

    def fingerprint(self, task_id: str, body: bytes) -> str:
        """See `rtprov.interfaces.Sealer.fingerprint`. The task id is part of it: equal bodies of two tasks do not show."""
        return _fingerprint(self._fingerprint_keys[0], task_id, body)

    def matches(self, fingerprint: str, task_id: str, body: bytes) -> bool:
        """See `rtprov.interfaces.Sealer.matches`."""
        made = fingerprint.encode("ascii", "replace")
        return any(hmac.compare_digest(made, _fingerprint(key, task_id, body).encode()) for key in self._fingerprint_keys)


def _fingerprint(key: bytes, task_id: str, body: bytes) -> str:
    return urlsafe_b64encode(hmac.digest(key, task_id.encode() + b"\0" + body, "sha256")[:18]).decode("ascii")


def new_key() -> str:
    """A fresh key, as a key file's line has it."""
    return Fernet.generate_key().decode("ascii")


def load_keys(text: str) -> list[bytes]:
    """The keys of a key file: one a line; blank lines and those that begin with ``#`` do not count.

    Raises `ConfigurationError` that names the line, never the key.
    """
    keys = []
    for number, line in enumerate(text.split("\n"), 1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if not _KEY.fullmatch(key):
            raise ConfigurationError(f"line {number} is not a Fernet key (32 bytes in URL-safe base64)")
        keys.append(key.encode())
    if not keys:
        raise ConfigurationError("the file holds no key")
    return keys
