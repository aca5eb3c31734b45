"""``python -m rtprov.move``: the command line that moves all tasks from one broker to another.

Stop all workers first. After an interruption, run the command again: it completes the move. The
steps are in `rtprov.messaging.relocation`.
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Sequence
from pathlib import Path

from rtprov.errors import ConfigurationError
from rtprov.messaging.relocation import Relocation, Side
from rtprov.tap.broker_command import (
    add_certificate_options,
    close,
    connect,
    run_command,
    say,
)
from rtprov.tap.broker_file import ClientFiles, client_files, read_broker_url
from rtprov.tap.client_connections import install_names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rtprov.move",
        description=(
            "Move all tasks, with their statuses and Idempotency-Keys, from one AMQP broker to"
            " another, on which rtprov has not run yet. Stop all workers first. After an"
            " interruption, run the command again."
        ),
    )
    for name, which in (("from", "present"), ("to", "new")):
        parser.add_argument(
            f"--{name}-file",
            dest=f"{name}_file",
            type=Path,
            required=True,
            metavar="FILE",
            help=f"file with the URL of the {which} broker, as --broker-file of a worker has it",
        )
    parser.add_argument(
        "--ca",
        type=Path,
        default=Path("certs") / "ca.pem",
        metavar="FILE",
        help="PEM file with the CA of an amqps:// broker's certificate (default: %(default)s)",
    )
    add_certificate_options(parser)
    return parser


async def _move(source_file: Path, target_file: Path, ca: Path, client: ClientFiles | None) -> None:
    urls = read_broker_url(source_file), read_broker_url(target_file)
    if urls[0] == urls[1]:
        raise ConfigurationError(f"{source_file} and {target_file} name the same broker")
    install_names()
    sides: list[Side] = []
    try:
        for url in urls:
            # One of the two brokers may have no TLS: the embedded one on this machine, say.
            plain = not url.tls and any(each.tls for each in urls)
            sides.append(Side(*await connect(url, ca, None if plain else client)))
        source, target = sides
        move = Relocation(
            source=source, target=target, new_id=lambda: secrets.token_hex(16), say=say
        )
        await move.run()
    finally:
        for side in sides:
            await close(side.connection)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and end the process, as `rtprov.tap.broker_command.run_command` does."""
    options = _parser().parse_args(arguments)

    async def move() -> None:
        client = client_files(options.amqp_certificate, options.amqp_private_key)
        await _move(options.from_file, options.to_file, options.ca, client)

    run_command("rtprov.move", move)


if __name__ == "__main__":
    main()
