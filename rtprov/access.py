"""Who may come in, and who it is: one `Admission` before all routes of the front end.

A client is known by its bearer token's name, else by the common name of its certificate, else by its address; `Caller.name` says which of
these it is. By this name requests are counted, and accepted tasks told of in the log.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
from cryptography.x509.oid import NameOID
from twisted.internet.interfaces import ISSLTransport

from rtprov.errors import CredentialsMalformed, CredentialsMissing, CredentialsUnknown, Forbidden, RtprovError
from rtprov.limits import Rate, network_of
from rtprov.tokens import Token, find_token

if TYPE_CHECKING:
    from twisted.internet.interfaces import ITransport
    from twisted.web.http_headers import Headers

_BEARER = re.compile(rb"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)  # RFC 6750 §2.1
_SCHEME = re.compile(rb"bearer(?: .*)?", re.IGNORECASE)


@attrs.frozen
class Caller:
    """Who sends a request: ``token:NAME``, ``certificate:COMMON NAME`` or ``address:ADDRESS``."""

    name: str
    read_only: bool = False

    def check_method(self, method: bytes) -> None:
        """Raises `Forbidden` where this client may not use the method."""
        if self.read_only and method not in (b"GET", b"HEAD", b"OPTIONS"):
            raise Forbidden


def caller_at(transport: ITransport) -> Caller:
    """Who is at the other end of a connection, as far as that tells."""
    certificate: Any = transport.getPeerCertificate() if ISSLTransport.providedBy(transport) else None
    names = [] if certificate is None else certificate.to_cryptography().subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if names:
        return Caller(f"certificate:{_printable(names[0].value)}")
    return Caller("address:" + network_of(getattr(transport.getPeer(), "host", None)))


def _printable(text: str | bytes) -> str:
    """A name that begins no new line and fits into one."""
    shown = text if isinstance(text, str) else text.decode("utf-8", "replace")
    return "".join(each if each.isprintable() else "\ufffd" for each in shown[:64])


class Admission:
    """Judges each request by its head, before anything of its body is kept.

    With `tokens`, a request must have one of them (an empty list lets nobody in). With `rate`, each client is kept to it; those who are
    not let in count by where they come from. `now` gives seconds of a clock that never goes back.
    """

    def __init__(self, *, now: Callable[[], float], tokens: tuple[Token, ...] | None = None, rate: Rate | None = None) -> None:
        self._now = now
        self.tokens = tokens
        self._rate = rate

    def admit(self, headers: Headers, caller: Caller) -> Caller:
        """Who sends this request on `caller`'s connection. Raises one of `rtprov.errors`' where it is not let in."""
        refusal: RtprovError | None = None
        if self.tokens is not None:
            try:
                token = _token_in(headers, self.tokens)
                caller = Caller(f"token:{token.name}", token.read_only)
            except RtprovError as error:
                refusal = error
        if self._rate is not None:
            self._rate.take(caller.name, self._now())
        if refusal is not None:
            raise refusal
        return caller


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
