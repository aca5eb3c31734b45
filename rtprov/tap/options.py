"""The options of the five commands, each defined once. How they get their values stands in
`rtprov.tap.command_options`.
"""

from __future__ import annotations

import attrs

from rtprov.amqp.client.url import BrokerUrl
from rtprov.network.hosts import parse_https_url
from rtprov.tap.command_options import CommandOptions as CommandOptions
from rtprov.tap.command_options import Option as Option
from rtprov.tap.option_values import (
    choice,
    integer,
    path,
    per_second,
    role_of,
    seconds,
    secret,
    server_endpoint,
)


def _port_of(what: str) -> str:
    return f"port of {what} on 127.0.0.1; 0 picks a free one"


CERTS = Option(
    "certs",
    "certs",
    "folder with ca.pem, and a .pem and .key for each of frontend, stub and worker",
    path,
)
BROKER_CERTS = attrs.evolve(CERTS, help="folder with broker.pem and broker.key, for --tls")
CERTIFICATE = Option(
    "certificate", None, "PEM certificate to show, instead of the one in --certs", path
)
PRIVATE_KEY = Option("private-key", None, "its private key, instead of the one in --certs", path)
CLIENT_CA = Option(
    "client-ca", None, "ask clients for a certificate that this CA vouches for", path
)
TOKENS = Option(
    "tokens",
    None,
    "file of the bearer tokens that are let in; python -m rtprov.tokens makes them",
    path,
)
ROLE_OF = Option(
    "role-of",
    None,
    "NAME=ROLE: what a client may do that shows this certificate; order without it",
    role_of,
    repeatable=True,
)
RATE = Option(
    "rate",
    None,
    "requests a second that are taken from one client; any number without it",
    per_second,
)
OPEN = Option(
    "open",
    None,
    "listen beyond this machine though neither --client-ca nor --tokens keeps anybody out",
    flag=True,
)
MAX_CONNECTIONS = Option("max-connections", "10000", "connections at once", integer(1, 1_000_000))
MAX_PER_ADDRESS = Option(
    "max-connections-per-address",
    "2000",
    "connections at once from one address",
    integer(1, 1_000_000),
)
REQUEST_TIMEOUT = Option(
    "request-timeout",
    "60",
    "seconds for a request to arrive, and until the next one begins",
    seconds(0.1, 3600),
)
MAX_UNCONFIRMED = Option(
    "max-unconfirmed",
    "10000",
    "tasks that wait for the broker's confirm at once",
    integer(1, 1_000_000),
)
TLS = Option(
    "tls",
    None,
    "speak TLS (amqps), with --certificate and --private-key or the files in --certs",
    flag=True,
)
USER = Option("user", "guest", "the only user that may log in", secret)
PASSWORD = Option(
    "password",
    "guest",
    "the user's password; best in the environment, where no process list shows it",
    secret,
)
CA = Option(
    "ca", None, "CA that vouches for the servers we call, instead of ca.pem in --certs", path
)
BROKER = Option(
    "broker",
    "amqp://guest:guest@127.0.0.1:5673/",
    "the AMQP broker; amqps:// verifies it against --ca",
    BrokerUrl.parse,
)
BROKER_FILE = Option(
    "broker-file",
    None,
    "file that holds the AMQP broker's URL, instead of --broker; a change of it is used",
    path,
)
SEAL_KEYS = Option(
    "seal-keys",
    None,
    "file with the sealing keys, the same for front ends and workers, instead of seal.key in"
    " --certs",
    path,
)
SHARDS = Option(
    "shards",
    None,
    "how many shards there are [default: what the broker holds; a new one, 1]",
    integer(1, 1024),
)
SHARD = Option(
    "shard",
    None,
    "a shard to serve, from 0; repeatable; all of them without it",
    integer(0, 1023),
    repeatable=True,
)
EQUIPMENT_URL = Option("equipment-url", "https://localhost:8444", "service A", parse_https_url)
OTHER_EQUIPMENT_URL = Option(
    "equipment-url", None, "service A; given, no stub is started", parse_https_url
)
CONCURRENCY = Option("concurrency", "500", "calls to A under way at once", integer(1, 30000))
RETENTION = Option(
    "retention",
    "86400",
    "seconds for which a finished task can still be asked about",
    seconds(1, 518400),
)
PATIENCE = Option(
    "patience",
    "600",
    "seconds for which a task is tried again while A cannot be reached",
    seconds(0, 86400),
)
DRAIN = Option(
    "drain", "120", "seconds that running calls get when the worker is stopped", seconds(0, 86400)
)
RUNNING_STATUS = Option(
    "running-status",
    "200",
    "HTTP status of a task that still runs: 200, 202 or 204",
    choice(200, 202, 204),
)
HONOUR_TIMEOUT = Option(
    "honour-timeout",
    None,
    "the stub gives up after timeoutInSeconds where that is below its delay",
    flag=True,
)
SCENARIO = Option(
    "scenario", None, "TOML file with rules for the stub, before the built-in ones", path
)
PORT = Option("port", "8443", _port_of("service B"), integer(0, 65535))
STUB_PORT = Option("stub-port", "8444", _port_of("service A"), integer(0, 65535))
BROKER_PORT = Option("broker-port", "5673", _port_of("the broker"), integer(0, 65535))
FRONT_END_LISTEN = Option(
    "listen",
    None,
    "Twisted endpoint description of where service B listens, instead of --port",
    server_endpoint,
)
STATE = Option("state", "state", "folder for what the embedded broker keeps", path)

HEALTH_LISTEN = Option(
    "health-listen",
    None,
    "Twisted endpoint description of where to answer /livez and /readyz, over plain HTTP",
    server_endpoint,
)


def listen(default: str) -> Option:
    """Where a command listens."""
    return Option(
        "listen", default, "Twisted endpoint description of where to listen", server_endpoint
    )


def stub_delay(name: str) -> Option:
    """How long the stub takes."""
    return Option(
        name, "60", "seconds that the stub takes over a well-formed request", seconds(0, 86400)
    )


ALL_NAMES = frozenset(
    {"listen", "delay", "stub-delay"}
    | {each.name for each in globals().copy().values() if isinstance(each, Option)}
)
"""The names of all options, for the environment variables that another command than the one that
runs may read.
"""
