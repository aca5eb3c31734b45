"""``python -m rtprov.shards N``: the command line that changes the number of shards.

Stop all workers first. Front ends may go on running; they answer 503 until the change is complete.
After an interruption, run the command again: it completes the change. The steps are in
`rtprov.messaging.resharding`.
"""

from __future__ import annotations

import argparse
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from rtprov.amqp.client.url import BrokerUrl
from rtprov.messaging.resharding import Resharding
from rtprov.tap.broker_command import (
    add_certificate_options,
    close,
    connect,
    run_command,
    say,
)
from rtprov.tap.broker_file import ClientFiles, client_files, read_broker_url
from rtprov.tap.client_connections import install_names

DEFAULT_BROKER = "amqp://guest:guest@127.0.0.1:5673/"


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
    add_certificate_options(parser)
    parser.epilog = (
        "The broker's URL is read from --broker-file or from $RTPROV_BROKER (default:"
        f" {DEFAULT_BROKER})."
    )
    return parser


def broker_of(file: Path | None) -> BrokerUrl:
    """Return the broker's URL from the file or the environment. Raises `ConfigurationError`."""
    name = file or os.environ.get("RTPROV_BROKER_FILE")
    if name:
        return read_broker_url(Path(name))
    return BrokerUrl.parse(os.environ.get("RTPROV_BROKER") or DEFAULT_BROKER)


async def _change(url: BrokerUrl, ca: Path, client: ClientFiles | None, count: int) -> None:
    install_names()
    connection, publisher = await connect(url, ca, client)
    try:
        await Resharding(
            connection=connection,
            publisher=publisher,
            new_id=lambda: secrets.token_hex(16),
            say=say,
        ).run(count)
    finally:
        await close(connection)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and end the process, as `rtprov.tap.broker_command.run_command` does."""
    options = _parser().parse_args(arguments)
    ca: Path = options.ca or Path("certs") / "ca.pem"

    async def change() -> None:
        client = client_files(options.amqp_certificate, options.amqp_private_key)
        await _change(broker_of(options.broker_file), ca, client, options.count)

    run_command("rtprov.shards", change)


if __name__ == "__main__":
    main()
