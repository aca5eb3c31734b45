"""A test case with a front end as a process, and requests on raw TLS connections."""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta, timezone
from pathlib import Path

import trustme

from rtprov.security.development import make_development_set
from tests.support.processes import ANY_PORT, ProcessTestCase, Twistd
from tests.support.raw_http import request
from tests.support.sockets import context

NO_BROKER = "amqp://guest:guest@127.0.0.1:1/"
ASK = request("GET", "/")


class FrontEndCase(ProcessTestCase):
    """A front end without a broker. A client that passes the checks gets an answer, if only that
    the path does not exist.
    """

    def setUp(self) -> None:
        super().setUp()
        self.certs = self.folder / "certs"
        make_development_set(self.certs)

    async def start(self, *arguments: str) -> int:
        """Start the front end; return its port."""
        self.frontend: Twistd = self.twistd(
            "rtprov-frontend", "--listen", ANY_PORT, "--broker", NO_BROKER, *arguments
        )
        return await self.frontend.port("service B (front end)")

    def tls(self, identity: str | None = None, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
        files = (
            (None, None)
            if identity is None
            else (self.folder / f"{identity}.pem", self.folder / f"{identity}.key")
        )
        return context(self.certs / "ca.pem", *files, alpn=alpn)

    def issue(
        self, name: str, ca: trustme.CA, host: str, *, ends_in: timedelta = timedelta(days=100)
    ) -> tuple[Path, Path]:
        """Issue a certificate and its key into the working folder."""
        now = datetime.now(timezone.utc)
        leaf = ca.issue_cert(
            host,
            common_name=f"{name} of ours",
            not_before=now - timedelta(days=365),
            not_after=now + ends_in,
        )
        files = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        files[0].write_bytes(leaf.cert_chain_pems[0].bytes())
        files[1].write_bytes(leaf.private_key_pem.bytes())
        return files
