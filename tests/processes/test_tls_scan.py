"""A scan of a front end's TLS: versions, ciphers, protocols, client certificates, and certificates
that are replaced under load.
"""

from __future__ import annotations

import shutil
import socket
import ssl
from datetime import timedelta
from threading import Event

import trustme
from OpenSSL import SSL
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from tests.support.front_end_process import ASK, FrontEndCase
from tests.support.sockets import PATIENCE_S, Wire, dial, refused, unverified_context

MODERN = {
    *(
        f"ECDHE-{key}-{cipher}"
        for key in ("ECDSA", "RSA")
        for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    ),
}


class Scan(FrontEndCase):
    async def test_versions(self) -> None:
        """TLS 1.2 and 1.3 are accepted. Older versions are refused with an alert."""
        port = await self.start()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            self.assertIsNone(refused(port, unverified_context(version)), version)
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            self.assertEqual(
                refused(port, unverified_context(version)), "PROTOCOL_VERSION", version
            )
        hello = bytes([1, 0, 0, 43, 3, 0, *range(32), 0, 0, 4, 0, 0x2F, 0, 5, 1, 0])
        with dial(port) as ssl3:
            ssl3.sendall(bytes([22, 3, 0, 0, len(hello)]) + hello)
            self.assertEqual(ssl3.recv(7)[0], 21)  # an alert
        await self.stop(self.frontend)

    async def test_ciphers(self) -> None:
        """Of all TLS 1.2 cipher suites, only those with forward secrecy and authenticated
        encryption are accepted.
        """
        port = await self.start()
        names = {
            suite["name"]
            for suite in unverified_context(ssl.TLSVersion.TLSv1_2).get_ciphers()
            if suite["protocol"] != "TLSv1.3"
        }
        reasons = {
            name: refused(port, unverified_context(ssl.TLSVersion.TLSv1_2, name)) for name in names
        }
        taken = {name for name, reason in reasons.items() if reason is None}
        refused_by_server = {
            name for name, reason in reasons.items() if reason == "HANDSHAKE_FAILURE"
        }
        self.assertGreater(len(refused_by_server), 30)
        self.assertGreaterEqual(len(taken), 3)
        self.assertEqual(taken - MODERN, set())
        others = {reasons[name] for name in names - taken - refused_by_server}
        # suites that a client without credentials cannot even offer
        self.assertEqual(others - {"NO_CIPHERS_AVAILABLE"}, set())
        await self.stop(self.frontend)

    async def test_protocols(self) -> None:
        """HTTP/1.1 and 1.0 are negotiated. A client that offers only other protocols is refused.
        There is no compression.
        """
        port = await self.start()
        for offered, agreed in (
            (("h2", "http/1.1"), "http/1.1"),
            (("http/1.0",), "http/1.0"),
            ((), None),
        ):
            with Wire(port, self.tls(alpn=offered)) as wire:
                self.assertEqual(wire.socket.selected_alpn_protocol(), agreed)
                self.assertIsNone(wire.socket.compression())
                self.assertEqual(wire.ask(ASK).status, 404)
        # as this version of Python reports it
        reason = refused(port, self.tls(alpn=("h2",))) or ""
        self.assertIn("no application protocol", reason.lower().replace("_", " "))
        await self.stop(self.frontend)

    async def test_renegotiation(self) -> None:
        """A TLS 1.2 client cannot make the server renegotiate endlessly."""
        port = await self.start()
        made = SSL.Context(SSL.TLS_METHOD)
        made.set_max_proto_version(SSL.TLS1_2_VERSION)
        plain = socket.create_connection(("127.0.0.1", port))
        plain.settimeout(None)
        plain.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, int(PATIENCE_S).to_bytes(8, "little") + bytes(8)
        )
        self.addCleanup(plain.close)
        connection = SSL.Connection(made, plain)
        connection.set_connect_state()
        connection.do_handshake()
        self.assertTrue(connection.renegotiate())
        error = self.assertRaises(SSL.Error, connection.do_handshake)
        self.assertIn("no renegotiation", str(error))
        await self.stop(self.frontend)

    async def test_client_certificates(self) -> None:
        """With --client-ca only valid certificates of that CA are accepted. The audit log and
        --rate use their names.
        """
        ca, other = trustme.CA(), trustme.CA()
        ca.cert_pem.write_to_path(str(self.folder / "clients.pem"))
        self.issue("ours", ca, "client.example")
        self.issue("late", ca, "client.example", ends_in=timedelta(days=-1))
        self.issue("theirs", other, "client.example")
        port = await self.start("--client-ca", "clients.pem", "--rate", "1")
        for identity, reason in (
            (None, "CERTIFICATE_REQUIRED"),
            ("late", "CERTIFICATE_EXPIRED"),
            ("theirs", "UNKNOWN_CA"),
            ("ours", None),
        ):
            self.assertEqual(refused(port, self.tls(identity)), reason, identity)
        with Wire(port, self.tls("ours")) as wire:
            self.assertEqual(wire.ask(ASK).status, 429)  # counted by name, not by connection
        await self.stop(self.frontend)


class Reload(FrontEndCase):
    def ask_until(self, over: Event, begun: Event, port: int) -> set[str]:
        """Send requests on one connection, and each time on a new one too, until `over` is set, and
        once more; return the serials of the certificates seen.
        """
        seen = set()
        with Wire(port, self.tls()) as kept:
            last = False
            while not last:
                last = over.is_set()
                self.assertEqual(kept.ask(ASK).status, 404)
                with Wire(port, self.tls()) as fresh:
                    seen.add(fresh.serial)
                    self.assertEqual(fresh.ask(ASK).status, 404)
                begun.set()
        return seen

    async def test_under_load(self) -> None:
        """Certificates are replaced during requests: no connection and no request is lost, and new
        connections get the new certificate.
        """
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(self.certs / "ca.pem"))
        served = self.issue("served", ca, "localhost")
        port = await self.start("--certificate", str(served[0]), "--private-key", str(served[1]))
        over, begun = Event(), [Event() for _ in range(4)]
        asking = [deferToThread(self.ask_until, over, each, port) for each in begun]
        for each in begun:
            self.assertTrue(each.wait(PATIENCE_S))
        for name in ("second", "third"):
            with Wire(port, self.tls()) as wire:
                before = wire.serial
            for new, old in zip(self.issue(name, ca, "localhost"), served, strict=True):
                shutil.move(new, old)
            reloads = self.frontend.log.count("certificates reloaded")
            self.frontend.signal("HUP")
            await self.frontend.logged(rf"(?s)(certificates reloaded.*){{{reloads + 1}}}")
            with Wire(port, self.tls()) as wire:
                self.assertNotEqual(wire.serial, before)
        over.set()
        for seen in await gatherResults(asking):
            self.assertGreater(len(seen), 1)
        await self.stop(self.frontend)

    async def test_without_being_told(self) -> None:
        """Replaced certificates are used without a signal. If they do not fit each other, that is
        logged, and the old ones stay in use.
        """
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(self.certs / "ca.pem"))
        served = self.issue("served", ca, "localhost")
        port = await self.start("--certificate", str(served[0]), "--private-key", str(served[1]))
        with Wire(port, self.tls()) as wire:
            before = wire.serial
            self.issue("served", ca, "localhost", ends_in=timedelta(days=10))
            await self.frontend.logged("certificates reloaded")
            await self.frontend.logged(f"{served[0]}: the certificate expires on ")
            with Wire(port, self.tls()) as other:
                self.assertNotEqual(other.serial, before)
            served[1].write_bytes(b"s3cr3t")
            self.frontend.signal("HUP")
            await self.frontend.logged(
                "certificates not reloaded, the previous version stays in use: "
            )
            self.assertEqual(wire.ask(ASK).status, 404)
            self.assertIsNone(refused(port, self.tls()))
        await self.stop(self.frontend)
