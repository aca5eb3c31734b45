"""The cookie of a browser's session (RFC 6265), and the header against forged requests.

The prefix ``__Host-`` makes browsers accept the cookie only from this host itself, over TLS and for
all paths. ``SameSite=Strict`` keeps it out of requests that other sites start. A request that
changes something must have the session's token in `CSRF_HEADER` too, which no form of another site
can send.
"""

from __future__ import annotations

import hmac
import re
from typing import TYPE_CHECKING

from rtprov.security.sessions import LIFETIME_S

if TYPE_CHECKING:
    from twisted.web.http_headers import Headers

    from rtprov.security.sessions import Session

COOKIE = "__Host-rtprov-session"
CSRF_HEADER = "X-CSRF-Token"
_ATTRIBUTES = "Path=/; Secure; HttpOnly; SameSite=Strict"
_SECRET = re.compile(rf"(?:^|;)\s*{COOKIE}=([A-Za-z0-9_-]+)\s*(?=;|$)".encode())


def secret_in(headers: Headers) -> str | None:
    """Return the secret of the session in a request, or None if it has none, or several."""
    if not headers.hasHeader(b"Cookie"):
        return None
    found = _SECRET.findall(b";".join(headers.getRawHeaders(b"Cookie", [])))
    return found[0].decode() if len(found) == 1 else None


def may_change(headers: Headers, session: Session) -> bool:
    """Return whether a request has the session's token in `CSRF_HEADER`."""
    shown = headers.getRawHeaders(CSRF_HEADER.encode(), [])
    return len(shown) == 1 and hmac.compare_digest(shown[0].strip(), session.csrf.encode())


def begin_cookie(secret: str) -> str:
    """Return the ``Set-Cookie`` field that begins a session."""
    return f"{COOKIE}={secret}; Max-Age={LIFETIME_S}; {_ATTRIBUTES}"


def end_cookie() -> str:
    """Return the ``Set-Cookie`` field that removes the cookie."""
    return f"{COOKIE}=; Max-Age=0; {_ATTRIBUTES}"
