"""Client connections to service A and to the broker, and the look-up of their host names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from twisted.internet import reactor
from twisted.internet.interfaces import IReactorPluggableNameResolver

from rtprov.equipment.client import equipment_agent
from rtprov.network.connecting import ServerEndpoint
from rtprov.network.host_endpoint import HostEndpoint, is_usable
from rtprov.network.hosts import bracketed, host_and_port
from rtprov.network.names import Names

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
    from twisted.web.iweb import IAgent

    from rtprov.amqp.client.url import BrokerUrl
    from rtprov.security.tls_client import VerifiedServers

TO_A_WITHIN_S = 10.0
TO_A_AT_ONCE = 64  # connections being made at the same time; a handshake takes about 2 ms of CPU
TO_BROKER_WITHIN_S = 5.0


names = Names.of(reactor)  # `rtprov.tap.process` replaces the reactor's clock


def install_names() -> None:
    """Make the reactor resolve all host names with `names`.

    Twisted's resolver uses the reactor's thread pool, and the reactor waits for that when it stops.
    """
    cast("IReactorPluggableNameResolver", reactor).installNameResolver(names)


def _endpoint(
    host: str,
    port: int,
    servers: VerifiedServers | None,
    within_s: float,
    at_once: int,
    clock: IReactorTime,
) -> IStreamClientEndpoint:
    return ServerEndpoint(
        HostEndpoint(cast("Any", reactor), host, port, names, is_usable),
        where=f"{bracketed(host)}:{port}",
        secure=None if servers is None else lambda: servers.server(host, port),
        timeout_s=within_s,
        at_once=at_once,
        clock=clock,
    )


def broker_endpoint(
    url: BrokerUrl, servers: VerifiedServers | None, clock: IReactorTime
) -> IStreamClientEndpoint:
    """Return the endpoint for the broker's URL.

    With ``amqps`` the broker's certificate is verified by `servers`, with the files that are loaded
    at the time of the connection.
    """
    assert servers is not None or not url.tls
    return _endpoint(url.host, url.port, servers if url.tls else None, TO_BROKER_WITHIN_S, 1, clock)


def agent_for(
    equipment_url: str, servers: VerifiedServers, concurrency: int, clock: IReactorTime
) -> IAgent:
    """Return the HTTP client for service A.

    `equipment_url` is a result of `rtprov.network.hosts.parse_https_url`; `concurrency` is the
    largest number of calls at the same time.
    """
    host, port = host_and_port(equipment_url)
    endpoint = _endpoint(host, port, servers, TO_A_WITHIN_S, TO_A_AT_ONCE, clock)
    return equipment_agent(endpoint, concurrency=concurrency, clock=clock)
