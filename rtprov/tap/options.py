"""Command-line options that also come from the environment: ``--broker`` is ``RTPROV_BROKER``. The command line wins.

A wrong value, from either place, ends the command with one line on standard error and exit status 1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import attrs
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.logger import Logger
from twisted.python import usage

from rtprov import __version__
from rtprov.amqp.url import BrokerUrl
from rtprov.errors import ConfigurationError

BACKLOG = 1024  # Twisted's is 50

_log = Logger(namespace="rtprov")


@attrs.frozen
class Option:
    """`default` is as a user would write it, None where there is none; `parse` makes the value of it, or raises ValueError with a sentence.

    A flag has no value: it is on or off.
    """

    name: str
    default: str | None
    help: str
    parse: Callable[[str], Any] = str
    flag: bool = False
    repeatable: bool = False

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "RTPROV_" + self.name.upper().replace("-", "_")

    @property
    def description(self) -> str:
        """The line of ``--help``."""
        default = f" [default: {self.default}]" if self.default is not None and not self.flag else ""
        return f"{self.help}{default} (${self.variable})"


class CommandOptions(usage.Options):
    """What the five commands share. A subclass lists its `options` and says in `longdesc` what runs."""

    command: ClassVar[str]
    options: ClassVar[tuple[Option, ...]]
    optParameters: ClassVar[list[list[Any]]]
    optFlags: ClassVar[list[list[Any]]]

    def __init_subclass__(cls) -> None:
        plain = [option for option in cls.options if not option.flag and not option.repeatable]
        cls.optParameters = [[option.name, None, None, option.description] for option in plain]
        cls.optFlags = [[option.name, None, option.description] for option in cls.options if option.flag]
        for option in cls.options:
            if option.repeatable:
                setattr(cls, f"opt_{option.name.replace('-', '_')}", _collector(option))

    def __init__(self) -> None:
        super().__init__()
        self.collected: dict[str, list[str]] = {}

    def getSynopsis(self) -> str:
        return f"Usage: twistd [twistd options] {self.command} [options]"

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise usage.UsageError("unexpected argument: all is said by options, see --help")  # not shown: see parseOptions

    def opt_version(self) -> None:
        """Show rtprov's version and exit."""
        print(f"rtprov {__version__}")  # noqa: T201 - the command's answer
        raise SystemExit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Raises SystemExit, with one line, where something is wrong."""
        report_errors(self.command)
        try:
            super().parseOptions(options)
        except (usage.UsageError, ConfigurationError) as error:
            text = str(error)
            if "://" in text and isinstance(error, usage.UsageError):  # a broker URL gone astray, password and all
                text = "an option is not recognized, see --help"
            raise SystemExit(f"{self.command}: {text}") from None

    def postOptions(self) -> None:
        """Give every option its value."""
        for option in self.options:
            if option.repeatable:
                texts = self.collected.get(option.name) or [text for text in os.environ.get(option.variable, "").split(",") if text]
                self[option.name] = [_parse(option, text, f"--{option.name}") for text in texts]
            elif option.flag:
                self[option.name] = bool(self[option.name]) or _parse_flag(option)
            elif self[option.name] is not None:
                self[option.name] = _parse(option, self[option.name], f"--{option.name}")
            elif os.environ.get(option.variable):
                self[option.name] = _parse(option, os.environ[option.variable], option.variable)
            elif option.default is not None:
                self[option.name] = option.parse(option.default)
        self.check()

    def check(self) -> None:
        """What options must hold together. Raises `ConfigurationError`."""


def _collector(option: Option) -> Callable[[CommandOptions, str], None]:
    def collect(self: CommandOptions, value: str) -> None:
        self.collected.setdefault(option.name, []).append(value)

    collect.__doc__ = option.description
    return collect


def _parse(option: Option, text: str, source: str) -> Any:
    try:
        return option.parse(text)
    except (ValueError, ConfigurationError) as error:
        raise ConfigurationError(f"{source}: {error}") from None


def _parse_flag(option: Option) -> bool:
    text = os.environ.get(option.variable, "").lower()
    if text not in ("", "0", "1", "false", "true", "no", "yes", "off", "on"):
        raise ConfigurationError(f"{option.variable}: expected yes or no")
    return text in ("1", "true", "yes", "on")


def report_errors(command: str) -> None:
    """Have a `ConfigurationError` that ends the process, wherever it comes from, shown as one line instead of a traceback.

    It goes to standard error and, where that has begun, to the log: a daemon's standard error leads nowhere.
    """
    fallback = sys.__excepthook__

    def show(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if isinstance(error, ConfigurationError):
            _log.error("{command}: {error}", command=command, error=error)
            print(f"{command}: {error}", file=sys.__stderr__)
        else:
            fallback(kind, error, trace)

    sys.excepthook = show


# Values.


def integer(low: int, high: int) -> Callable[[str], int]:
    """An integer within these bounds."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 12 and low <= int(text) <= high):
            raise ValueError(f"expected an integer from {low} to {high}")
        return int(text)

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    """A number of seconds within these bounds."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not low <= value <= high:
            raise ValueError(f"expected a number of seconds from {low:g} to {high:g}")
        return value

    return parse


def per_second(text: str) -> float:
    """A number of requests a second."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.001 <= value <= 1_000_000:
        raise ValueError("expected a number of requests a second from 0.001 to 1000000")
    return value


def secret(text: str) -> str:
    """What may not be empty."""
    if not text:
        raise ValueError("expected at least one character")
    return text


def choice(*values: int) -> Callable[[str], int]:
    """One of these integers."""

    def parse(text: str) -> int:
        if text not in map(str, values):
            raise ValueError(f"expected {', '.join(map(str, values[:-1]))} or {values[-1]}")
        return int(text)

    return parse


def path(text: str) -> Path:
    """A path, made absolute now: twistd may change its working directory."""
    if not text:
        raise ValueError("expected a path")
    return Path(text).absolute()


def server_endpoint(text: str) -> tuple[str, Any]:
    """The description, and the endpoint that it makes: whole campaigns may connect at once, so many may wait to be taken."""
    if text.startswith(("ssl:", "tls:")):
        raise ValueError("TLS is on top of every HTTPS port already: use tcp:")
    try:
        backlog = f":backlog={BACKLOG}" if text.startswith(("tcp:", "tcp6:")) and "backlog=" not in text else ""
        return text, serverFromString(reactor, text + backlog)
    except Exception as error:  # Twisted raises whatever the endpoint's parser does
        raise ValueError(f"{text!r} is not a Twisted endpoint description such as tcp:8443:interface=127.0.0.1 ({error})") from None


def https_url(text: str) -> str:
    """An ``https:`` URL with a host, and with neither user nor query."""
    try:
        parts = urlsplit(text)
        valid = parts.scheme == "https" and bool(parts.hostname) and not (parts.query or parts.fragment or "@" in parts.netloc)
        _ = parts.port
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("expected an https:// URL such as https://localhost:8444")
    return text.rstrip("/")


# Options that several commands have.

CERTS = Option("certs", "certs", "folder with ca.pem, and a .pem and .key for each of frontend, stub and worker", path)
BROKER_CERTS = attrs.evolve(CERTS, help="folder with broker.pem and broker.key, for --tls")
CERTIFICATE = Option("certificate", None, "PEM certificate to show, instead of the one in --certs", path)
PRIVATE_KEY = Option("private-key", None, "its private key, instead of the one in --certs", path)
CLIENT_CA = Option("client-ca", None, "ask clients for a certificate that this CA vouches for", path)
TOKENS = Option("tokens", None, "file of the bearer tokens that are let in; python -m rtprov.tokens makes them", path)
RATE = Option("rate", None, "requests a second that are taken from one client; any number without it", per_second)
OPEN = Option("open", None, "listen beyond this machine though neither --client-ca nor --tokens keeps anybody out", flag=True)
MAX_CONNECTIONS = Option("max-connections", "10000", "connections at once", integer(1, 1_000_000))
MAX_PER_ADDRESS = Option("max-connections-per-address", "2000", "connections at once from one address", integer(1, 1_000_000))
REQUEST_TIMEOUT = Option("request-timeout", "60", "seconds for a request to arrive, and until the next one begins", seconds(0.1, 3600))
MAX_UNCONFIRMED = Option("max-unconfirmed", "10000", "tasks that wait for the broker's confirm at once", integer(1, 1_000_000))
TLS = Option("tls", None, "speak TLS (amqps), with --certificate and --private-key or the files in --certs", flag=True)
USER = Option("user", "guest", "the only user that may log in", secret)
PASSWORD = Option("password", "guest", "the user's password; best in the environment, where no process list shows it", secret)
CA = Option("ca", None, "CA that vouches for the servers we call, instead of ca.pem in --certs", path)
BROKER = Option("broker", "amqp://guest:guest@127.0.0.1:5673/", "the AMQP broker; amqps:// verifies it against --ca", BrokerUrl.parse)
SEAL_KEYS = Option(
    "seal-keys", None, "file with the sealing keys, the same for front ends and workers, instead of seal.key in --certs", path
)
SHARDS = Option("shards", "1", "how many shards there are; the same for all front ends and workers", integer(1, 1024))
EQUIPMENT_URL = Option("equipment-url", "https://localhost:8444", "service A", https_url)
CONCURRENCY = Option("concurrency", "500", "calls to A under way at once", integer(1, 30000))
RETENTION = Option("retention", "86400", "seconds for which a finished task can still be asked about", seconds(1, 518400))
PATIENCE = Option("patience", "600", "seconds for which a task is tried again while A cannot be reached", seconds(0, 86400))
DRAIN = Option("drain", "120", "seconds that running calls get when the worker is stopped", seconds(0, 86400))
RUNNING_STATUS = Option("running-status", "200", "HTTP status of a task that still runs: 200, 202 or 204", choice(200, 202, 204))
HONOUR_TIMEOUT = Option("honour-timeout", None, "the stub gives up after timeoutInSeconds where that is below its delay", flag=True)
SCENARIO = Option("scenario", None, "TOML file with rules for the stub, before the built-in ones", path)
STATE = Option("state", "state", "folder for what the embedded broker keeps", path)

HEALTH_LISTEN = Option(
    "health-listen",
    None,
    "Twisted endpoint description of where to answer /livez and /readyz, over plain HTTP",
    server_endpoint,
)


def listen(default: str) -> Option:
    """Where a command listens."""
    return Option("listen", default, "Twisted endpoint description of where to listen", server_endpoint)


def stub_delay(name: str) -> Option:
    """How long the stub takes."""
    return Option(name, "60", "seconds that the stub takes over a well-formed request", seconds(0, 86400))
