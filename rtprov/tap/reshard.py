"""``python -m rtprov.shards N``: change the number of shards. `rtprov.messaging.resharding` says
what is done.

Stop all workers first. Front ends may go on running: they answer 503 until it is done. Another run
completes one that was broken off."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import react

from rtprov.amqp.client.protocol import AmqpConnection
from rtprov.amqp.client.publisher import Publisher
from rtprov.amqp.client.url import BrokerUrl
from rtprov.errors import BrokerError, BrokerUnavailable, ConfigurationError
from rtprov.messaging.resharding import Resharding
from rtprov.security.files import read_text
from rtprov.security.tls_client import VerifiedServers
from rtprov.tap.client_connections import broker_endpoint, install_names

DEFAULT_BROKER = "amqp://guest:guest@127.0.0.1:5673/"
CONNECT_DEADLINE_S = 10.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rtprov.shards",
        description=(
            "Change the number of shards that the broker's tasks are divided into. Stop all workers"
            " first."
        ),
    )
    parser.add_argument(
        "count", type=int, metavar="N", help="the new number of shards, from 1 to 1024"
    )
    parser.add_argument(
        "--broker-file",
        type=Path,
        metavar="FILE",
        help="file with the broker's URL ($RTPROV_BROKER_FILE)",
    )
    parser.add_argument(
        "--ca",
        type=Path,
        metavar="FILE",
        help="CA that vouches for an amqps:// broker (default: certs/ca.pem)",
    )
    parser.epilog = (
        "The broker's URL is read from --broker-file or from $RTPROV_BROKER (default:"
        f" {DEFAULT_BROKER})."
    )
    return parser


def _broker(file: Path | None) -> BrokerUrl:
    """Raises `ConfigurationError`."""
    name = file or os.environ.get("RTPROV_BROKER_FILE")
    text = (
        read_text(Path(name), "broker's URL").strip()
        if name
        else os.environ.get("RTPROV_BROKER") or DEFAULT_BROKER
    )
    return BrokerUrl.parse(text)


def _say(text: str) -> None:
    with suppress(OSError):  # a terminal that is gone
        print(text, flush=True)  # noqa: T201 - a command's answer


async def _connect(
    reactor: Any, endpoint: IStreamClientEndpoint, connection: AmqpConnection
) -> None:
    """Raises `BrokerError`."""
    try:
        await connectProtocol(endpoint, cast("Any", connection)).addTimeout(
            CONNECT_DEADLINE_S, reactor
        )
    except Exception as error:  # the ways not to reach a host have no common base class
        raise BrokerUnavailable(f"No connection to {connection.url}: {error}") from error
    await connection.handshake()


async def _change(reactor: Any, url: BrokerUrl, ca: Path, count: int) -> None:
    install_names()
    endpoint = broker_endpoint(url, VerifiedServers(ca) if url.tls else None)
    connection = AmqpConnection(url=url, clock=reactor)
    try:
        await _connect(reactor, endpoint, connection)
        publisher = Publisher(clock=reactor)
        await publisher.attach(connection)
        await Resharding(
            connection=connection,
            publisher=publisher,
            new_id=lambda: secrets.token_hex(16),
            say=_say,
        ).run(count)
    finally:
        if connection.transport is not None:
            await connection.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Ends the process: 0 done, 78 not possible as things are, 1 the broker
    failed: run it again.

    A terminal that goes away in the middle does not break it off.
    """
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    options = _parser().parse_args(arguments)
    ca: Path = options.ca or Path("certs") / "ca.pem"

    async def run(reactor: Any) -> None:
        try:
            await _change(reactor, _broker(options.broker_file), ca, options.count)
        except ConfigurationError as error:
            print(f"rtprov.shards: {error}", file=sys.stderr)  # noqa: T201
            raise SystemExit(error.exit_status) from None
        except BrokerError as error:
            print(f"rtprov.shards: {error}; nothing is lost, run it again", file=sys.stderr)  # noqa: T201
            raise SystemExit(1) from None

    react(lambda reactor: Deferred.fromCoroutine(run(reactor)))


if __name__ == "__main__":
    main()
