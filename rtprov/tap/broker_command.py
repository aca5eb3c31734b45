"""What the commands for operators share that work on a broker and then end.

``python -m rtprov.shards`` and ``python -m rtprov.move`` connect once, do their work, and say what
they did. They can be repeated if a connection breaks.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.task import react

from rtprov.amqp.client.protocol import AmqpConnection
from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.client.url import BrokerUrl
from rtprov.errors import BrokerError, BrokerUnavailable, ConfigurationError
from rtprov.security.tls_client import VerifiedServers
from rtprov.tap.broker_file import ClientFiles
from rtprov.tap.client_connections import broker_endpoint
from rtprov.tap.process import clock, wall_clock

CONNECT_DEADLINE_S = 10.0


def say(text: str) -> None:
    """Write a line for the operator. A terminal that is gone does not matter."""
    with suppress(OSError):
        print(text, flush=True)  # noqa: T201 - a command's answer


def add_certificate_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for a client certificate, with their environment variables."""
    for name, what in (
        ("certificate", "client certificate for an amqps:// broker"),
        ("private-key", "private key of that certificate"),
    ):
        variable = f"RTPROV_AMQP_{name.upper().replace('-', '_')}"
        parser.add_argument(
            f"--amqp-{name}",
            type=Path,
            default=os.environ.get(variable) or None,
            metavar="FILE",
            help=f"PEM file with the {what} (${variable})",
        )


async def connect(
    url: BrokerUrl, ca: Path, client: ClientFiles | None
) -> tuple[AmqpConnection, Publisher]:
    """Connect and log in; return the connection, and a publisher on it. The caller closes it.

    For an ``amqps`` broker, `ca` is the file that verifies its certificate, and `client` the files
    of the client certificate, if there is one. Raises `BrokerError` or `ConfigurationError`.
    """
    if client is not None:
        url = url.with_certificate()
    servers = VerifiedServers(ca, *(client or ()), wall_clock=wall_clock) if url.tls else None
    connection = AmqpConnection(url=url, clock=clock)
    endpoint = broker_endpoint(url, servers, clock)
    try:
        await connectProtocol(endpoint, cast("Any", connection)).addTimeout(
            CONNECT_DEADLINE_S, clock
        )
    except Exception as error:  # connection errors have no common base class
        raise BrokerUnavailable(f"Could not connect to {url}: {error}") from error
    try:
        await connection.handshake()
        publisher = Publisher(clock=clock)
        await publisher.attach(connection)
    except BaseException:
        await close(connection)
        raise
    return connection, publisher


async def close(connection: AmqpConnection) -> None:
    """Close a connection, if it is open."""
    if connection.transport is not None:
        await connection.close()


def run_command(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` and end the process.

    Exit status: 0 it is done; 1 a broker failed, run the command again; 78 it is not possible with
    this configuration or state. SIGHUP is ignored: a closed terminal does not interrupt it.
    """
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def run() -> None:
        try:
            await work()
        except ConfigurationError as error:
            print(f"{name}: {error}", file=sys.stderr)  # noqa: T201 - a command's answer
            raise SystemExit(error.exit_status) from None
        except BrokerError as error:
            text = f"{name}: {error}; no task is lost, run the command again"
            print(text, file=sys.stderr)  # noqa: T201 - a command's answer
            raise SystemExit(1) from None

    react(lambda _: Deferred.fromCoroutine(run()))
