"""The options of the five commands, each defined once, with their ``--help`` texts.

`rtprov.tap.command_options` parses them; `rtprov.tap.option_values` converts their values.
"""

from __future__ import annotations

import attrs

from rtprov.amqp.client.url import BrokerUrl
from rtprov.network.address_networks import parse_network
from rtprov.network.hosts import parse_https_url
from rtprov.tap.command_options import CommandOptions as CommandOptions
from rtprov.tap.command_options import CommandSettings as CommandSettings
from rtprov.tap.command_options import Option as Option
from rtprov.tap.option_values import (
    choice,
    integer,
    log_format,
    one_line,
    path,
    per_second,
    role_of,
    seconds,
    secret,
    server_endpoint,
)


def _port_of(what: str) -> str:
    return f"TCP port of {what} on 127.0.0.1; 0 picks a free one"


CERTS = Option(
    "certs",
    "certs",
    "folder with ca.pem, and NAME.pem and NAME.key for frontend, stub and worker",
    path,
)
BROKER_CERTS = attrs.evolve(CERTS, help="folder with broker.pem and broker.key, for --tls")
CERTIFICATE = Option(
    "certificate",
    None,
    "PEM file with this process's certificate, instead of the one in --certs",
    path,
)
PRIVATE_KEY = Option(
    "private-key",
    None,
    "PEM file with the certificate's private key, instead of the one in --certs",
    path,
)
CLIENT_CA = Option(
    "client-ca",
    None,
    "PEM file with a CA; clients must have a certificate that it signed",
    path,
)
TOKENS = Option(
    "tokens",
    None,
    "file with the accepted bearer tokens; python -m rtprov.tokens creates them",
    path,
)
ROLE_OF = Option(
    "role-of",
    None,
    "NAME=ROLE: role (read, order or operate) of the client whose certificate has this common"
    " name; repeatable; order if not given",
    role_of,
    repeatable=True,
)
RATE = Option(
    "rate",
    None,
    "requests per second accepted from one client; unlimited if not given",
    per_second,
)
OPEN = Option(
    "open",
    None,
    "accept any client, also from other machines, without --client-ca or --tokens",
    flag=True,
)
PROXY_PROTOCOL = Option(
    "proxy-protocol",
    None,
    "network or address of proxies, such as 10.0.0.0/8; repeatable: connections from there must"
    " begin with a PROXY header, which names the client",
    parse_network,
    repeatable=True,
)
MAX_CONNECTIONS = Option(
    "max-connections", "10000", "maximum number of open client connections", integer(1, 1_000_000)
)
MAX_PER_ADDRESS = Option(
    "max-connections-per-address",
    "2000",
    "maximum number of open client connections from one address",
    integer(1, 1_000_000),
)
REQUEST_TIMEOUT = Option(
    "request-timeout",
    "60",
    "seconds that a request may take to arrive, and that a connection may stay idle",
    seconds(0.1, 3600),
)
STOP_DELAY = Option(
    "stop-delay",
    "0",
    "seconds between a stop signal and the closing of the port; meanwhile /readyz is 503, so that a"
    " load balancer chooses another front end",
    seconds(0, 600),
)
MAX_UNCONFIRMED = Option(
    "max-unconfirmed",
    "10000",
    "maximum number of tasks that wait for the broker's confirm; further POSTs are answered 503",
    integer(1, 1_000_000),
)
NO_GC_TUNING = Option(
    "no-gc-tuning",
    None,
    "leave Python's garbage collector as it is, for debugging",
    flag=True,
)
TLS = Option(
    "tls",
    None,
    "accept TLS connections only (amqps), with --certificate and --private-key or the files in"
    " --certs",
    flag=True,
)
USER = Option("user", "guest", "name of the only user that may log in", secret)
PASSWORD = Option(
    "password",
    "guest",
    "the user's password; prefer the environment variable, which no process list shows",
    secret,
)
CA = Option(
    "ca",
    None,
    "PEM file with the CA of the servers that this process connects to, instead of ca.pem in"
    " --certs",
    path,
)
BROKER = Option(
    "broker",
    "amqp://guest:guest@127.0.0.1:5673/",
    "URL of the AMQP broker; with amqps:// its certificate is verified with --ca",
    BrokerUrl.parse,
)
BROKER_FILE = Option(
    "broker-file",
    None,
    "file with the URL of the AMQP broker, instead of --broker; read again when it changes",
    path,
)
AMQP_CERTIFICATE = Option(
    "amqp-certificate",
    None,
    "PEM file with the client certificate for an amqps:// broker; it logs in if the URL names no"
    " user",
    path,
)
AMQP_PRIVATE_KEY = Option(
    "amqp-private-key", None, "PEM file with the private key of --amqp-certificate", path
)
SEAL_KEYS = Option(
    "seal-keys",
    None,
    "file with the sealing keys, instead of seal.key in --certs; front ends and workers need the"
    " same keys",
    path,
)
SHARDS = Option(
    "shards",
    None,
    "number of shards [default: the number stored in the broker, or 1 if it stores none]",
    integer(1, 1024),
)
SHARD = Option(
    "shard",
    None,
    "number of a shard to serve, from 0; repeatable; all shards if not given",
    integer(0, 1023),
    repeatable=True,
)
EQUIPMENT_URL = Option(
    "equipment-url", "https://localhost:8444", "URL of service A", parse_https_url
)
OTHER_EQUIPMENT_URL = Option(
    "equipment-url", None, "URL of service A; if given, no stub is started", parse_https_url
)
CONCURRENCY = Option(
    "concurrency", "500", "maximum number of calls to service A at the same time", integer(1, 30000)
)
MAX_CALLS_PER_SECOND = Option(
    "max-calls-per-second",
    None,
    "maximum number of calls to service A that begin in a second; unlimited if not given",
    per_second,
)
RETENTION = Option(
    "retention",
    "86400",
    "seconds for which the status of a finished task is kept",
    seconds(1, 518400),
)
HISTORY = Option(
    "history",
    None,
    "folder for ended tasks, without their parameters, which searches find beyond --retention; each"
    " worker needs its own",
    path,
)
HISTORY_DAYS = Option(
    "history-days", "400", "days for which --history keeps ended tasks", integer(1, 36500)
)
PATIENCE = Option(
    "patience",
    "600",
    "seconds for which a task is retried while service A cannot be reached",
    seconds(0, 86400),
)
DRAIN = Option(
    "drain",
    "120",
    "seconds that running calls to service A get to finish when the worker stops",
    seconds(0, 86400),
)
BATCH_EVENTS = Option(
    "batch-events",
    None,
    "write several events of a journal as one message; only when no worker before 0.3 is left",
    flag=True,
)
RUNNING_STATUS = Option(
    "running-status",
    "200",
    "HTTP status of the answer about a task that is still running: 200, 202 or 204",
    choice(200, 202, 204),
)
HONOUR_TIMEOUT = Option(
    "honour-timeout",
    None,
    "the stub answers 500 after timeoutInSeconds if that is shorter than its delay",
    flag=True,
)
SCENARIO = Option(
    "scenario", None, "TOML file with rules for the stub, tried before the built-in rules", path
)
PORT = Option("port", "8443", _port_of("service B"), integer(0, 65535))
STUB_PORT = Option("stub-port", "8444", _port_of("service A"), integer(0, 65535))
BROKER_PORT = Option("broker-port", "5673", _port_of("the broker"), integer(0, 65535))
FRONT_END_LISTEN = Option(
    "listen",
    None,
    "Twisted endpoint description of service B's port, instead of --port",
    server_endpoint,
)
STATE = Option("state", "state", "folder for the embedded broker's database", path)

TRY_COMMAND = Option(
    "try-command",
    None,
    'command to show in the log line "ready; try:", for a front end that clients reach by another'
    " name or port than its own, as in a container",
    one_line,
)
LOG_FORMAT = Option(
    "log-format", "text", "format of log lines: text, or json (an object a line)", log_format
)
HEALTH_LISTEN = Option(
    "health-listen",
    None,
    "Twisted endpoint description of a plain HTTP port for /livez, /readyz and /metrics",
    server_endpoint,
)


def listen(default: str) -> Option:
    """Return the option for a command's port."""
    return Option(
        "listen", default, "Twisted endpoint description of the port to listen on", server_endpoint
    )


def stub_delay(name: str) -> Option:
    """Return the option for the stub's delay; commands name it differently."""
    return Option(
        name, "60", "seconds until the stub answers a well-formed request", seconds(0, 86400)
    )


ALL_NAMES = frozenset(
    {"listen", "delay", "stub-delay"}
    | {each.name for each in globals().copy().values() if isinstance(each, Option)}
)
"""The names of all options of all commands: their environment variables are known."""
