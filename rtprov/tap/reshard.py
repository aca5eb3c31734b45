"""``python -m rtprov.shards N``: the command line that changes the number of shards.

Stop all workers first. Front ends may go on running; they answer 503 until the change is complete.
After an interruption, run the command again: it completes the change. The steps are in
`rtprov.messaging.resharding`."""

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
from rtprov.tap.process import clock

DEFAULT_BROKER = "amqp://guest:guest@127.0.0.1:5673/"
CONNECT_DEADLINE_S = 10.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rtprov.shards",
        description=(
            "Change the number of shards that the broker's tasks are divided into. Stop all workers"
            " first. After an interruption, run the command again."
        ),
    )
    parser.add_argument(
        "count", type=int, metavar="N", help="the new number of shards, from 1 to 1024"
    )
    parser.add_argument(
        "--broker-file",
        type=Path,
        metavar="FILE",
        help="file with the URL of the AMQP broker ($RTPROV_BROKER_FILE)",
    )
    parser.add_argument(
        "--ca",
        type=Path,
        metavar="FILE",
        help="PEM file with the CA of an amqps:// broker's certificate (default: certs/ca.pem)",
    )
    parser.epilog = (
        "The broker's URL is read from --broker-file or from $RTPROV_BROKER (default:"
        f" {DEFAULT_BROKER})."
    )
    return parser


def _broker(file: Path | None) -> BrokerUrl:
    """Return the broker's URL from the file or the environment. Raises `ConfigurationError`."""
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


async def _connect(endpoint: IStreamClientEndpoint, connection: AmqpConnection) -> None:
    """Connect and log in. Raises `BrokerError`."""
    try:
        await connectProtocol(endpoint, cast("Any", connection)).addTimeout(
            CONNECT_DEADLINE_S, clock
        )
    except Exception as error:  # connection errors have no common base class
        raise BrokerUnavailable(f"Could not connect to {connection.url}: {error}") from error
    await connection.handshake()


async def _change(url: BrokerUrl, ca: Path, count: int) -> None:
    install_names()
    endpoint = broker_endpoint(url, VerifiedServers(ca) if url.tls else None, clock)
    connection = AmqpConnection(url=url, clock=clock)
    try:
        await _connect(endpoint, connection)
        publisher = Publisher(clock=clock)
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
    """Run the command and end the process.

    Exit status: 0 the change is complete; 1 the broker failed, run the command again; 78 the change
    is not possible with this configuration or state. SIGHUP is ignored: a closed terminal does not
    interrupt the change.
    """
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    options = _parser().parse_args(arguments)
    ca: Path = options.ca or Path("certs") / "ca.pem"

    async def run() -> None:
        try:
            await _change(_broker(options.broker_file), ca, options.count)
        except ConfigurationError as error:
            print(f"rtprov.shards: {error}", file=sys.stderr)  # noqa: T201 - a command's answer
            raise SystemExit(error.exit_status) from None
        except BrokerError as error:
            print(  # noqa: T201 - a command's answer
                f"rtprov.shards: {error}; no task is lost, run the command again", file=sys.stderr
            )
            raise SystemExit(1) from None

    react(lambda _: Deferred.fromCoroutine(run()))


if __name__ == "__main__":
    main()
