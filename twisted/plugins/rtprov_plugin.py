"""Tells twistd of rtprov's commands."""

import signal

from twisted.application.service import ServiceMaker


class Command(ServiceMaker):
    """One of rtprov's commands. From the moment that twistd asks for its options on, SIGHUP does
    not end the process.

    The handler that loads files again comes later, with the command's service; importing that takes
    a second."""

    @property
    def options(self) -> object:
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return super().options


rtprov = Command(
    "rtprov",
    "rtprov.tap.all_in_one",
    "Asynchronous provisioning: everything in one process",
    "rtprov",
)
stub = Command(
    "rtprov stub", "rtprov.tap.stub", "Asynchronous provisioning: service A, a stub", "rtprov-stub"
)
frontend = Command(
    "rtprov front end",
    "rtprov.tap.frontend",
    "Asynchronous provisioning: service B",
    "rtprov-frontend",
)
worker = Command(
    "rtprov worker", "rtprov.tap.worker", "Asynchronous provisioning: the worker", "rtprov-worker"
)
broker = Command(
    "rtprov broker",
    "rtprov.tap.broker",
    "Asynchronous provisioning: the embedded broker",
    "rtprov-broker",
)
