"""``rtprov backup FILE`` and ``rtprov restore FILE``: see `rtprov.messaging.backup`."""

from __future__ import annotations

import argparse
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rtprov.errors import ConfigurationError, refusal
from rtprov.messaging.backup import Restore, save
from rtprov.messaging.relocation import Side
from rtprov.tap.broker_command import add_certificate_options, close, connect, run_command, say
from rtprov.tap.broker_file import client_files
from rtprov.tap.client_connections import install_names
from rtprov.tap.reshard import DEFAULT_BROKER, broker_of

_ABOUT = {
    "backup": (
        "Save the journals of a broker in FILE, while everything runs. Bodies stay sealed: keep the"
        " file with the sealing keys as well, in another place."
    ),
    "restore": (
        "Fill an empty broker from a backup: statuses and Idempotency-Keys are known again, and"
        " tasks that had not ended are called. Front ends and workers wait until it is complete."
        " After an interruption, run the command again."
    ),
}


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"rtprov {verb}", description=_ABOUT[verb])
    parser.add_argument("file", type=Path, metavar="FILE", help="the file of the backup")
    parser.add_argument(
        "--broker-file",
        type=Path,
        metavar="FILE",
        help="file with the URL of the AMQP broker ($RTPROV_BROKER_FILE)",
    )
    parser.add_argument(
        "--ca",
        type=Path,
        default=Path("certs") / "ca.pem",
        metavar="FILE",
        help="PEM file with the CA of an amqps:// broker's certificate (default: %(default)s)",
    )
    add_certificate_options(parser)
    parser.epilog = (
        "The broker's URL is read from --broker-file or from $RTPROV_BROKER (default:"
        f" {DEFAULT_BROKER})."
    )
    return parser


@contextmanager
def _new_file(file: Path) -> Iterator[IO[bytes]]:
    """Yield a file that takes the place of `file` when it is complete, readable by its owner only.

    Raises `ConfigurationError` if it cannot be written.
    """
    name = ""
    try:
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")  # mode 0600
        with os.fdopen(handle, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        Path(name).replace(file)
    except OSError as error:
        raise refusal(f"{file}: cannot write the backup: {error.strerror}", error) from None
    finally:
        if name:
            with suppress(FileNotFoundError):
                Path(name).unlink()


async def _save(side: Side, file: Path) -> None:
    with _new_file(file) as out:
        shards, events = await save(side, out, new_id=lambda: secrets.token_hex(16), at=time.time())
    say(f"{file}: {events} events of {shards} {'shard' if shards == 1 else 'shards'}")


async def _restore(side: Side, file: Path) -> None:
    try:
        with file.open("rb") as content:
            await Restore(side, content, str(file), say=say).run()
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot read the backup: {error.strerror}") from None


def main(arguments: Sequence[str]) -> None:
    """Run ``backup`` or ``restore``, the first argument, and end the process.

    See `rtprov.tap.broker_command.run_command`.
    """
    verb, *rest = arguments
    options = _parser(verb).parse_args(rest)

    async def work() -> None:
        client = client_files(options.amqp_certificate, options.amqp_private_key)
        url = broker_of(options.broker_file)
        install_names()
        side = Side(*await connect(url, options.ca, client if url.tls else None))
        try:
            await (_save if verb == "backup" else _restore)(side, options.file)
        finally:
            await close(side.connection)

    run_command(f"rtprov {verb}", work)
