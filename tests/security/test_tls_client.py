"""Which servers are accepted: a table of certificates, tried with real handshakes for A and for the
broker.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from random import Random
from time import time
from typing import Any, cast

from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.client.service import BrokerConnection
from rtprov.amqp.client.url import BrokerUrl
from rtprov.equipment.client import HttpEquipment, equipment_agent
from rtprov.errors import EquipmentUnreachable
from rtprov.model import State, Task
from rtprov.network.connecting import ServerEndpoint
from rtprov.security.tls_client import VerifiedServer, VerifiedServers
from tests.support.certificates import CLIENT, DAY, SERVER, Authority, Identity, dns, ip
from tests.support.memory import MemoryNetwork

HOST = "a.example"
BODY = b'{"timeoutInSeconds": 14, "parameters": [{"password": "s3cr3t"}]}'
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"code": 200}'

OURS = Authority()
THEIRS = Authority("another authority")
BETWEEN = Authority("an intermediate authority", OURS)
NO_HOST = "the certificate is for no host at all, and not for "
NO_CA = "no trusted CA (--ca) has signed the certificate, or an intermediate certificate is missing"

UPN = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x09a.example")
DAMAGED_SRV = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7"), b"\x0c\x01_")
ONLY_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def signed_by_a_server() -> Identity:
    """Return a certificate that was signed by a server's certificate, which is not an authority."""
    server = OURS.issue(dns(HOST), common_names=["no authority"])
    signer = Authority("no authority")
    signer.key = server.key
    return signer.issue(dns(HOST), chain=[server.certificate])


def names_from(der: bytes) -> x509.UnrecognizedExtension:
    """Return a subjectAltName with these bytes."""
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), der)


# Names that do not match `HOST`, with a part of the error for each.
REFUSED: Mapping[str, tuple[Identity, str]] = {
    "no subjectAltName": (
        OURS.issue(None),
        "the certificate has no subjectAltName (a common name is not enough)",
    ),
    "the name only as common name": (
        OURS.issue(None, common_names=[HOST]),
        "has no subjectAltName",
    ),
    "the name as one of several common names": (
        OURS.issue([], common_names=["b.example", HOST]),
        NO_HOST,
    ),
    "no subject at all": (OURS.issue(dns("b.example"), common_names=[]), "is for b.example, and"),
    "an empty subjectAltName": (OURS.issue([]), NO_HOST),
    "a subjectAltName that is no list": (
        OURS.issue(None, extra=[names_from(b"\x04\x02no")]),
        "the certificate",
    ),
    "a name that is not ASCII": (
        OURS.issue(None, extra=[names_from(b"\x30\x04\x82\x02\xff.")]),
        "the certificate cannot be read",
    ),
    "only an e-mail address": (OURS.issue([x509.RFC822Name("admin@a.example")]), NO_HOST),
    "only a URI": (OURS.issue([x509.UniformResourceIdentifier("https://a.example")]), NO_HOST),
    "only a URI with three colons": (
        OURS.issue([x509.UniformResourceIdentifier("urn:a.example:1:2")]),
        NO_HOST,
    ),
    "only a registered id": (OURS.issue([x509.RegisteredID(SERVER)]), NO_HOST),
    "only a directory name": (OURS.issue([x509.DirectoryName(OURS.name)]), NO_HOST),
    "only a user's principal name": (OURS.issue([UPN]), NO_HOST),
    "only a service name that cannot be read": (OURS.issue([DAMAGED_SRV]), NO_HOST),
    "only an address": (
        OURS.issue(ip("127.0.0.1")),
        "the certificate is for 127.0.0.1, and not for a.example",
    ),
    "another name": (
        OURS.issue(dns("b.example")),
        "the certificate is for b.example, and not for a.example",
    ),
    "many other names": (
        OURS.issue(dns("b", "c", "d", "e")),
        "the certificate is for b, c, d, …, and not for a.example",
    ),
    "the name's parent": (OURS.issue(dns("example")), "is for example, and"),
    "the name's child": (OURS.issue(dns("b.a.example")), "is for b.a.example, and"),
    "*": (OURS.issue(dns("*")), "is for *, and"),
    "*.*": (OURS.issue(dns("*.*")), "is for *.*, and"),
    "a whole top level": (OURS.issue(dns("*.example")), "is for *.example, and"),
    "wildcards within a label": (
        OURS.issue(dns("*a.example", "a*.example")),
        "is for *a.example, a*.example, and",
    ),
    "a wildcard that is not the first label": (OURS.issue(dns("a.*")), "is for a.*, and"),
    "a wildcard for another level": (OURS.issue(dns("*.a.example")), "is for *.a.example, and"),
    "an empty name": (OURS.issue(dns("")), "and not for a.example"),
    "a name with a zero byte": (
        OURS.issue(dns("a.example\0.b.example")),
        "is for a.example\ufffd.b.example, and",
    ),
    "a name with a space": (OURS.issue(dns("a.example ")), "and not for a.example"),
    "a name with a new line": (OURS.issue(dns("a.example\n")), "is for a.example\ufffd, and"),
    "a name with a dot at its end": (OURS.issue(dns("a.example.")), "and not for a.example"),
    "a name of 5000 characters": (OURS.issue(dns("a" * 5000)), "and not for a.example"),
    "expired": (
        OURS.issue(dns(HOST), begins_in=-2 * DAY, ends_in=-DAY),
        "the certificate has expired",
    ),
    "not yet valid": (
        OURS.issue(dns(HOST), begins_in=DAY, ends_in=2 * DAY),
        "the certificate is not valid yet",
    ),
    "for clients only": (
        OURS.issue(dns(HOST), usage=CLIENT),
        "the certificate is not for servers (extended key usage)",
    ),
    "for signing certificates only": (
        OURS.issue(dns(HOST), extra=[ONLY_SIGNS_CERTIFICATES]),
        "the certificate",
    ),
    "of another authority": (THEIRS.issue(dns(HOST)), NO_CA),
    "self-signed": (OURS.issue(dns(HOST), self_signed=True), "the certificate is self-signed"),
    "self-signed, as an authority": (
        OURS.issue(dns(HOST), self_signed=True, is_ca=True),
        "the certificate is self-signed",
    ),
    "the intermediate authority is missing": (BETWEEN.issue(dns(HOST)), NO_CA),
    "another intermediate authority": (BETWEEN.issue(dns(HOST), chain=[THEIRS.certificate]), NO_CA),
    "signed by a server": (
        signed_by_a_server(),
        "a certificate in the chain is not a CA certificate",
    ),
    "an authority without the name": (
        OURS.issue(None, common_names=[HOST], is_ca=True),
        "has no subjectAltName",
    ),
}

# Hosts, and the names that are accepted for them.
ACCEPTED: Mapping[str, tuple[str, Identity]] = {
    "the name": (HOST, OURS.issue(dns(HOST))),
    "one of many names": (HOST, OURS.issue(dns("b.example", "c.example", HOST))),
    "in capitals": (HOST, OURS.issue(dns("A.Example"))),
    "called in capitals": ("A.EXAMPLE", OURS.issue(dns(HOST))),
    "a wildcard": ("a.b.example", OURS.issue(dns("*.b.example"))),
    "an international name": ("xn--bcher-kva.example", OURS.issue(dns("xn--bcher-kva.example"))),
    "a name with an underscore": ("my_a", OURS.issue(dns("my_a"))),
    "an IPv4 address": ("127.0.0.1", OURS.issue(ip("127.0.0.1"))),
    "an IPv6 address": ("::1", OURS.issue(ip("::1"))),
    "improper names beside the name": (
        HOST,
        OURS.issue(dns("*", "10.0.0.1", "f*.example", "", HOST)),
    ),
    "a URI beside the name": (
        HOST,
        OURS.issue([x509.UniformResourceIdentifier("urn:uuid:1:2"), *dns(HOST)]),
    ),
    "no word of usage": (HOST, OURS.issue(dns(HOST), usage=None)),
    "no subject": (HOST, OURS.issue(dns(HOST), common_names=[])),
    "an authority's": (HOST, OURS.issue(dns(HOST), is_ca=True)),
    "with the intermediate authority": (
        HOST,
        BETWEEN.issue(dns(HOST), chain=[BETWEEN.certificate]),
    ),
}

# Addresses are not names, and names are not addresses.
CONFUSED: Mapping[str, tuple[str, Identity]] = {
    "an address as a name": ("127.0.0.1", OURS.issue(dns("127.0.0.1"))),
    "an address as common name": ("127.0.0.1", OURS.issue(None, common_names=["127.0.0.1"])),
    "another address": ("127.0.0.1", OURS.issue(ip("127.0.0.2"))),
    "a wildcard for an address": ("127.0.0.1", OURS.issue(dns("*.0.0.1"))),
    "an IPv6 address that ends so": ("127.0.0.1", OURS.issue(ip("::ffff:127.0.0.1"))),
    "a wildcard for an international label": (
        "xn--bcher-kva.b.example",
        OURS.issue(dns("*.b.example")),
    ),
}


class Listener(Protocol):
    """A server that keeps what it receives, and sends `answer`."""

    def __init__(self, answer: bytes) -> None:
        self.heard = b""
        self.called: bytes | None = None
        self._answer = answer

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        assert self.transport is not None
        self.called = cast("TLSMemoryBIOProtocol", self.transport).getHandle().get_servername()
        self.transport.write(self._answer)


class ServerCertificates(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.ca = Path(folder.name) / "ca.pem"
        self.ca.write_bytes(OURS.pem)
        self.servers = VerifiedServers(self.ca, wall_clock=time)
        self.logged: list[str] = []
        observer = cast("ILogObserver", self.observe)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def observe(self, event: LogEvent) -> None:
        """Keep what rtprov logs."""
        if event["log_namespace"].startswith("rtprov"):
            self.logged.append(formatEvent(event))

    def listen(self, identity: Identity, answer: bytes = b"") -> None:
        """Start anew, with a server that shows this certificate."""
        self.logged.clear()
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        self.server = Listener(answer)
        factory = Factory.forProtocol(lambda: self.server)
        secure = TLSMemoryBIOFactory(
            identity.options(), False, factory, cast("IReactorTime", self.clock)
        )
        self.network.listen("server").listen(secure)

    def endpoint(self, host: str) -> IStreamClientEndpoint:
        return ServerEndpoint(
            self.network.connect("server"),
            where="server:443",
            secure=lambda: self.servers.server(host),
            timeout_s=5.0,
            at_once=1,
            clock=cast("IReactorTime", self.clock),
        )

    def call(self, host: str, identity: Identity) -> Deferred[tuple[State, str]]:
        """Send one task to A."""
        self.listen(identity, ANSWER)
        clock = cast("IReactorTime", self.clock)
        agent = equipment_agent(self.endpoint(host), concurrency=1, clock=clock)
        equipment = HttpEquipment(
            agent=agent, base_url=f"https://{HOST}", clock=clock, wall_clock=self.clock.seconds
        )
        outcome = equipment.configure(
            Task("0123456789abcdef" * 2, "ABC123456", 14, 0.0, "sealed"), BODY
        )
        self.network.advance(1)
        return outcome

    def connect(self, host: str, identity: Identity) -> BrokerConnection:
        """Make one attempt to connect to the broker."""
        self.listen(identity)
        connection = BrokerConnection(
            name="worker",
            endpoint=self.endpoint(host),
            url=BrokerUrl.parse(f"amqps://joe:s3cr3t@{'[::1]' if ':' in host else host}/"),
            clock=cast("IReactorTime", self.clock),
            rng=Random(1),
            sessions=[],
        )
        connection.startService()
        self.network.settle()
        return connection

    def stop(self, connection: BrokerConnection) -> None:
        stopped = connection.stopService()
        self.network.advance(5)
        self.successResultOf(stopped)

    def test_refused_as_a(self) -> None:
        """A server that cannot prove that it is A gets nothing of the request. That is an outage,
        and its reason is the error in the certificate.
        """
        for what, (identity, reason) in REFUSED.items():
            text = str(self.failureResultOf(self.call(HOST, identity), EquipmentUnreachable).value)
            self.assertEqual(self.server.heard, b"", what)
            self.assertIn("A cannot be reached: TLS: ", text, what)
            self.assertIn(reason, text, what)
            self.assertLess(len(text), 500, what)
            self.assertNotIn("\n", text, what)

    def test_refused_as_the_broker(self) -> None:
        """A server that cannot prove that it is the broker gets no byte of AMQP, and so no
        password. The log has the error in the certificate.
        """
        for what, (identity, reason) in REFUSED.items():
            connection = self.connect(HOST, identity)
            self.assertEqual(self.server.heard, b"", what)
            self.assertFalse(connection.connected, what)
            (line,) = self.logged
            self.assertIn(
                "worker: not connected to amqps://joe@a.example:5671/, trying again: ", line, what
            )
            self.assertIn(reason, line, f"{what}: {line}")
            self.stop(connection)

    def test_accepted(self) -> None:
        """A certificate of the authority with the right name or address is accepted, whatever else
        is in it.
        """
        for what, (host, identity) in ACCEPTED.items():
            self.assertIs(self.successResultOf(self.call(host, identity))[0], State.COMPLETED, what)
            self.assertIn(BODY, self.server.heard, what)
            connection = self.connect(host, identity)
            self.assertEqual(self.server.heard, b"AMQP\0\0\x09\x01", what)
            self.stop(connection)

    def test_confused(self) -> None:
        """An address must be in the certificate as an address, a name as a name. A wildcard does
        not match an international label.
        """
        for what, (host, identity) in CONFUSED.items():
            self.failureResultOf(self.call(host, identity), EquipmentUnreachable)
            self.assertEqual(self.server.heard, b"", what)
            connection = self.connect(host, identity)
            self.assertEqual(self.server.heard, b"", what)
            self.stop(connection)

    def test_any_error_refuses(self) -> None:
        """Any error during the verification of a certificate refuses the connection. Nothing is
        left to OpenSSL's own verification.
        """
        for error in (
            RuntimeError("unforeseen"),
            ValueError("unforeseen"),
            KeyError("unforeseen"),
            RecursionError(),
        ):
            cast("Any", self.servers).server = partial(self.raising, error)
            text = str(
                self.failureResultOf(
                    self.call(HOST, OURS.issue(dns(HOST))), EquipmentUnreachable
                ).value
            )
            self.assertEqual(self.server.heard, b"")
            self.assertIn("the certificate cannot be read", text)

    def raising(self, error: Exception, host: str, port: int = 0) -> VerifiedServer:
        """Return a server whose certificate raises an error when it is verified."""
        server = VerifiedServers(self.ca, wall_clock=time).server(host)
        cast("Any", server)._wanted = Raising(error)
        return server

    def test_server_name(self) -> None:
        """A name is sent in the clear (SNI), because servers with several names need it. An address
        is not sent (RFC 6066 §3).
        """
        identity = OURS.issue([*dns(HOST), *ip("127.0.0.1", "::1")])
        for host, expected in (("A.example", b"a.example"), ("127.0.0.1", None), ("::1", None)):
            self.successResultOf(self.call(host, identity))
            self.assertEqual(self.server.called, expected)


class Raising:
    """The identity of a server whose verification raises an error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def verify(self, pattern: object) -> bool:
        raise self._error
