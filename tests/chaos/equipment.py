"""A service A for the chaos tests, with TLS, in the test's process. It records all calls, can be
stopped, and can use an expired certificate.

    a = RecordingA(folder)
    a.start()
    a.calls["<task id>"][0].ended

`Call` describes what it records.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any, cast

import trustme
from attrs import define
from klein import Klein
from twisted.internet import reactor as _reactor
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.protocols.policies import WrappingFactory
from twisted.web.server import Site

from rtprov.security.certificates import server_options
from rtprov.security.development import CLIENTS, FILES, SERVER_NAMES, SERVERS

reactor = cast("Any", _reactor)


def make_certificates(folder: Path) -> None:
    """Make a set of certificates as `rtprov.certs` does, and ``expired.pem`` and ``.key`` for A,
    which expired yesterday.
    """
    folder.mkdir()
    ca = trustme.CA()
    yesterday = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    leaves = {name: ca.issue_cert(*SERVER_NAMES) for name in SERVERS} | {
        name: ca.issue_cert(f"rtprov-{name}") for name in CLIENTS
    }
    leaves["expired"] = ca.issue_cert(*SERVER_NAMES, not_after=yesterday)
    for name, leaf in leaves.items():
        (folder / f"{name}.pem").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        (folder / f"{name}.key").write_bytes(leaf.private_key_pem.bytes())
    (folder / "ca.pem").write_bytes(ca.cert_pem.bytes())
    assert all((folder / name).exists() for name in FILES)


@define(eq=False)
class Call:
    """One call to A. `ended` is None while it is under way. `answered` says whether A answered it.

    `caller` is the process that made it, as named in the process's URL of A.
    """

    began: float
    ended: float | None = None
    answered: bool = False
    caller: str = ""


class RecordingA:
    """A's server. `calls` has the calls of each task in order, by ``Idempotency-Key``.
    `most_under_way` is the largest number of simultaneous calls.
    """

    app = Klein()

    def __init__(self, certificates: Path, *, delay_s: float) -> None:
        self._certificates = certificates
        self._delay_s = delay_s
        self._port: IListeningPort | None = None
        self._number = 0
        self.under_way = 0
        self.most_under_way = 0
        self.calls: dict[str, list[Call]] = {}

    @property
    def url(self) -> str:
        return f"https://localhost:{self._number}"

    def url_for(self, caller: str) -> str:
        """Return a URL by which A recognises the calls of this caller."""
        return f"{self.url}/{caller}"

    def start(self, identity: str = "stub") -> None:
        """Listen, on the same port as before, with the certificate of this name."""
        options = server_options(
            self._certificates / f"{identity}.pem", self._certificates / f"{identity}.key"
        )
        self._connections = WrappingFactory(Site(self.app.resource()))
        self._port = reactor.listenSSL(
            self._number, self._connections, options, interface="127.0.0.1"
        )
        self._number = cast("Any", self._port).getHost().port

    async def stop(self) -> None:
        """Stop as a killed process does: all connections are cut."""
        port, self._port = self._port, None
        if port is not None:
            await cast("Any", port.stopListening())
            for connection in list(self._connections.protocols):
                connection.transport.abortConnection()

    @app.route("/api/v1/equipment/cpe/<equipment_id>", methods=["POST"])
    @app.route("/<caller>/api/v1/equipment/cpe/<equipment_id>", methods=["POST"])
    async def _configure(self, request: Any, equipment_id: str, caller: str = "") -> bytes:
        (task_id,) = request.requestHeaders.getRawHeaders("idempotency-key")
        call = Call(reactor.seconds(), caller=caller)
        self.calls.setdefault(task_id, []).append(call)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await deferLater(reactor, self._delay_s)
            call.answered = True
        finally:  # also if the caller has hung up
            self.under_way -= 1
            call.ended = reactor.seconds()
        request.setHeader(b"Content-Type", b"application/json")
        return b'{"code": 200, "message": "success"}'
