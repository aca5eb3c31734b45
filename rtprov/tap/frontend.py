"""``twistd rtprov-frontend``: service B."""

from __future__ import annotations

from typing import cast

from twisted.application.service import IService
from twisted.internet import reactor

from rtprov.amqp.url import BrokerUrl, client_endpoint
from rtprov.tap import options as opt
from rtprov.tap.assembly import FrontendService
from rtprov.tap.listening import front_end
from rtprov.tap.services import Command, ca_file, certificate_options, first_steps, sealer, surroundings
from rtprov.tls import read_file


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
        opt.CA,
        opt.SEAL_KEYS,
    )


class _FrontendCommand(Command):
    def __init__(self, options: Options) -> None:
        super().__init__()
        url: BrokerUrl = options["broker"]
        endpoint = client_endpoint(reactor, url, read_file(ca_file(options), "CA") if url.tls else None)
        self._service = service = FrontendService(
            surroundings(endpoint, url), sealer=sealer(options), shards=options["shards"], running_status=options["running-status"]
        )
        service.setServiceParent(self)
        certificate = certificate_options(options, "frontend")
        self._listening = front_end(options["listen"], service, certificate)
        self._listening.setServiceParent(self)
        self._options = options

    def startService(self) -> None:
        super().startService()
        first_steps([self._service.connection], self._listening, self._options)


def makeService(options: Options) -> IService:
    return cast("IService", _FrontendCommand(options))
