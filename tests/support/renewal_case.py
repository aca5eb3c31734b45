"""A test case that replaces certificate files while a command runs."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import cast

import trustme
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher

from rtprov.security.development import make_development_set
from rtprov.security.tls_server import ServerIdentity
from rtprov.tap.reloading import LOOK_EVERY_S, Renewal
from tests.support.command_files import FilesTestCase


class RenewalTestCase(FilesTestCase):
    """A set of certificates in `certs`, a clock, and `lines` of the log."""

    def setUp(self) -> None:
        super().setUp()
        make_development_set(self.certs)
        self.clock = Clock()
        self.lines: list[str] = []
        observer = cast("ILogObserver", self._observe)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.certificate, self.key = self.certs / "stub.pem", self.certs / "stub.key"
        self.ca = trustme.CA()

    def _observe(self, event: LogEvent) -> None:
        if event["log_namespace"] == "rtprov.tap.reloading":
            self.lines.append(formatEvent(event))

    def issue(self, *, days: float = 100) -> None:
        """Replace the stub's certificate and key."""
        leaf = self.ca.issue_cert(
            "localhost", not_after=datetime.now(timezone.utc) + timedelta(days=days)
        )
        self.key.write_bytes(leaf.private_key_pem.bytes())
        self.certificate.write_bytes(leaf.cert_chain_pems[0].bytes())

    def start(self) -> Renewal:
        identity = ServerIdentity(self.certificate, self.key)
        self.renewal = Renewal(identity, clock=cast("IReactorTime", self.clock))
        self.renewal.startService()
        self.addCleanup(self.renewal.stopService)
        return self.renewal

    def look(self) -> list[str]:
        """Let the next check of the files happen; return what it logged."""
        self.lines.clear()
        self.clock.advance(LOOK_EVERY_S)
        return list(self.lines)
