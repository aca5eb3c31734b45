"""``twistd rtprov-stub``: a stub of service A."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from twisted.application.service import IService

from rtprov.equipment.scenario import Rule, load_scenario
from rtprov.equipment.stub import Stub
from rtprov.errors import ConfigurationError
from rtprov.http.health import always_ready
from rtprov.security.files import read_text
from rtprov.tap import options as opt
from rtprov.tap.command import Command
from rtprov.tap.identity import server_identity
from rtprov.tap.listening import health_if, https
from rtprov.tap.process import clock
from rtprov.tap.reloading import Renewal


class Options(opt.CommandOptions):
    longdesc = "Runs a stub of service A, the synchronous provisioning service, on HTTPS."
    command = "rtprov-stub"
    options = (
        opt.listen("tcp:8444:interface=127.0.0.1"),
        opt.stub_delay("delay"),
        opt.HONOUR_TIMEOUT,
        opt.SCENARIO,
        opt.HEALTH_LISTEN,
        opt.CERTS,
        opt.CERTIFICATE,
        opt.PRIVATE_KEY,
        opt.CLIENT_CA,
    )


def rules(file: Path | None) -> tuple[Rule, ...]:
    """Return the rules of the scenario `file`. Raises `ConfigurationError`."""
    if file is None:
        return ()
    text = read_text(file, "scenario")
    try:
        return load_scenario(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error}") from None


def make_stub(options: dict[str, Any], delay: str) -> Stub:
    """Return the stub that the options describe. `delay` is the name of its delay option."""
    return Stub(
        clock=clock,
        delay_s=options[delay],
        honour_timeout=options["honour-timeout"],
        rules=rules(options["scenario"]),
    )


def makeService(options: Options) -> IService:
    stub = make_stub(options, "delay")
    identity = server_identity(options, "stub")
    listening = https("service A (stub)", options["listen"], stub.resource(), identity)
    return cast(
        "IService",
        Command(
            options,
            Renewal(identity, clock=clock),
            *health_if(options, always_ready(clock)),
            listening,
        ),
    )
