"""Sealing: a request's body is encrypted from its validation until A is called.

A sealed body is a Fernet token (https://github.com/fernet/spec): AES-128-CBC and HMAC-SHA256. Front
ends and workers share a key file. Its first key encrypts, and all keys decrypt, so keys can be
rotated. The fingerprint of a body is an HMAC-SHA256 under a key derived from the first one.

Each key has an id, which is stored with each token that the key made: the first 32 bits of an
HMAC-SHA256 of a fixed text under the key. The id identifies the key and reveals nothing about it.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from rtprov.errors import ConfigurationError, KeyMissing, NotReady, SealError

# Stricter than `Fernet`, which ignores foreign characters, and a second key appended to the same
# line.
_KEY = re.compile(r"[A-Za-z0-9_-]{43}=")


class FernetSealer:
    """Implements `rtprov.interfaces.Sealer` with Fernet keys.

    Without keys it can neither seal nor open, until `replace` provides some.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._watchers: list[Callable[[], None]] = []
        self.replace(keys)

    def __repr__(self) -> str:
        return "<FernetSealer>"

    def replace(self, keys: Sequence[bytes]) -> None:
        """Use these keys from now on. If they have changed, call the functions given to `watch`."""
        before = getattr(self, "key_ids", None)
        self._keys = {key_id(key): Fernet(key) for key in keys}
        self._fingerprint_keys = [
            hmac.digest(urlsafe_b64decode(key), b"rtprov.fingerprint", "sha256") for key in keys
        ]
        self.key_ids: tuple[str, ...] = tuple(self._keys)
        if before not in (None, self.key_ids):
            for each in list(self._watchers):
                each()

    def watch(self, changed: Callable[[], None]) -> None:
        """See `rtprov.interfaces.Sealer.watch`."""
        self._watchers.append(changed)

    @property
    def key_id(self) -> str | None:
        """See `rtprov.interfaces.Sealer.key_id`."""
        return self.key_ids[0] if self.key_ids else None

    def seal(self, body: bytes) -> str:
        """Encrypt with the first key; return URL-safe ASCII text.

        Raises `NotReady` if there is no key.
        """
        return self._first().encrypt(body).decode("ascii")

    def open(self, sealed: str, key: str | None) -> bytes:
        """See `rtprov.interfaces.Sealer.open`."""
        if key is not None and key not in self._keys:
            raise KeyMissing(key)
        fernets = list(self._keys.values()) if key is None else [self._keys[key]]
        try:
            if fernets:
                return MultiFernet(fernets).decrypt(sealed.encode("ascii"))
        except (InvalidToken, UnicodeEncodeError):
            pass
        if key is None:
            raise KeyMissing(None)
        raise SealError(
            f"The body cannot be opened with its sealing key {key}: it was damaged or tampered with"
        )

    def fingerprint(self, task_id: str, body: bytes) -> str:
        """See `rtprov.interfaces.Sealer.fingerprint`.

        The task id is part of the input, so equal bodies of two tasks have different fingerprints.
        """
        self._first()
        return _fingerprint(self._fingerprint_keys[0], task_id, body)

    def _first(self) -> Fernet:
        for fernet in self._keys.values():
            return fernet
        raise NotReady("Not ready: there is no sealing key yet")

    def matches(self, fingerprint: str, task_id: str, body: bytes) -> bool:
        """See `rtprov.interfaces.Sealer.matches`."""
        made = fingerprint.encode("ascii", "replace")
        return any(
            hmac.compare_digest(made, _fingerprint(key, task_id, body).encode())
            for key in self._fingerprint_keys
        )


def key_id(key: bytes) -> str:
    """Return the id of a Fernet key: 8 hexadecimal digits."""
    return hmac.digest(urlsafe_b64decode(key), b"rtprov.key-id", "sha256")[:4].hex()


def _fingerprint(key: bytes, task_id: str, body: bytes) -> str:
    return urlsafe_b64encode(
        hmac.digest(key, task_id.encode() + b"\0" + body, "sha256")[:18]
    ).decode("ascii")


def new_key() -> str:
    """Return a new key, as a line of a key file."""
    return Fernet.generate_key().decode("ascii")


def load_keys(text: str) -> list[bytes]:
    """Return the keys of a key file: one per line. Blank lines and lines with ``#`` are ignored.

    Raises `ConfigurationError` that names the line, never the key.
    """
    keys = []
    for number, line in enumerate(text.split("\n"), 1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if not _KEY.fullmatch(key):
            raise ConfigurationError(
                f"line {number} is not a Fernet key (32 bytes in URL-safe base64)"
            )
        keys.append(key.encode())
    if not keys:
        raise ConfigurationError("the file holds no key")
    return keys
