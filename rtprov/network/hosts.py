"""Parses the hosts and URLs of options, and returns them in a normal form.

A host is accepted if it can work: it can be looked up and, if TLS verifies it, a certificate can
contain it.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import quote, unquote, urlsplit

from service_identity.hazmat import DNS_ID

HTTPS_PORT = 443
MAX_NAME = 253
# Letters, digits and hyphens (RFC 1123 §2.1), and underscores, which container networks use.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
NO_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PATH = "/%:@!$&'()*+,;=~"  # RFC 3986 §3.3, in addition to letters, digits and -._
# treq's URL parser rejects IPv6 literals and underscores. So its URLs contain this name, and only
# the Host field contains the real host. The agent connects to one server for every URL.
ANY_HOST = "any-host"
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f\\]")


def parse_host(text: str, *, verified: bool) -> str:
    """Return the host in the form that is looked up and verified.

    This is an IP address, or a DNS name in lower case with A-labels (RFC 5890). A trailing dot is
    kept: it means that the name is not looked up in search domains.

    `verified` says that a certificate must contain the host. Raises ValueError with a message that
    does not repeat the host, which may be part of a password.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return _parse_name(text)
    if verified and "%" in text:
        raise ValueError(
            "a certificate cannot contain an address with a zone (%eth0); give a name or another"
            " address"
        )
    return str(address)


def _parse_name(text: str) -> str:
    name = text.lower()
    if not name.isascii():
        try:
            name = DNS_ID(name).hostname.decode()
        except ValueError:  # raised by the idna package
            raise ValueError("the host is not a valid international name (IDNA)") from None
    labels = name.removesuffix(".").split(".")
    if len(name) > MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(
            "the host must be an IP address (IPv6 in brackets) or a DNS name of letters, digits,"
            " hyphens and underscores"
        )
    if _NUMBER.fullmatch(labels[-1]):
        raise ValueError(
            "the host is not a valid IPv4 address: expected four numbers from 0 to 255"
        )
    return name


def bracketed(host: str) -> str:
    """Return the host as it is written in a URL and in a ``Host`` field."""
    return f"[{host}]" if ":" in host else host


def for_treq(url: str) -> tuple[str, str]:
    """Return the URL with `ANY_HOST` in place of host and port, and the value of ``Host``.

    `url` is a result of `parse_https_url`.
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{ANY_HOST}{parts.path}", parts.netloc


def host_and_port(url: str) -> tuple[str, int]:
    """Return where to connect to for a result of `parse_https_url`."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    return parts.hostname, parts.port or HTTPS_PORT


def parse_https_url(text: str) -> str:
    """Return an ``https:`` URL in normal form, without a trailing slash.

    TLS must be able to verify the host. User, query and fragment are not allowed. Raises ValueError
    with a message for the operator.
    """
    example = "expected an https:// URL such as https://localhost:8444"
    if _UNPRINTABLE.search(text):
        raise ValueError(f"{example}, without spaces and backslashes")
    try:
        parts = urlsplit(text)
        host, port = unquote(parts.hostname or "", errors="strict"), parts.port
        unquote(parts.path, errors="strict")
    except ValueError:
        raise ValueError(example) from None
    if parts.scheme != "https" or not host or ("[" in parts.netloc) != (":" in host):
        raise ValueError(example)
    if "@" in parts.netloc or "?" in text or "#" in text:
        raise ValueError(f"{example}, without user, query and fragment")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError(f"{example}, with a port from 1 to 65535")
    if NO_ESCAPE.search(parts.path):
        raise ValueError(
            f"{example}, with a percent sign in the path only before two hexadecimal digits"
        )
    host, path = parse_host(host, verified=True), quote(parts.path.rstrip("/"), safe=_PATH)
    return f"https://{bracketed(host)}{'' if port is None else f':{port}'}{path}"
