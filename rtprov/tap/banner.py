"""The log line "ready" of a front end, with a curl command that orders a task."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from rtprov.errors import ConfigurationError
from rtprov.network.address_networks import lies_in
from rtprov.security.files import is_there
from rtprov.tap.listening import Listening

if TYPE_CHECKING:
    from rtprov.amqp.client.service import BrokerConnection

_log = Logger()
BODY = '{"timeoutInSeconds": 14, "parameters": [{"vlan": 534}]}'


def log_ready(
    connections: Sequence[BrokerConnection],
    listening: Listening,
    *,
    certs: Path,
    client_ca: Path | None,
    tokens: Path | None,
    command: str | None = None,
) -> None:
    """Log the curl command, or `command`, once all `connections` to the broker are up.

    With ``--client-ca`` or ``--tokens`` the line is just "ready" if there is no `command`: the curl
    command would lack the credentials.
    """

    def show(_: object) -> None:
        if command is not None:
            _log.info("ready; try: {command}", command=command)
        elif client_ca is not None or tokens is not None:
            _log.info("ready")
        else:
            _show_first_steps(listening, certs)

    all_connected(connections).addCallback(show)


def all_connected(connections: Sequence[BrokerConnection]) -> Deferred[Any]:
    """Return a Deferred that fires once each connection is up; never, if one is stopped before."""
    return gatherResults(
        [connection.when_connected() for connection in connections], consumeErrors=True
    )


def _show_first_steps(listening: Listening, certs: Path) -> None:
    _log.info(
        "ready; try: curl {trust}{way}-H 'Content-Type: application/json' -d '{body}'"
        " {url}/api/v1/equipment/cpe/ABC123456",
        trust=_trust(certs / "ca.pem"),
        body=BODY,
        **_way_to(listening),
    )


def _trust(ca: Path) -> str:
    try:
        return f"--cacert {shlex.quote(str(ca))} " if is_there(ca) else ""
    except ConfigurationError:
        return ""


def _way_to(listening: Listening) -> dict[str, str]:
    """Return curl's options that reach the port, and the URL.

    The URL says localhost for any address, because the development certificate is for localhost.
    """
    host = listening.host
    way = "--haproxy-protocol " if _takes_us_for_a_proxy(listening) else ""
    if not hasattr(host, "port"):
        path = os.fsdecode(getattr(host, "name", None) or b"")
        return {"way": f"{way}--unix-socket {shlex.quote(path)} ", "url": "https://localhost"}
    address = ip_address(host.host.partition("%")[0])
    if not (address.is_unspecified and address.version == 4) and host.host != "127.0.0.1":
        shown = (
            "[::1]"
            if address.is_unspecified
            else f"[{host.host}]"
            if address.version == 6
            else host.host
        )
        way += f"--resolve localhost:{host.port}:{shown} "
    return {"way": way, "url": f"https://localhost:{host.port}"}


def _takes_us_for_a_proxy(listening: Listening) -> bool:
    """Return whether a connection of curl on this machine must begin with a PROXY header."""
    if listening.where.startswith("haproxy:"):
        return True
    host = getattr(listening.host, "host", None)
    if host is None or not listening.proxies:
        return False
    address = ip_address(host.partition("%")[0])
    if address.version == 4 and (address.is_loopback or address.is_unspecified):
        return lies_in("127.0.0.1", listening.proxies)
    return lies_in("::1" if address.is_unspecified else host, listening.proxies)
