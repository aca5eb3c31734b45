"""The HTTPS client of the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import (
    ConnectError,
    ConnectionClosed,
    ConnectionRefusedError,
    DNSLookupError,
    TCPTimedOutError,
    TimeoutError,
)
from twisted.web.client import Agent, HTTPConnectionPool, ResponseFailed
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from rtprov.cli.failures import Status, VerbFailed
from rtprov.errors import ConfigurationError
from rtprov.security.tls_client import VerifiedServer, VerifiedServers
from rtprov.security.tls_failures import explain as explain_tls

if TYPE_CHECKING:
    from rtprov.cli.profile import Profile

CONNECT_WITHIN_S = 10.0


@implementer(IPolicyForHTTPS)
class VerifiedHttps:
    """Verifies each server as rtprov does everywhere (`rtprov.security.tls_client`).

    `last` is the newest connection; it knows why its certificate was refused.
    """

    def __init__(self, servers: VerifiedServers) -> None:
        self._servers = servers
        self.last: VerifiedServer | None = None

    def creatorForNetloc(self, hostname: bytes, port: int) -> VerifiedServer:
        self.last = self._servers.server(hostname.decode("ascii"))
        return self.last


def client_for(
    profile: Profile, reactor: Any, wall_clock: Callable[[], float]
) -> tuple[HTTPClient, Callable[[BaseException], str]]:
    """Return a client for the profile's front end, and a function that explains its errors.

    `wall_clock` returns seconds since the epoch. Raises `VerbFailed` if a file of the profile is
    invalid.
    """
    try:
        servers = VerifiedServers(
            profile.ca, profile.certificate, profile.private_key, wall_clock=wall_clock
        )
    except ConfigurationError as error:
        raise VerbFailed(str(error), Status.USAGE) from None
    policy = VerifiedHttps(servers)
    agent = Agent(
        reactor,
        contextFactory=policy,
        connectTimeout=CONNECT_WITHIN_S,
        pool=HTTPConnectionPool(reactor),
    )

    def explain(error: BaseException) -> str:
        refusal = policy.last.refusal if policy.last is not None else None
        return explain_tls(refusal) or str(refusal) if refusal is not None else reason(error)

    return HTTPClient(agent), explain


def reason(error: BaseException) -> str:
    """Return why a request was not answered."""
    if isinstance(error, ResponseFailed) and error.reasons:
        return reason(error.reasons[-1].value)
    tls = explain_tls(error)
    if tls is not None:
        return tls
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there (connection refused)"
    if isinstance(error, (TCPTimedOutError, TimeoutError, DeferredTimeout, CancelledError)):
        return "no answer in time"
    if isinstance(error, DNSLookupError):
        return "the host name is unknown"
    if isinstance(error, ConnectionClosed):
        return "the connection was closed without an answer"
    if isinstance(error, ConnectError):
        return str(error)
    return str(error) or type(error).__name__
