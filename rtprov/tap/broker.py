"""``twistd rtprov-broker``: the embedded broker alone."""

from __future__ import annotations

from typing import Any, cast

from twisted.application.service import IService

from rtprov.broker.server import make_broker
from rtprov.broker.storage import MemoryStorage
from rtprov.tap import options as opt
from rtprov.tap.services import Closing, InOrder, Listening, clock


class Options(opt.CommandOptions):
    longdesc = "Runs the embedded AMQP 0-9-1 broker alone. It keeps everything in memory: what it holds ends with it."
    command = "rtprov-broker"
    options = (opt.listen("tcp:5673:interface=127.0.0.1"), opt.STATE)


def broker_service(where: tuple[str, Any]) -> tuple[InOrder, Listening]:
    """A broker, and its port."""
    factory = make_broker(clock=clock, storage=MemoryStorage())
    service = InOrder()
    Closing(factory.stop).setServiceParent(service)
    listening = Listening("the AMQP broker", where[0], where[1], factory)
    listening.setServiceParent(service)
    return service, listening


def makeService(options: Options) -> IService:
    return cast("IService", broker_service(options["listen"])[0])
