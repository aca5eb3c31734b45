"""``rtprov doctor``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import click
from attrs import evolve, frozen
from rich.text import Text

from rtprov.cli.doctor import connections, files, surroundings
from rtprov.cli.doctor.finding import Check, Finding, Level
from rtprov.cli.failures import Status, VerbFailed
from rtprov.cli.files import read_text
from rtprov.cli.output import Column
from rtprov.cli.profile import config_file, variables_of
from rtprov.cli.session import Connected, Session, asks_service_b
from rtprov.errors import ConfigurationError
from rtprov.network.hosts import parse_https_url
from rtprov.security.tls_client import VerifiedServers

STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "red"}
ROLES = ("FRONTEND", "WORKER", "STUB", "BROKER")
_PATH = click.Path(path_type=Path)


@frozen
class SetUp:
    """What to look at; None is not looked at."""

    certs: Path
    seal_keys: Path
    tokens: Path | None
    state: Path
    pid_file: Path
    broker_file: Path | None
    equipment_url: str | None


@click.command()
@click.option(
    "--certs", type=_PATH, envvar=variables_of("CERTS", *ROLES), default=Path("certs"),
    show_default=True, metavar="DIR", help="Folder of certificates ($RTPROV_CERTS).",
)  # fmt: skip
@click.option(
    "--seal-keys", type=_PATH, envvar=variables_of("SEAL_KEYS", "FRONTEND", "WORKER"),
    metavar="FILE",
    help="File with the sealing keys ($RTPROV_SEAL_KEYS).  [default: seal.key in --certs]",
)  # fmt: skip
@click.option(
    "--tokens", type=_PATH, envvar=variables_of("TOKENS", "FRONTEND"), metavar="FILE",
    help="File with the tokens of a front end ($RTPROV_TOKENS).",
)  # fmt: skip
@click.option(
    "--state", type=_PATH, envvar=variables_of("STATE", "BROKER"), default=Path("state"),
    show_default=True, metavar="DIR", help="Folder of the embedded broker ($RTPROV_STATE).",
)  # fmt: skip
@click.option(
    "--pidfile", "pid_file", type=_PATH, default=Path("twistd.pid"), show_default=True,
    metavar="FILE", help="The pid file of twistd.",
)  # fmt: skip
@click.option(
    "--broker-file", type=_PATH, metavar="FILE",
    help="File with the broker's URL ($RTPROV_BROKER_FILE).  [default: the URL in $RTPROV_BROKER]",
)  # fmt: skip
@click.option(
    "--equipment-url", envvar=variables_of("EQUIPMENT_URL", "WORKER"), metavar="URL",
    help="Service A ($RTPROV_EQUIPMENT_URL).",
)  # fmt: skip
@click.option("--local", is_flag=True, help="Connect to nothing.")
@asks_service_b
def doctor(session: Session, local: bool, seal_keys: Path | None, **options: Any) -> None:
    """Look for mistakes in certificates, keys, tokens, variables, limits and connections.

    Each finding says what is wrong and what to do. Variables of one command, such as
    RTPROV_WORKER_EQUIPMENT_URL, are read too. Exit status: 1 if there is an error.
    """
    set_up = SetUp(seal_keys=seal_keys or options["certs"] / "seal.key", **options)
    found = list(_on_this_machine(session, set_up))
    if local or not _can_log_in(session, found):
        raise SystemExit(_show(session, found))

    async def work(connected: Connected) -> int:
        found.extend(await connections.service_b(connected.api, session.process.now))
        for named, source in brokers(set_up.broker_file, session.process.environ).items():
            found.extend(await _broker(named, source, set_up.certs))
        if set_up.equipment_url is not None:
            found.append(await _service_a(session, connected, set_up.equipment_url))
        return _show(session, found)

    session.run(work)


def _can_log_in(session: Session, found: list[Finding]) -> bool:
    """Return whether the profile's files can be used; add to `found` why not."""
    try:
        profile = session.profile
        profile.token()
    except VerbFailed:
        return False  # `found` says why
    try:
        VerifiedServers(
            profile.ca,
            profile.certificate,
            profile.private_key,
            wall_clock=session.process.now,
        )
    except ConfigurationError as error:
        advice = "name the CA of service B's certificate with --ca, or use --profile"
        found.append(Check("profile", profile.url).refused(error, advice))
        return False
    return True


def _on_this_machine(session: Session, set_up: SetUp) -> Iterator[Finding]:
    process = session.process
    now = datetime.fromtimestamp(process.now(), timezone.utc)
    config = config_file(process.environ, process.home)
    try:
        profile = session.profile
    except VerbFailed as error:
        yield Check("profile", str(config)).refused(error, "correct the option or the file")
        url = "https://localhost"
    else:
        url = profile.url
        yield from surroundings.client(profile, config)
    yield from files.certificates(set_up.certs, url, now)
    yield from files.sealing_keys(set_up.seal_keys)
    if set_up.tokens is not None:
        yield from files.tokens(set_up.tokens, process.now())
    yield from surroundings.environment(process.environ, unknown_variables(process.environ))
    yield from surroundings.pid_file(set_up.pid_file)
    yield from surroundings.state_folder(set_up.state)
    try:
        import resource
    except ImportError:  # not on Windows
        return
    yield from surroundings.open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))


def unknown_variables(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the ``RTPROV_`` variables that no option reads, with the nearest names."""
    survey = cast("Any", import_module("rtprov.tap.environment_variables")).survey
    names = cast("Any", import_module("rtprov.tap.options")).ALL_NAMES
    return dict(survey(environ, "rtprov", names, names).unknown)


def brokers(given: Path | None, environ: Mapping[str, str]) -> dict[Path | str, str]:
    """Return the brokers to look at, each once: a file or URL, and what names it in findings.

    `given` is the value of ``--broker-file``. Without it, the variables of each command count.
    """
    if given is not None:
        return {given: str(given)}
    found: dict[Path | str, str] = {}
    for variable in variables_of("BROKER", "FRONTEND", "WORKER"):
        file, url = environ.get(f"{variable}_FILE"), environ.get(variable)
        if file:
            found[Path(file)] = file
        elif url:
            found.setdefault(url, f"${variable}")
    return found


async def _broker(named: Path | str, source: str, certs: Path) -> list[Finding]:
    """Check the broker of a file or URL. `source` is what names it."""
    text = str(named)
    if isinstance(named, Path):
        try:
            text = read_text(named, "broker's URL").strip()
        except VerbFailed as error:
            return [Check("broker URL", source).refused(error, "correct the file")]
        if len(text.split()) != 1:
            return [
                Check("broker URL", source).error(
                    "expected one line with the URL, and nothing else", "correct the file"
                )
            ]
    found = list(connections.broker_url(text, source))
    if any(each.level is Level.ERROR for each in found):
        return found
    look = cast("Callable[[str, Path], Any]", import_module("rtprov.tap.look").look_at_broker)
    found.append(await connections.broker(source, lambda: look(text, certs / "ca.pem")))
    return found


async def _service_a(session: Session, connected: Connected, text: str) -> Finding:
    try:
        url = parse_https_url(text)
    except ValueError as error:
        return Check("service A", text).error(str(error), "correct --equipment-url")
    http, explain = connected.network.http(evolve(session.profile, url=url))
    return await connections.service_a(http, explain, url, connected.clock)


def _show(session: Session, found: list[Finding]) -> int:
    columns = [
        Column("", lambda row: Text(row["level"], STYLES[Level(row["level"])])),
        Column("CHECK", lambda row: row["check"]),
        Column("WHAT", lambda row: _words(row), fold=True),
    ]
    writer = session.writer(columns, names=("level", "check", "about", "message", "advice"))
    for each in found:
        writer.add(
            {
                "level": each.level.value,
                "check": each.check,
                "about": each.about,
                "message": each.message,
                "advice": each.advice or None,
            }
        )
    writer.end()
    wrong = any(each.level is Level.ERROR for each in found)
    return Status.TASKS_FAILED if wrong else Status.DONE


def _words(row: Mapping[str, Any]) -> str:
    message = str(row["message"]).removeprefix(f"{row['about']}: ")
    return f"{row['about']}: {message}" + (f". {row['advice']}" if row["advice"] else "")
