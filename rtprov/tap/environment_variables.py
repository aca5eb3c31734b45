"""Environment variables that set options, and ``RTPROV_`` variables that set none.

``--listen`` of ``rtprov-frontend`` is read from ``RTPROV_FRONTEND_LISTEN``, else from
``RTPROV_LISTEN``. An empty variable counts as not given. In a namespace with a service called
``rtprov``, Kubernetes sets ``RTPROV_PORT=tcp://…`` and others in each container; those are ignored
(https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches

import attrs

PREFIX = "RTPROV_"
# The options of the commands for one role. They are listed here, so that a command does not import
# all others to know their variables.
_NAMES = {
    "FRONTEND": (
        "amqp-certificate amqp-private-key broker broker-file ca certificate certs client-ca"
        " health-listen listen log-format max-connections max-connections-per-address"
        " max-unconfirmed no-gc-tuning open private-key proxy-protocol rate request-timeout role-of"
        " running-status seal-keys shards stop-delay tokens try-command"
    ),
    "WORKER": (
        "amqp-certificate amqp-private-key batch-events broker broker-file ca certificate certs"
        " concurrency drain equipment-url health-listen history history-days log-format"
        " max-calls-per-second no-gc-tuning patience private-key retention seal-keys shard shards"
    ),
    "STUB": (
        "certificate certs client-ca delay health-listen honour-timeout listen log-format"
        " no-gc-tuning private-key scenario"
    ),
    "BROKER": (
        "certificate certs health-listen listen log-format no-gc-tuning password private-key state"
        " tls user"
    ),
}
OPTIONS_OF = {role: names.split() for role, names in _NAMES.items()}
ROLES = tuple(OPTIONS_OF)
# Variables that are not read by a command's options, but by the command line rtprov and by tests.
_OF_CLIENTS = ("API_URL", "API_CA", "API_TOKEN_FILE", "API_CERT", "API_KEY", "API_PROFILE")
_OF_TESTS = (
    "REQUIRE_RABBITMQ",
    "REQUIRE_PROXIES",
    "REQUIRE_DEPLOY",
    "RABBITMQ",
    "CI_CACHE",
    "FULL",
    "QUICK",
)
ELSEWHERE = frozenset(PREFIX + name for name in (*_OF_CLIENTS, *_OF_TESTS))

_PORT = r"PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?"
_INJECTED = re.compile(
    rf"RTPROV_(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|{_PORT})"
)
_ADDRESS = re.compile(r"(?:tcp|udp|sctp)://", re.IGNORECASE)


def injected(name: str, value: str) -> bool:
    """Return whether Kubernetes sets this variable for a service whose name begins with
    ``rtprov``.
    """
    return _INJECTED.fullmatch(name) is not None or (
        name.endswith("_PORT") and _ADDRESS.match(value) is not None
    )


def variable(option: str, command: str = "rtprov") -> str:
    """Return the name of the variable that sets an option for all commands or, with a `command`
    such as ``rtprov-frontend``, for that command only.
    """
    role = command.removeprefix("rtprov").removeprefix("-")
    return PREFIX + "_".join(part.upper().replace("-", "_") for part in (role, option) if part)


def lookup(option: str, command: str, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the variable that sets an option of `command`, and its value; None if none is set."""
    for name in (variable(option, command), variable(option)):
        value = environment.get(name, "")
        if value and not injected(name, value):
            return name, value
    return None


@attrs.frozen
class Survey:
    """The ``RTPROV_`` variables that have no effect.

    `injected` are set by Kubernetes. `unknown` holds each unknown name with the nearest known one.
    """

    injected: tuple[str, ...]
    unknown: tuple[tuple[str, str], ...]


def survey(
    environment: Mapping[str, str],
    command: str,
    options: Iterable[str],
    all_options: Collection[str],
) -> Survey:
    """Find the variables in `environment` that have no effect on `command`.

    `options` are the names of the command's own options, `all_options` those of all commands.
    Variables of another command, such as ``RTPROV_WORKER_CONCURRENCY``, count as known.
    """
    own_role = variable("", command)
    known = {
        *ELSEWHERE,
        *map(variable, all_options),
        *(variable(option, command) for option in options),
    }
    others = {
        PREFIX + role: {variable(option, role.lower()) for option in options}
        for role, options in OPTIONS_OF.items()
        if PREFIX + role != own_role
    }
    elsewhere = set().union(*others.values())
    set_by_kubernetes: list[str] = []
    unknown: list[tuple[str, str]] = []
    for name, value in sorted(environment.items()):
        if not name.startswith(PREFIX) or not value:
            continue
        if injected(name, value):
            set_by_kubernetes.append(name)
        elif name not in known and name not in elsewhere:
            meant = [of for role, of in others.items() if name.startswith(f"{role}_")]
            unknown.append((name, _nearest(name, known.union(*meant))))
    return Survey(tuple(set_by_kubernetes), tuple(unknown))


def _nearest(name: str, known: Collection[str]) -> str:
    words = [each.removeprefix(PREFIX) for each in sorted(known)]
    return PREFIX + get_close_matches(name.removeprefix(PREFIX), words, n=1, cutoff=0.0)[0]
