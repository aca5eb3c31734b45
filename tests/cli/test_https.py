"""The command line's HTTPS client, on sockets and TLS in memory."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, cast

from attrs import frozen
from OpenSSL import SSL
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseFailed

from rtprov.cli.answer import Answer
from rtprov.cli.api import Api
from rtprov.cli.failures import OutOfReach, Status, VerbFailed
from rtprov.cli.https import client_for, reason
from rtprov.cli.profile import Profile
from tests.support.certificates import Authority

CA = Authority().pem


class Connecting(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        cast("Any", self.reactor).callFromThread = None
        self.ca = Path(self.mktemp())
        self.ca.write_bytes(CA)

    def order(self, url: str) -> Deferred[Answer]:
        clock = cast("Any", self.reactor)
        http, explain = client_for(Profile(url, self.ca), clock, lambda: 0.0)
        api = Api(http, url, clock, lambda: 0.0, explain=explain)
        return Deferred.fromCoroutine(api.ask("POST", "/api/v1/x", body=b"{}"))

    def error_of(self, asked: Deferred[Answer]) -> str:
        """Return why the request was not sent."""
        error = self.failureResultOf(asked, OutOfReach).value
        assert isinstance(error, OutOfReach)
        self.assertFalse(error.sent)
        return str(error)

    def test_no_handshake(self) -> None:
        """A server that accepts TCP, and never does TLS, was sent nothing."""
        asked = self.order("https://127.0.0.1:8443")
        (_, _, factory, _, _) = self.reactor.tcpClients[0]
        protocol, transport = cast("Any", factory.buildProtocol(None)), StringTransport()
        protocol.makeConnection(transport)
        self.reactor.advance(9.9)
        self.assertNoResult(asked)
        self.reactor.advance(0.2)
        self.assertEqual(
            self.error_of(asked),
            "https://127.0.0.1:8443: TLS: 127.0.0.1:8443 accepted the connection and did not finish"
            " the handshake within 10 s",
        )
        self.assertTrue(transport.disconnecting)

    def test_no_tcp(self) -> None:
        """A server that TCP cannot reach, at an IPv6 address, was sent nothing."""
        asked = self.order("https://[::1]:8443")
        (host, port, factory, _, _) = self.reactor.tcpClients[0]
        self.assertEqual((host, port), ("::1", 8443))
        cast("Any", factory).clientConnectionFailed(
            None, Failure(ConnectionRefusedError(osError=errno.ECONNREFUSED))
        )
        self.assertEqual(
            self.error_of(asked),
            "https://[::1]:8443: could not connect to [::1]:8443: Connection refused",
        )


@frozen
class Refusing:
    """An HTTP client whose server ends TLS with an alert."""

    alert: str

    def request(self, *args: object, **kwargs: object) -> Deferred[None]:
        error = SSL.Error([("SSL routines", "", self.alert)])
        return fail(ResponseFailed([Failure(error)]))


class ClientCertificate(SynchronousTestCase):
    def status(self, alert: str) -> Status:
        """Return the status of an order whose connection ends with an alert."""
        clock, http = cast("Any", Clock()), cast("Any", Refusing(alert))
        api = Api(http, "https://b", clock, lambda: 0.0, explain=reason)
        asked = Deferred.fromCoroutine(api.ask("POST", "/api/v1/x", body=b"{}"))
        error = self.failureResultOf(asked, VerbFailed).value
        assert isinstance(error, VerbFailed)
        self.assertEqual(str(error), f"https://b: TLS: {alert}")
        return error.status

    def test_refused(self) -> None:
        """A client certificate that is missing or refused is a matter of credentials."""
        for alert in (
            "tlsv13 alert certificate required",
            "tlsv1 alert unknown ca",
            "sslv3 alert bad certificate",
            "ssl/tls alert certificate expired",
        ):
            self.assertEqual(self.status(alert), Status.NOT_ALLOWED)
        self.assertEqual(self.status("tlsv1 alert internal error"), Status.OUT_OF_REACH)
