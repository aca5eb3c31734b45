"""``twistd rtprov-frontend``: service B."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

from twisted.application.service import IService
from twisted.internet import reactor

from rtprov.access import Admission
from rtprov.amqp.url import BrokerUrl, client_endpoint
from rtprov.limits import Connections, Rate
from rtprov.tap import options as opt
from rtprov.tap.assembly import FrontendService
from rtprov.tap.files import OWN, room_for
from rtprov.tap.listening import front_end, log
from rtprov.tap.renewal import Renewal
from rtprov.tap.services import Command, ca_file, first_steps, sealer, server_identity, surroundings
from rtprov.tap.timing import clock
from rtprov.tls import read_file
from rtprov.tokens import load_tokens

OBJECTION = "anybody could come in; --client-ca or --tokens says who may, --open that anybody is meant"


class Options(opt.CommandOptions):
    longdesc = "Runs service B, the front end: takes tasks over HTTPS, stores them through the AMQP broker, and tells their status."
    command = "rtprov-frontend"
    options = (
        opt.listen("tcp:8443:interface=127.0.0.1"),
        opt.BROKER,
        opt.SHARDS,
        opt.RUNNING_STATUS,
        opt.CERTS,
        opt.CERTIFICATE,
        opt.PRIVATE_KEY,
        opt.CLIENT_CA,
        opt.TOKENS,
        opt.OPEN,
        opt.RATE,
        opt.MAX_CONNECTIONS,
        opt.MAX_PER_ADDRESS,
        opt.REQUEST_TIMEOUT,
        opt.MAX_UNCONFIRMED,
        opt.CA,
        opt.SEAL_KEYS,
    )


def make_admission(options: dict[str, Any]) -> Admission:
    """Whom the front end lets in, as the options describe it. Raises `ConfigurationError`."""
    admission = Admission(now=clock.seconds, rate=None if options["rate"] is None else Rate(options["rate"]))
    _load_tokens(admission, options["tokens"])
    return admission


def _load_tokens(admission: Admission, file: Path | None) -> None:
    admission.tokens = None if file is None else load_tokens(file)


class _FrontendCommand(Command):
    def __init__(self, options: Options) -> None:
        super().__init__()
        url: BrokerUrl = options["broker"]
        endpoint = client_endpoint(reactor, url, read_file(ca_file(options), "CA") if url.tls else None)
        identity, admission = server_identity(options, "frontend"), make_admission(options)  # before a sealing key is made
        self._service = service = FrontendService(
            surroundings(endpoint, url),
            sealer=sealer(options),
            shards=options["shards"],
            running_status=options["running-status"],
            max_unconfirmed=options["max-unconfirmed"],
        )
        service.setServiceParent(self)
        load_tokens_again = None if options["tokens"] is None else partial(_load_tokens, admission, options["tokens"])
        Renewal(identity, clock=clock, load_others=load_tokens_again).setServiceParent(self)
        most = room_for(options["max-connections"])
        if most < options["max-connections"]:
            log.warn(
                "{most} connections at once are taken, no more: {files} open files are allowed (ulimit -n)", most=most, files=most + OWN
            )
        self._listening = front_end(
            options["listen"],
            service,
            identity,
            admission=admission,
            connections=Connections(total=most, per_address=options["max-connections-per-address"]),
            timeout_s=options["request-timeout"],
            objection=None if options["open"] or options["client-ca"] or options["tokens"] else OBJECTION,
        )
        self._listening.setServiceParent(self)
        self._options = options

    def startService(self) -> None:
        super().startService()
        first_steps([self._service.connection], self._listening, self._options)


def makeService(options: Options) -> IService:
    return cast("IService", _FrontendCommand(options))
