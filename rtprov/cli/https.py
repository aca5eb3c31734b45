"""The HTTPS client of the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from attrs import frozen
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.web.client import Agent, HTTPConnectionPool, RequestTransmissionFailed, ResponseFailed
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from rtprov.cli.failures import Status, VerbFailed
from rtprov.errors import ConfigurationError
from rtprov.network.connecting import ServerEndpoint
from rtprov.network.host_endpoint import HostEndpoint, is_usable
from rtprov.network.hosts import bracketed, host_and_port
from rtprov.network.names import Names
from rtprov.security.tls_client import VerifiedServers
from rtprov.security.tls_failures import explain as explain_tls

if TYPE_CHECKING:
    from twisted.web.client import URI

    from rtprov.cli.profile import Profile

CONNECT_WITHIN_S = 10.0  # the look-up of the name, TCP and TLS
CONNECT_AT_ONCE = 64


@implementer(IAgentEndpointFactory)
@frozen
class _OneServer:
    """Connects to one server for every URL (see `rtprov.network.hosts.for_treq`)."""

    endpoint: IStreamClientEndpoint

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return self.endpoint


def client_to(endpoint: IStreamClientEndpoint, clock: IReactorTime) -> HTTPClient:
    """Return a client that sends every request to `endpoint`."""
    pool = HTTPConnectionPool(clock)
    agent = cast("Any", Agent).usingEndpointFactory(clock, _OneServer(endpoint), pool)
    return HTTPClient(agent)


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
    host, port = host_and_port(profile.url)
    endpoint = ServerEndpoint(
        HostEndpoint(reactor, host, port, Names.of(reactor), is_usable),
        where=f"{bracketed(host)}:{port}",
        secure=lambda: servers.server(host, port),
        timeout_s=CONNECT_WITHIN_S,
        at_once=CONNECT_AT_ONCE,
        clock=reactor,
    )
    return client_to(endpoint, reactor), reason


def reason(error: BaseException) -> str:
    """Return why a request was not answered."""
    if isinstance(error, (RequestTransmissionFailed, ResponseFailed)) and error.reasons:
        return reason(error.reasons[-1].value)
    tls = explain_tls(error)
    if tls is not None:
        return tls
    if isinstance(error, (DeferredTimeout, CancelledError)):
        return "no answer in time"
    if isinstance(error, ConnectionClosed):
        return "the connection was closed without an answer"
    return str(error) or type(error).__name__
