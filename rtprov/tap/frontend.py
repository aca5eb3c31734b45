"""``twistd rtprov-frontend``: service B, the HTTPS front end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from twisted.application.service import IService
from twisted.logger import Logger

from rtprov.frontend.service import FrontendService
from rtprov.http.admission import Admission
from rtprov.http.health import Readiness
from rtprov.security.limits import Connections, Rate
from rtprov.security.tokens import Token, TokensFile
from rtprov.tap import options as opt
from rtprov.tap.banner import first_steps
from rtprov.tap.broker_file import BrokerRoute
from rtprov.tap.command import Command
from rtprov.tap.identity import key_file, server_identity
from rtprov.tap.listening import front_end, health_if
from rtprov.tap.open_files import open_files, room_for
from rtprov.tap.process import clock, environment, wall_clock
from rtprov.tap.reloading import Renewal
from rtprov.tap.sharded import Sharded

_log = Logger()
OPEN_ACCESS_REFUSAL = (
    "any client would be accepted; set --client-ca or --tokens, or --open if that is intended"
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
        opt.MAX_CONNECTIONS,
        opt.MAX_PER_ADDRESS,
        opt.REQUEST_TIMEOUT,
        opt.MAX_UNCONFIRMED,
        opt.CA,
        opt.SEAL_KEYS,
    )

    def check(self) -> None:
        self.exclude("broker", "broker-file")


def make_admission(options: Mapping[str, Any]) -> tuple[Admission, list[Renewal]]:
    """Return the front end's access control, and the services that watch the tokens file.

    Raises `ConfigurationError` if the tokens file cannot be used.
    """
    admission = Admission(
        now=clock.seconds,
        wall_clock=wall_clock,
        certificates=options["client-ca"] is not None,
        roles=dict(options["role-of"]),
        rate=None if options.get("rate") is None else Rate(options["rate"]),
    )
    if options["role-of"] and (options["client-ca"] is None or options["tokens"] is not None):
        _log.warn(
            "--role-of has no effect: it applies only to clients that are identified by"
            " certificate, with --client-ca and without --tokens"
        )

    def take(tokens: tuple[Token, ...]) -> None:
        admission.tokens = tokens

    file = options["tokens"]
    return admission, (
        [] if file is None else [Renewal(TokensFile(file, take), clock=clock, what="tokens")]
    )


def public_bind_refusal(options: Mapping[str, Any]) -> str | None:
    """Return why the front end must not listen on an address that other machines can reach; None
    if it may.
    """
    if options["open"] or options["client-ca"] or options["tokens"]:
        return None
    return OPEN_ACCESS_REFUSAL


class _FrontendCommand(Command):
    def __init__(self, options: Options) -> None:
        super().__init__(options)
        route = BrokerRoute(options)
        identity, (admission, watching), keys = (
            server_identity(options, "frontend"),
            make_admission(options),
            key_file(options),
        )

        def make(shards: int) -> FrontendService:
            service = FrontendService(
                environment(route.endpoint, route.url),
                sealer=keys.sealer,
                key_source=keys,
                shards=shards,
                shards_given=options["shards"] is not None,
                running_status=options["running-status"],
                max_unconfirmed=options["max-unconfirmed"],
            )
            service.connection.on_contradiction = self.fail
            return service

        self._front = front = Sharded(make, options["shards"], clock)
        front.on_made = self._on_made
        for each in (
            front,
            *route.follow(lambda: front.role.connection),
            *health_if(options, self._readiness()),
            *watching,
        ):
            each.setServiceParent(self)
        for renewal in (
            Renewal(identity, clock=clock),
            Renewal(keys, clock=clock, what="sealing keys"),
        ):
            renewal.setServiceParent(self)
        most = room_for(options["max-connections"])
        if most < options["max-connections"]:
            _log.warn(
                "accepting at most {most} connections at the same time, not the {wanted} of"
                " --max-connections: only {files} open files are allowed (ulimit -n)",
                most=most,
                wanted=options["max-connections"],
                files=open_files(),
            )
        self._listening = front_end(
            options["listen"],
            front.role,
            identity,
            admission=admission,
            connections=Connections(total=most, per_address=options["max-connections-per-address"]),
            timeout_s=options["request-timeout"],
            public_bind_refusal=public_bind_refusal(options),
        )
        self._listening.setServiceParent(self)
        self._options = options

    def _readiness(self) -> Readiness:
        async def probe() -> None:
            await self._front.role.readiness.check()

        return Readiness(probe, clock)

    def _on_made(self, service: FrontendService) -> None:
        self._listening.serve(service.frontend.resource(), service.ends.stop)
        first_steps([service.connection], self._listening, self._options)

    def startService(self) -> None:
        super().startService()
        first_steps([self._front.role.connection], self._listening, self._options)


def makeService(options: Options) -> IService:
    return cast("IService", _FrontendCommand(options))
