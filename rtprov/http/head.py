"""Checks for the head of every request, on any path (RFC 9110 and RFC 9112).

Each check raises the error with which the request is refused. `rtprov.http.request` decides when
the refusal is sent.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from rtprov.errors import ExpectationFailed, MalformedRequest, UnsupportedContentEncoding

if TYPE_CHECKING:
    from twisted.web.http_headers import Headers

CONTINUE = b"100-continue"
MAX_PORT = 65535

# RFC 3986 §3.2.2: a registered name, which may be an IPv4 address, or an address in brackets.
_REGISTERED_NAME = rb"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*"
_FUTURE = rb"[vV][0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+"
_HOST = re.compile(
    rb"(?:\[(?:([0-9A-Fa-f:.]+)|%s)\]|(%s))(?::0*([0-9]*))?" % (_FUTURE, _REGISTERED_NAME)
)


def is_host(value: bytes, *, may_be_empty: bool) -> bool:
    """Return whether `value` is a host, with or without a port from 0 to 65535 (RFC 9110 §7.2)."""
    match = _HOST.fullmatch(value)
    if match is None:
        return False
    address, name, port = match.groups()
    if address is not None and not _is_ipv6(address):
        return False
    if name == b"" and not may_be_empty:
        return False
    return not port or (len(port) <= 5 and int(port) <= MAX_PORT)


def _is_ipv6(address: bytes) -> bool:
    try:
        IPv6Address(address.decode("ascii"))
    except ValueError:
        return False
    return True


def check_message(headers: Headers, version: bytes) -> None:
    """Check that the request's host and length are unambiguous.

    `version` is ``HTTP/1.1`` or ``HTTP/1.0``. Raises `MalformedRequest`. The connection must then
    be closed, because it is not certain where the next request begins.
    """
    hosts = headers.getRawHeaders(b"Host", [])
    if len(hosts) > 1:
        raise MalformedRequest("Host: expected one field, not several")
    if not hosts and version == b"HTTP/1.1":
        raise MalformedRequest("Host: expected one field in an HTTP/1.1 request, not none")
    # RFC 9112 §3.2: the value is empty if the target URI has no authority.
    if hosts and not is_host(hosts[0], may_be_empty=True):
        raise MalformedRequest("Host: expected a host name or address, with or without a port")
    codings = headers.getRawHeaders(b"Transfer-Encoding", [])
    if codings and version != b"HTTP/1.1":  # RFC 9112 §6.1
        raise MalformedRequest("Transfer-Encoding: not expected in an HTTP/1.0 request")
    # Twisted accepts identity; RFC 9112 does not.
    if any(coding.lower() != b"chunked" for coding in codings):
        raise MalformedRequest("Transfer-Encoding: expected chunked")


def check_expectation(headers: Headers, version: bytes) -> bool:
    """Return whether the client waits for a 100 before it sends the body (RFC 9110 §10.1.1).

    Raises `ExpectationFailed`. Leaves ``Expect`` in the only form that Twisted understands: one
    ``100-continue``, or none. HTTP/1.0 has no expectations, so the field is removed there.
    """
    expected = set(_members(headers, b"Expect")) if version == b"HTTP/1.1" else set()
    headers.removeHeader(b"Expect")
    if expected - {CONTINUE}:
        raise ExpectationFailed
    if expected:
        headers.setRawHeaders(b"Expect", [CONTINUE])
    return bool(expected)


def check_content_encoding(headers: Headers) -> None:
    """Check that the body is not encoded (RFC 9110 §8.4). Raises `UnsupportedContentEncoding`."""
    if any(coding != b"identity" for coding in _members(headers, b"Content-Encoding")):
        raise UnsupportedContentEncoding


def _members(headers: Headers, name: bytes) -> list[bytes]:
    """Return the members of all fields of this name, in lower case.

    Empty members are ignored (RFC 9110 §5.6.1).
    """
    members = b",".join(headers.getRawHeaders(name, [])).split(b",")
    return [member for member in (each.strip(b" \t").lower() for each in members) if member]


_AUTHORITY = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)


def path_of(target: bytes) -> bytes | None:
    """Return the path of a request's target without query (RFC 9112 §3.2); None if it has no path.

    ``*`` is a target without a path. The host of an absolute URI replaces ``Host``; neither is
    compared with anything. Raises `MalformedRequest` if that host is not valid, for example empty
    or preceded by a user name (RFC 9110 §4.2).
    """
    origin = _AUTHORITY.match(target)
    if origin is not None and not is_host(origin[1], may_be_empty=False):
        raise MalformedRequest("The request's target is not a valid URI")
    path = target if origin is None else target[origin.end() :] or b"/"
    # The routing ignores leading slashes.
    return path if path.startswith(b"/") and not path.startswith(b"//") else None
