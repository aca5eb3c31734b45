"""Admission: identifies the caller of each request, and checks credentials, role and rate.

A caller is named by its bearer token, or by the token that its browser's session stands for; else
by the common name of its certificate, else by its address; see `Caller`. Requests are counted by
this name, and audit lines show it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
from cryptography.x509.oid import NameOID
from twisted.internet.interfaces import ISSLTransport

from rtprov.errors import (
    CredentialsExpired,
    CredentialsMalformed,
    CredentialsMissing,
    CredentialsUnknown,
    CsrfMissing,
    Forbidden,
    RtprovError,
)
from rtprov.http.session_cookie import may_change, secret_in
from rtprov.security.limits import Rate, network_of
from rtprov.security.sessions import Session, Sessions
from rtprov.security.tokens import Role, Token, find_token

if TYPE_CHECKING:
    from OpenSSL.crypto import X509
    from twisted.internet.interfaces import ITransport
    from twisted.web.http_headers import Headers

MAX_COMMON_NAME = 64

_BEARER = re.compile(rb"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)  # RFC 6750 §2.1
_CERTIFICATE = "certificate:"
_SCHEME = re.compile(rb"bearer(?: .*)?", re.IGNORECASE)


SAFE_METHODS = (b"GET", b"HEAD", b"OPTIONS")  # RFC 9110 §9.2.1


@attrs.frozen
class Caller:
    """The sender of a request.

    `name` is ``token:NAME``, ``certificate:COMMON NAME`` or ``address:ADDRESS``. `role` is what the
    caller may do, `token` the token that it was admitted with. `may_change` is false for a request
    with a session cookie that lacks the session's CSRF token.
    """

    name: str
    role: Role = Role.OPERATE
    token: Token | None = attrs.field(default=None, eq=False, repr=False)
    may_change: bool = True

    def require(self, role: Role) -> None:
        """Raise `Forbidden` if this caller's role is lower than `role`."""
        if self.role < role:
            raise Forbidden(str(role), str(self.role))

    def check_method(self, method: bytes, *, least: Role = Role.ORDER) -> None:
        """Raise an error if this caller may not use the method.

        `least` is the lowest role that may use methods that change something. Raises `Forbidden`,
        or `CsrfMissing`.
        """
        if method not in SAFE_METHODS:
            if not self.may_change:
                raise CsrfMissing
            self.require(least)


def caller_at(transport: ITransport) -> Caller:
    """Return the caller at the other end of a connection, from its certificate or address."""
    certificate: Any = (
        transport.getPeerCertificate() if ISSLTransport.providedBy(transport) else None
    )
    name = None if certificate is None else _common_name(certificate)
    if name is not None:
        return Caller(f"{_CERTIFICATE}{_printable(name)}")
    return Caller("address:" + network_of(getattr(transport.getPeer(), "host", None)))


def _common_name(certificate: X509) -> str | bytes | None:
    """Return the certificate's common name.

    Return None unless the certificate has exactly one, of 1 to 64 characters (X.520), that can be
    parsed. A name that was selected among several, or shortened, could be another client's.
    """
    try:
        names = certificate.to_cryptography().subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return None
    return (
        names[0].value if len(names) == 1 and 0 < len(names[0].value) <= MAX_COMMON_NAME else None
    )


def _printable(text: str | bytes) -> str:
    """Return the name without characters that could begin a new line in the log."""
    shown = text if isinstance(text, str) else text.decode("utf-8", "replace")
    return "".join(each if each.isprintable() else "\ufffd" for each in shown)


class Admission:
    """Checks each request's head, before any of its body is kept.

    With `tokens`, a request must have one of them, and has its role; with an empty tuple, no
    request is admitted. With `certificates`, clients have presented a certificate; they have the
    role that `roles` has for its common name, or ``order``. Without either, every request has the
    role ``operate``. `sessions` are those of browsers that have logged in with a token.

    With `rate`, each caller is limited to it; a request without valid credentials counts for its
    certificate or address. `now` returns seconds of a monotonic clock, `wall_clock` seconds since
    the epoch.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float],
        wall_clock: Callable[[], float],
        tokens: tuple[Token, ...] | None = None,
        certificates: bool = False,
        roles: Mapping[str, Role] | None = None,
        rate: Rate | None = None,
    ) -> None:
        self._now = now
        self._wall_clock = wall_clock
        self.tokens = tokens
        self._certificates = certificates
        self._roles = {f"{_CERTIFICATE}{name}": role for name, role in (roles or {}).items()}
        self._rate = rate
        self.sessions = Sessions(now)

    def session_in(self, headers: Headers) -> Session | None:
        """Return the session whose cookie a request has, or None."""
        secret = secret_in(headers)
        return None if secret is None else self.sessions.find(secret)

    def end_session(self, headers: Headers) -> bool:
        """End the session whose cookie a request has; return whether there was one."""
        secret = secret_in(headers)
        if secret is None or self.sessions.find(secret) is None:
            return False
        self.sessions.end(secret)
        return True

    def admit(self, headers: Headers, caller: Caller) -> Caller:
        """Return the caller of a request with these headers on `caller`'s connection.

        Raises an error of `rtprov.errors` if the request is refused.
        """
        refusal: RtprovError | None = None
        if self.tokens is not None:
            try:
                caller = self._caller_in(headers, self.tokens)
            except RtprovError as error:
                refusal = error
        elif self._certificates:
            caller = Caller(caller.name, self._roles.get(caller.name, Role.ORDER))
        if self._rate is not None:
            self._rate.take(caller.name, self._now())
        if refusal is not None:
            raise refusal
        return caller

    def still_admits(self, headers: Headers) -> bool:
        """Return whether a request with these headers, which was admitted, would still be admitted.

        Event streams call it again and again. It does not count towards the rate.
        """
        if self.tokens is None:
            return True
        try:
            self._caller_in(headers, self.tokens)
        except RtprovError:
            return False
        return True

    def _caller_in(self, headers: Headers, tokens: tuple[Token, ...]) -> Caller:
        """Return the caller by its token, or by the token of its session if it shows none.

        Raises an error of `rtprov.errors`.
        """
        changes = True
        if headers.hasHeader(b"Authorization") or secret_in(headers) is None:
            token = _token_in(headers, tokens)
        else:
            session = self.session_in(headers)
            found = None if session is None else self.sessions.token_of(session, tokens)
            if session is None or found is None:
                raise CredentialsUnknown
            token, changes = found, may_change(headers, session)
        if token.expired(self._wall_clock()):
            raise CredentialsExpired(f"token:{token.name} was let in until {token.expires} (UTC)")
        return Caller(f"token:{token.name}", token.role, token, changes)


def _token_in(headers: Headers, tokens: tuple[Token, ...]) -> Token:
    fields = headers.getRawHeaders(b"Authorization", [])
    if not any(_SCHEME.fullmatch(field) for field in fields):
        raise CredentialsMissing
    match = _BEARER.fullmatch(fields[0])
    if match is None or len(fields) > 1:
        raise CredentialsMalformed
    token = find_token(tokens, match[1])
    if token is None:
        raise CredentialsUnknown
    return token
