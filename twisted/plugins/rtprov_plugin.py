"""The twistd plugins of rtprov's five commands."""

import signal

from twisted.application.service import ServiceMaker


class Command(ServiceMaker):
    """One of rtprov's commands. SIGHUP is ignored from the moment that twistd reads its options.

    The handler that reloads files is installed later, by the command's service; importing that
    takes about a second, in which a SIGHUP would end the process.
    """

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
    "rtprov stub",
    "rtprov.tap.stub",
    "Asynchronous provisioning: a stub of service A",
    "rtprov-stub",
)
frontend = Command(
    "rtprov front end",
    "rtprov.tap.frontend",
    "Asynchronous provisioning: service B, the front end",
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
