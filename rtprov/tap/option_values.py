"""Parsers of option values. Each raises ValueError with a message that says what is expected."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IReactorTime, IStreamServerEndpoint

from rtprov.network.proxy_protocol import ProxiedEndpoint
from rtprov.security.tokens import ROLES, Role

DescribedEndpoint = tuple[str, IStreamServerEndpoint]
"""An endpoint's description, as an operator writes it, and the endpoint."""

BACKLOG = 1024  # Twisted's is 50

_EXAMPLE = "such as tcp:8443:interface=127.0.0.1"
_SEPARATOR = re.compile(r"(?<!\\):")  # of an endpoint description's arguments


def integer(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of integers from `low` to `high`."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 12 and low <= int(text) <= high):
            raise ValueError(f"expected an integer from {low} to {high}")
        return int(text)

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    """Return a parser of numbers of seconds from `low` to `high`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not low <= value <= high:
            raise ValueError(f"expected a number of seconds from {low:g} to {high:g}")
        return value

    return parse


def per_second(text: str) -> float:
    """Parse a number of requests per second."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.001 <= value <= 1_000_000:
        raise ValueError("expected a number of requests per second from 0.001 to 1000000")
    return value


def secret(text: str) -> str:
    """Return the text, which must not be empty and must be encodable as UTF-8, as AMQP needs."""
    if not text:
        raise ValueError("expected at least one character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("expected UTF-8 text") from None
    return text


def one_line(text: str) -> str:
    """Return the text, which must be printable: no line break, no control character."""
    if not text or not text.isprintable():
        raise ValueError("expected one line of printable text")
    return text


def role_of(text: str) -> tuple[str, Role]:
    """Parse ``NAME=ROLE``: a certificate's common name and the role of its client."""
    name, separator, role = text.rpartition("=")
    if not (name and separator and role in ROLES):
        raise ValueError(
            f"expected NAME=ROLE, with a certificate's common name and one of {', '.join(ROLES)}"
        )
    return name, ROLES[role]


def choice(*values: int) -> Callable[[str], int]:
    """Return a parser that accepts one of these integers."""

    def parse(text: str) -> int:
        if text not in map(str, values):
            raise ValueError(f"expected {', '.join(map(str, values[:-1]))} or {values[-1]}")
        return int(text)

    return parse


def log_format(text: str) -> str:
    """Parse the value of ``--log-format``."""
    if text not in ("text", "json"):
        raise ValueError("expected text or json")
    return text


def path(text: str) -> Path:
    """Parse a path. It is made absolute at once: twistd may change the working directory later."""
    if not text:
        raise ValueError("expected a path")
    try:
        return Path(text).absolute()
    except OSError as error:
        raise ValueError(f"the working directory cannot be used: {error.strerror}") from None


def server_endpoint(text: str) -> DescribedEndpoint:
    """Parse a Twisted endpoint description; return it and its endpoint.

    The backlog is longer than Twisted's, since thousands of clients may connect at the same time.
    After the prefix ``haproxy:``, connections begin with a PROXY header.
    """
    below = text.removeprefix("haproxy:")
    kind, *arguments = _SEPARATOR.split(below)
    if kind in ("ssl", "tls"):
        raise ValueError("the port uses TLS already: use tcp:")
    if kind == "haproxy":
        raise ValueError(
            f"haproxy: was given twice: expected a Twisted endpoint description {_EXAMPLE} after"
            " the first one"
        )
    if kind == "stdio":
        raise ValueError(f"stdio is not a port: expected a Twisted endpoint description {_EXAMPLE}")
    try:
        backlog = (
            f":backlog={BACKLOG}"
            if kind in ("tcp", "tcp6", "unix") and "backlog=" not in text
            else ""
        )
        endpoint = serverFromString(reactor, below + backlog)
    except MemoryError:
        raise
    except Exception as error:  # an endpoint's parser may raise anything
        if kind == "systemd" and isinstance(error, LookupError):
            raise ValueError(
                f"{text!r}: systemd has passed no such socket to this process; start it by its"
                " socket unit, with the name in FileDescriptorName="
            ) from None
        raise ValueError(
            f"{text!r} is not a Twisted endpoint description {_EXAMPLE} ({error})"
        ) from None
    if kind in ("tcp", "tcp6"):
        port = next(
            (each.removeprefix("port=") for each in arguments if each.startswith("port=")),
            arguments[0],
        )
        if not 0 <= int(port) <= 65535:
            raise ValueError(f"{text!r} has the port {port}: expected an integer from 0 to 65535")
    if below != text:
        endpoint = ProxiedEndpoint(endpoint, cast("IReactorTime", reactor))
    return text, endpoint
