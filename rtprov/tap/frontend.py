"""``twistd rtprov-frontend``: service B, the HTTPS front end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import attrs
from twisted.application.service import IService
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rtprov.amqp.client.url import BrokerUrl
from rtprov.errors import ConfigurationError
from rtprov.frontend.metrics import frontend_metrics
from rtprov.frontend.resource import Frontend
from rtprov.frontend.service import FrontendService
from rtprov.http.admission import Admission
from rtprov.messaging.connection_metrics import connection_metrics
from rtprov.network.address_networks import Network
from rtprov.readiness import Readiness
from rtprov.security.limits import Connections, Rate
from rtprov.security.tokens import Role, Token, TokensFile
from rtprov.tap import options as opt
from rtprov.tap.banner import all_connected, log_ready
from rtprov.tap.broker_file import BrokerRoute, ClientFiles, client_files
from rtprov.tap.command import Command
from rtprov.tap.identity import key_file, server_identity
from rtprov.tap.listening import front_end, health_if, traffic_of
from rtprov.tap.open_files import open_files, room_for
from rtprov.tap.option_values import DescribedEndpoint
from rtprov.tap.process import clock, environment, wall_clock
from rtprov.tap.reloading import Renewal
from rtprov.tap.service_manager import Condition
from rtprov.tap.sharded import Sharded

_log = Logger()
OPEN_ACCESS_REFUSAL = (
    "any client would be accepted; set --client-ca or --tokens, or --open if that is intended"
)


def check_proxies(options: opt.CommandOptions) -> None:
    """Raise `ConfigurationError` if ``--proxy-protocol`` cannot work with the value of
    ``--listen``.
    """
    if not options["proxy-protocol"] or options["listen"] is None:
        return
    description = options["listen"][0]
    source = options.sources["proxy-protocol"]
    if description.startswith("haproxy:"):
        raise ConfigurationError(
            f"{source} cannot be used with {description}, which expects a PROXY header from every"
            " peer: give one of them"
        )
    if description.startswith("unix:") or "domain=UNIX" in description:
        raise ConfigurationError(
            f"{source} cannot be used with {description}: the peers of a Unix socket have no"
            f" address; listen on haproxy:{description} if all of them are proxies"
        )


class Options(opt.CommandOptions):
    longdesc = (
        "Runs service B, the front end: accepts tasks over HTTPS, publishes them to the AMQP"
        " broker, and answers requests for their status."
    )
    command = "rtprov-frontend"
    options = (
        opt.listen("tcp:8443:interface=127.0.0.1"),
        opt.HEALTH_LISTEN,
        opt.LOG_FORMAT,
        opt.BROKER,
        opt.BROKER_FILE,
        opt.SHARDS,
        opt.RUNNING_STATUS,
        opt.CERTS,
        opt.CERTIFICATE,
        opt.PRIVATE_KEY,
        opt.CLIENT_CA,
        opt.TOKENS,
        opt.ROLE_OF,
        opt.OPEN,
        opt.RATE,
        opt.PROXY_PROTOCOL,
        opt.MAX_CONNECTIONS,
        opt.MAX_PER_ADDRESS,
        opt.REQUEST_TIMEOUT,
        opt.STOP_DELAY,
        opt.MAX_UNCONFIRMED,
        opt.CA,
        opt.AMQP_CERTIFICATE,
        opt.AMQP_PRIVATE_KEY,
        opt.SEAL_KEYS,
        opt.TRY_COMMAND,
        opt.NO_GC_TUNING,
    )

    def check(self) -> None:
        self.exclude("broker", "broker-file")
        check_proxies(self)


@attrs.frozen
class Settings(opt.CommandSettings):
    """The values of `Options`; times are in seconds."""

    listen: DescribedEndpoint
    health_listen: DescribedEndpoint | None
    log_format: str
    broker: BrokerUrl
    broker_file: Path | None
    shards: int | None
    running_status: int
    certs: Path
    certificate: Path | None
    private_key: Path | None
    client_ca: Path | None
    tokens: Path | None
    role_of: Sequence[tuple[str, Role]]
    open: bool
    rate: float | None
    proxy_protocol: Sequence[Network]
    max_connections: int
    max_connections_per_address: int
    request_timeout: float
    stop_delay: float
    max_unconfirmed: int
    ca: Path | None
    amqp_certificate: Path | None
    amqp_private_key: Path | None
    seal_keys: Path | None
    try_command: str | None

    @property
    def amqp_client(self) -> ClientFiles | None:
        """The files of the client certificate for the broker. Raises `ConfigurationError`."""
        return client_files(self.amqp_certificate, self.amqp_private_key)


def roles_by_name(role_of: Sequence[tuple[str, Role]]) -> dict[str, Role]:
    """Return the values of ``--role-of`` by name.

    Raises `ConfigurationError` if a name has several.
    """
    roles: dict[str, Role] = {}
    for name, role in role_of:
        if name in roles:
            raise ConfigurationError(
                f"--role-of: the name {name} is given twice: give it one role only"
            )
        roles[name] = role
    return roles


def make_admission(
    *,
    client_ca: Path | None,
    tokens: Path | None,
    role_of: Sequence[tuple[str, Role]],
    rate: float | None,
    clock: IReactorTime,
) -> tuple[Admission, list[Renewal]]:
    """Return the front end's access control, and the services that watch the tokens file.

    `tokens` is that file, `role_of` the roles of clients by the common names of their certificates,
    `rate` the number of requests per second accepted from one client, or None for no limit.

    Raises `ConfigurationError` if the tokens file cannot be used, or a name has several roles.
    """
    admission = Admission(
        now=clock.seconds,
        wall_clock=wall_clock,
        certificates=client_ca is not None,
        roles=roles_by_name(role_of),
        rate=None if rate is None else Rate(rate),
    )
    if role_of and (client_ca is None or tokens is not None):
        _log.warn(
            "--role-of has no effect: it applies only to clients that are identified by"
            " certificate, with --client-ca and without --tokens"
        )

    def take(accepted: tuple[Token, ...]) -> None:
        admission.tokens = accepted

    return admission, (
        [] if tokens is None else [Renewal(TokensFile(tokens, take), clock=clock, what="tokens")]
    )


def public_bind_refusal(
    *, any_client: bool, client_ca: Path | None, tokens: Path | None
) -> str | None:
    """Return why the front end must not listen on an address that other machines can reach; None
    if it may. `any_client` is the value of --open.
    """
    if any_client or client_ca or tokens:
        return None
    return OPEN_ACCESS_REFUSAL


def room_for_connections(wanted: int) -> int:
    """Return how many client connections may be open at the same time: `wanted`, or what the limit
    of open files allows.
    """
    most = room_for(wanted)
    if most < wanted:
        _log.warn(
            "accepting at most {most} connections at the same time, not the {wanted} of"
            " --max-connections: only {files} open files are allowed (ulimit -n)",
            most=most,
            wanted=wanted,
            files=open_files(),
        )
    return most


class _FrontendCommand(Command):
    def __init__(self, options: Options, settings: Settings) -> None:
        super().__init__(options)
        self.condition = self._condition
        self._settings = settings
        self._route = route = BrokerRoute(
            settings.broker,
            settings.broker_file,
            certs=settings.certs,
            ca=settings.ca,
            clock=clock,
            client=settings.amqp_client,
        )
        identity = server_identity(
            "frontend",
            certs=settings.certs,
            certificate=settings.certificate,
            private_key=settings.private_key,
            client_ca=settings.client_ca,
        )
        admission, watching = make_admission(
            client_ca=settings.client_ca,
            tokens=settings.tokens,
            role_of=settings.role_of,
            rate=settings.rate,
            clock=clock,
        )
        keys = key_file(settings.certs, settings.seal_keys)
        spans = self.trace()

        def make(shards: int) -> FrontendService:
            service = FrontendService(
                environment(route.endpoint, route.url),
                sealer=keys.sealer,
                key_source=keys,
                shards=shards,
                shards_given=settings.shards is not None,
                running_status=settings.running_status,
                max_unconfirmed=settings.max_unconfirmed,
                spans=spans,
            )
            service.connection.on_contradiction = self.fail
            return service

        self._front = front = Sharded(make, settings.shards, clock)
        front.on_made = self._on_made
        traffic = traffic_of(Frontend.app, clock)
        for source in (
            lambda: frontend_metrics(front.role),
            lambda: connection_metrics([front.role]),
            traffic.metrics,
        ):
            self.metrics.add(source)
        for each in (
            front,
            *route.follow(lambda: front.role.connection),
            *health_if(settings.health_listen, self._readiness(), clock, self.metrics),
            *watching,
        ):
            each.setServiceParent(self)
        for renewal in (
            Renewal(identity, clock=clock),
            Renewal(keys, clock=clock, what="sealing keys"),
        ):
            renewal.setServiceParent(self)
        self._listening = front_end(
            settings.listen,
            front.role,
            identity,
            clock=clock,
            traffic=traffic,
            admission=admission,
            connections=Connections(
                total=room_for_connections(settings.max_connections),
                per_address=settings.max_connections_per_address,
            ),
            timeout_s=settings.request_timeout,
            proxies=settings.proxy_protocol,
            public_bind_refusal=public_bind_refusal(
                any_client=settings.open, client_ca=settings.client_ca, tokens=settings.tokens
            ),
            stop_delay_s=settings.stop_delay,
        )
        self._listening.setServiceParent(self)

    def _condition(self) -> Condition:
        if not self.running:
            return Condition(True, f"stopping; requests under way: {self._listening.under_way}")
        connected = self._front.role.connection.connected
        return Condition(
            connected, f"{'connected' if connected else 'connecting'} to {self._route.url}"
        )

    def _readiness(self) -> Readiness:
        async def probe() -> None:
            await self._front.role.readiness.check()

        return Readiness(probe, clock)

    def _on_made(self, service: FrontendService) -> None:
        self._listening.serve(service)
        self._show_first_steps(service)

    def startService(self) -> None:
        super().startService()
        # After a restart with socket activation, clients are waiting already.
        self._listening.open_when(all_connected([self._front.role.connection]))
        self._show_first_steps(self._front.role)

    def _show_first_steps(self, service: FrontendService) -> None:
        settings = self._settings
        log_ready(
            [service.connection],
            self._listening,
            certs=settings.certs,
            client_ca=settings.client_ca,
            tokens=settings.tokens,
            command=settings.try_command,
        )


def makeService(options: Options) -> IService:
    return cast("IService", _FrontendCommand(options, Settings.from_options(options)))
