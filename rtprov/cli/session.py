"""The options that all verbs have which ask service B, and what they share when they run."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click
from attrs import define, frozen
from rich.console import Console

from rtprov.cli.api import RETRY_FOR_S, Api
from rtprov.cli.failures import Status, VerbFailed
from rtprov.cli.output import FORMATS, Column, Writer, console, stdout
from rtprov.cli.process import Network, Process, Processes, complain, drop_output
from rtprov.cli.profile import Profile, find_profile

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

F = TypeVar("F", bound=Callable[..., Any])
_PATHS = click.Path(dir_okay=False)


@define
class Session:
    """One run of a verb: its options, its process, and its output."""

    process: Processes
    format: str
    given: Mapping[str, str | None]
    profile_name: str | None
    retry_for_s: float

    @property
    def profile(self) -> Profile:
        """The front end's profile. Raises `VerbFailed`."""
        return find_profile(self.given, self.profile_name, self.process.environ, self.process.home)

    @property
    def out(self) -> IO[str]:
        """Standard output."""
        return stdout()

    @property
    def errors(self) -> Console:
        """Standard error, for progress and warnings."""
        return console(sys.stderr, self.process.environ)

    def writer(self, columns: list[Column], **options: Any) -> Writer:
        """Return the writer of the verb's rows."""
        return Writer(self.format, columns, self.out, **options)

    def run(self, work: Callable[[Connected], Coroutine[Any, Any, int]]) -> None:
        """Run `work` with a client of the front end, and end the process."""

        async def connected(network: Network) -> int:
            profile = self.profile
            http, explain = network.http(profile)
            api = Api(
                http=http,
                url=profile.url,
                clock=network.clock,
                now=self.process.now,
                token=profile.token(),
                explain=explain,
                tell=complain,
                retry_for_s=self.retry_for_s,
            )
            return await work(Connected(api, network))

        raise SystemExit(self.process.run(connected))


@frozen
class Connected:
    """What a verb's coroutine gets."""

    api: Api
    network: Network

    @property
    def clock(self) -> IReactorTime:
        """The reactor as a clock."""
        return self.network.clock


def _chosen(ctx: click.Context, _: click.Parameter, value: str | None) -> str:
    """Return the format: the verb's own -o, else the one before the verb."""
    return value or ctx.meta.get("rtprov.output") or "table"


output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(FORMATS),
    callback=_chosen,
    help="Format.  [default: table]",
)
"""The format of what a verb writes, for `rtprov.cli.output.Writer`."""

_CONNECTION = [
    click.option("--url", metavar="URL", help="Service B.  [default: https://localhost:8443]"),
    click.option(
        "--ca", type=_PATHS, metavar="FILE", help="CA of its certificate.  [default: certs/ca.pem]"
    ),
    click.option("--token-file", type=_PATHS, metavar="FILE", help="File with the bearer token."),
    click.option("--certificate", type=_PATHS, metavar="FILE", help="Client certificate."),
    click.option("--private-key", type=_PATHS, metavar="FILE", help="Its private key."),
    click.option("--profile", metavar="NAME", help="Profile in ~/.config/rtprov.toml."),
    click.option(
        "--retry-for",
        type=click.FloatRange(min=0),
        default=RETRY_FOR_S,
        show_default=True,
        metavar="S",
        help="Seconds for which a busy service B is asked again, as its Retry-After says.",
    ),
    output_option,
]


def asks_service_b(function: F) -> F:
    """Add the options of the connection to a verb; it gets a `Session` in their place."""

    @functools.wraps(function)
    @click.pass_context
    def run(
        ctx: click.Context,
        /,
        *,
        profile: str | None,
        output: str,
        retry_for: float,
        url: str | None,
        ca: str | None,
        token_file: str | None,
        certificate: str | None,
        private_key: str | None,
        **options: Any,
    ) -> Any:
        given = {
            "url": url,
            "ca": ca,
            "token_file": token_file,
            "certificate": certificate,
            "private_key": private_key,
        }
        ends_well(check_texts)(ctx)
        before_verb = ctx.meta.get("rtprov.connection", {})
        given = {name: value or before_verb.get(name) for name, value in given.items()}
        session = Session(
            ctx.obj if ctx.obj is not None else Process(),
            output,
            given,
            profile or ctx.meta.get("rtprov.profile"),
            retry_for,
        )
        return ends_well(function)(session, **options)

    for option in reversed(_CONNECTION):
        run = option(run)
    return run  # type: ignore[return-value] # click's decorators add parameters


def check_texts(ctx: click.Context) -> None:
    """Raise `VerbFailed` if an argument that is sent is not valid UTF-8.

    Python turns other bytes into surrogates. They may be part of a file's path.
    """
    for parameter in ctx.command.params:
        if isinstance(parameter.type, click.Path):
            continue
        value = ctx.params.get(parameter.name or "")
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and any("\ud800" <= each <= "\udfff" for each in text):
                raise VerbFailed(f"{parameter.get_error_hint(ctx)}: not valid UTF-8", Status.USAGE)


def ends_well(function: F) -> F:
    """End the process with the status of a `VerbFailed`."""

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except VerbFailed as error:
            complain(str(error))
            raise SystemExit(int(error.status)) from None
        except BrokenPipeError:  # head(1) has read enough
            drop_output()
            raise SystemExit(int(Status.DONE)) from None

    return run  # type: ignore[return-value] # the same parameters
