"""Sessions of browsers: each stands for a bearer token, for at most eight hours.

A page exchanges a token for the secret of a session, which the browser then sends as a cookie that
no script can read. The store holds only the SHA-256 of each secret. It lives in the memory of one
front end: after a restart, and at another front end, the user enters the token again.

A session is worth exactly what its token is worth. `Sessions.token_of` looks the token up among the
present ones at each request, so that a removed token, or another role, counts from then on.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from hashlib import sha256

from attrs import field, frozen

from rtprov.security.tokens import Token

LIFETIME_S = 8 * 3600
MAX_PER_TOKEN = 20
"""A further log-in with the same token ends its oldest session."""


@frozen
class Session:
    """One session. `digest` is that of its token, `csrf` what changing requests must send along,
    and `ends_at` the time at which it ends, in seconds of the store's clock.
    """

    name: str
    digest: bytes = field(repr=False)
    csrf: str = field(repr=False)
    ends_at: float


class Sessions:
    """The sessions of one front end. `now` returns seconds of a monotonic clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._sessions: dict[bytes, Session] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, token: Token, tokens: Iterable[Token]) -> tuple[str, Session]:
        """Begin a session for a token; return the session's secret and the session.

        Sessions that have ended, or whose token is not among `tokens` any more, are forgotten now.
        """
        present = {(each.name, each.digest) for each in tokens}
        self._sessions = {
            key: each
            for key, each in self._sessions.items()
            if each.ends_at > self._now() and (each.name, each.digest) in present
        }
        of_token = [key for key, each in self._sessions.items() if each.digest == token.digest]
        for key in of_token[: max(0, len(of_token) - MAX_PER_TOKEN + 1)]:
            del self._sessions[key]
        secret, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        session = Session(token.name, token.digest, csrf, self._now() + LIFETIME_S)
        self._sessions[_key(secret)] = session
        return secret, session

    def find(self, secret: str) -> Session | None:
        """Return the session with this secret, or None if there is none, or if it has ended."""
        session = self._sessions.get(_key(secret))
        return None if session is None or session.ends_at <= self._now() else session

    def token_of(self, session: Session, tokens: Iterable[Token]) -> Token | None:
        """Return the token among `tokens` that a session stands for, or None if it is gone."""
        for token in tokens:
            if (token.name, token.digest) == (session.name, session.digest):
                return token
        return None

    def end(self, secret: str) -> None:
        """End the session with this secret, if there is one."""
        self._sessions.pop(_key(secret), None)


def _key(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "replace")).digest()
