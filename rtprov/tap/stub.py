"""``twistd rtprov-stub``: a stub of service A."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import attrs
from twisted.application.service import IService
from twisted.internet.interfaces import IReactorTime

from rtprov.equipment.scenario import Rule, load_scenario
from rtprov.equipment.stub import Stub
from rtprov.errors import ConfigurationError
from rtprov.readiness import always_ready
from rtprov.security.files import read_text
from rtprov.tap import options as opt
from rtprov.tap.command import Command
from rtprov.tap.identity import server_identity
from rtprov.tap.listening import health_if, https, traffic_of
from rtprov.tap.option_values import DescribedEndpoint
from rtprov.tap.process import clock
from rtprov.tap.reloading import Renewal
from rtprov.tap.service_manager import Condition


class Options(opt.CommandOptions):
    longdesc = "Runs a stub of service A, the synchronous provisioning service, on HTTPS."
    command = "rtprov-stub"
    options = (
        opt.listen("tcp:8444:interface=127.0.0.1"),
        opt.stub_delay("delay"),
        opt.HONOUR_TIMEOUT,
        opt.SCENARIO,
        opt.HEALTH_LISTEN,
        opt.LOG_FORMAT,
        opt.CERTS,
        opt.CERTIFICATE,
        opt.PRIVATE_KEY,
        opt.CLIENT_CA,
        opt.NO_GC_TUNING,
    )


@attrs.frozen
class Settings(opt.CommandSettings):
    """The values of `Options`; times are in seconds."""

    listen: DescribedEndpoint
    delay: float
    honour_timeout: bool
    scenario: Path | None
    health_listen: DescribedEndpoint | None
    log_format: str
    certs: Path
    certificate: Path | None
    private_key: Path | None
    client_ca: Path | None


def rules(file: Path | None) -> tuple[Rule, ...]:
    """Return the rules of the scenario `file`. Raises `ConfigurationError`."""
    if file is None:
        return ()
    text = read_text(file, "scenario")
    try:
        return load_scenario(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error}") from None


def make_stub(
    *, delay_s: float, honour_timeout: bool, scenario: Path | None, clock: IReactorTime
) -> Stub:
    """Return the stub with the rules of the `scenario` file. For the other arguments see `Stub`.

    Raises `ConfigurationError`.
    """
    return Stub(clock=clock, delay_s=delay_s, honour_timeout=honour_timeout, rules=rules(scenario))


def makeService(options: Options) -> IService:
    settings = Settings.from_options(options)
    stub = make_stub(
        delay_s=settings.delay,
        honour_timeout=settings.honour_timeout,
        scenario=settings.scenario,
        clock=clock,
    )
    identity = server_identity(
        "stub",
        certs=settings.certs,
        certificate=settings.certificate,
        private_key=settings.private_key,
        client_ca=settings.client_ca,
    )
    traffic = traffic_of(stub.app, clock)
    listening = https(
        "service A (stub)", settings.listen, stub.resource(), identity, clock, traffic
    )
    command = Command(options, Renewal(identity, clock=clock))
    command.metrics.add(traffic.metrics)
    health = health_if(settings.health_listen, always_ready(clock), clock, command.metrics)
    for each in (*health, listening):
        each.setServiceParent(command)
    command.condition = lambda: Condition(
        True, f"listening on {listening.address}" if command.running else "stopping"
    )
    return cast("IService", command)
