"""TLS: real handshakes in memory, and one clear line for each file that is no good."""

from __future__ import annotations

import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from rtprov.errors import ConfigurationError
from rtprov.security import certificates as tls
from rtprov.security.certificates import (
    expiry_warning,
    load_certificates,
    load_identity,
    server_options,
)
from rtprov.security.files import is_there, read_file, read_text
from rtprov.security.sealer import load_keys, new_key
from rtprov.security.tls_client import VerifiedServers
from rtprov.security.tokens import load_tokens, new_token
from rtprov.tap.stub import rules
from tests.support.tls_peers import Old, TlsTestCase

NOW = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)


class Handshakes(TlsTestCase):
    def test_agreed(self) -> None:
        """A client that knows the CA talks to a server with one of its certificates, by name or by
        address, over TLS 1.3.
        """
        for host in ("a.example", "127.0.0.1", "::1"):
            peers = self.handshake(self.server(), self.client(host))
            self.assert_agreed(peers)
            self.assertEqual(peers[1].tls.get_protocol_version_name(), "TLSv1.3")

    def test_wrong_name(self) -> None:
        """A server that shows another host's certificate is not talked to."""
        for host in ("b.example", "127.0.0.2", "example"):
            server, client = self.handshake(self.server(), self.client(host))
            self.assert_failed(client, "certificate verify failed")
            self.assertEqual(server.heard, b"")

    def test_unknown_ca(self) -> None:
        """A server that somebody else's CA vouches for is not talked to."""
        server, client = self.handshake(self.server(), self.client(ca="other-ca.pem"))
        self.assert_failed(client, "certificate verify failed")
        self.assertEqual(server.heard, b"")

    def test_version(self) -> None:
        """Either side talks TLS 1.2, and nothing older."""
        files = (self.file("a.pem"), self.file("a.key"))
        for version, name in ((SSL.TLS1_2_VERSION, "TLSv1.2"), (SSL.TLS1_1_VERSION, None)):
            for server, client in (
                (self.server(), Old(version)),
                (Old(version, *files), self.client()),
            ):
                peers = self.handshake(server, client)
                if name is None:
                    for peer in peers:
                        self.assert_failed(peer, "protocol")
                else:
                    self.assert_agreed(peers)
                    self.assertEqual(peers[0].tls.get_protocol_version_name(), name)

    def test_no_client_certificate_wanted(self) -> None:
        """Without a CA for clients, a client is not asked who it is, not even one that could
        tell.
        """
        for identity in (None, "client"):
            server, client = self.handshake(self.server(), self.client(identity=identity))
            self.assert_agreed((server, client))
            self.assertIsNone(server.tls.get_peer_certificate())

    def test_client_certificate_wanted(self) -> None:
        """With a CA for clients, one with a certificate of that CA is let in."""
        server, client = self.handshake(self.server("ca.pem"), self.client(identity="client"))
        self.assert_agreed((server, client))
        self.assertIsNotNone(server.tls.get_peer_certificate())

    def test_client_certificate_missing(self) -> None:
        """With a CA for clients, one without a certificate, or with somebody else's, is kept
        out.
        """
        self.issue("stranger", trustme.CA(), "client.example")
        server, _ = self.handshake(self.server("ca.pem"), self.client())
        self.assert_failed(server, "peer did not return a certificate")
        server, _ = self.handshake(self.server("ca.pem"), self.client(identity="stranger"))
        self.assert_failed(server, "certificate verify failed")

    def test_chain(self) -> None:
        """A server shows the intermediate certificates in its file, so a client needs to know only
        the root.
        """
        self.issue("a", self.ca.create_child_ca(), "a.example")
        self.assertGreater(len(load_certificates(self.file("a.pem"))), 1)
        self.assert_agreed(self.handshake(self.server(), self.client()))

    def test_several_cas(self) -> None:
        """A CA file may hold several certificates, with text between them: each is trusted."""
        both = [self.file(name).read_bytes() for name in ("other-ca.pem", "ca.pem")]
        self.file("bundle.pem").write_bytes(b"# theirs\n" + both[0] + b"# ours\n" + both[1])
        self.assert_agreed(self.handshake(self.server(), self.client(ca="bundle.pem")))

    def test_one_context(self) -> None:
        """All connections share one context: another for each would cost about 20 KB of memory."""
        policy = VerifiedServers(self.file("ca.pem"))
        contexts = [
            self.handshake(self.server(), policy.server(host))[1].tls.get_context()
            for host in ("a.example", "a.example", "127.0.0.1")
        ]
        self.assertEqual(len(set(map(id, contexts))), 1)


class Files(TlsTestCase):
    def assert_refused(self, name: str, text: str, call: Any, *arguments: Any) -> None:
        """The call fails with one line that begins with the file's path; nothing of a file's
        content is in it.
        """
        error = self.assertRaises(ConfigurationError, call, *arguments)
        self.assertEqual(str(error), f"{self.file(name)}: {text}")

    def test_unreadable(self) -> None:
        """A file that cannot be read is named, with what it should have been."""
        self.assert_refused(
            "no.pem",
            "cannot read the certificate: No such file or directory",
            load_certificates,
            self.file("no.pem"),
        )
        self.assert_refused(
            ".", "cannot read the scenario: Is a directory", read_file, self.folder, "scenario"
        )
        self.assert_refused(
            "no.key",
            "cannot read the private key: No such file or directory",
            load_identity,
            self.file("a.pem"),
            self.file("no.key"),
        )

    def test_no_certificate(self) -> None:
        """A file without a certificate, or with a damaged one, is refused wherever a certificate is
        wanted.
        """
        good = self.file("a.pem").read_bytes()
        for content in (
            b"",
            b"s3cr3t",
            self.file("a.key").read_bytes(),
            good.replace(b"MII", b"XII", 1),
            good[:-30],
            good[30:],
        ):
            self.file("bad.pem").write_bytes(content)
            bad = self.file("bad.pem")
            self.assert_refused("bad.pem", "holds no PEM certificate", load_certificates, bad)
            self.assert_refused("bad.pem", "holds no PEM certificate", VerifiedServers, bad)
            self.assert_refused(
                "bad.pem", "holds no PEM certificate", server_options, bad, self.file("a.key")
            )
            self.assert_refused(
                "bad.pem",
                "holds no PEM certificate",
                server_options,
                self.file("a.pem"),
                self.file("a.key"),
                bad,
            )

    def test_damaged_second(self) -> None:
        """One damaged certificate spoils a file of several: what is trusted is never half of what
        was meant.
        """
        good = self.file("ca.pem").read_bytes()
        self.file("bad.pem").write_bytes(good + good.replace(b"MII", b"XII", 1))
        self.assert_refused(
            "bad.pem", "holds no PEM certificate", load_certificates, self.file("bad.pem")
        )

    def test_no_key(self) -> None:
        """A file that is no private key is refused."""
        good = self.file("a.key").read_bytes()
        for content in (b"", b"s3cr3t", self.file("a.pem").read_bytes(), good[:40]):
            self.file("bad.key").write_bytes(content)
            text = f"is not the PEM private key for {self.file('a.pem')}"
            self.assert_refused(
                "bad.key", text, server_options, self.file("a.pem"), self.file("bad.key")
            )

    def test_key_with_a_passphrase(self) -> None:
        """A private key that is encrypted is refused; nobody is asked for its passphrase."""
        key = load_pem_private_key(self.file("a.key").read_bytes(), None)
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
            self.file("bad.key").write_bytes(
                key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"sesame"))
            )
            text = "is encrypted, and rtprov cannot ask for a passphrase; store the key without one"
            self.assert_refused(
                "bad.key", text, server_options, self.file("a.pem"), self.file("bad.key")
            )

    def test_weak_key(self) -> None:
        """A certificate that OpenSSL finds too weak is refused at once, not with the first
        connection, for servers and for clients.
        """
        key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - weak on purpose
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "weak")])
        builder = x509.CertificateBuilder(
            name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1)
        )
        self.file("weak.pem").write_bytes(
            builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
        )
        self.file("weak.key").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        files = (self.file("weak.pem"), self.file("weak.key"))
        self.assert_refused(
            "weak.pem", "OpenSSL does not accept it: ee key too small", server_options, *files
        )
        self.assert_refused(
            "weak.pem",
            "OpenSSL does not accept it: ee key too small",
            VerifiedServers,
            self.file("ca.pem"),
            *files,
        )

    def test_key_of_another(self) -> None:
        """A private key that is not the certificate's is refused, for servers and for clients."""
        files = (self.file("a.pem"), self.file("client.key"))
        text = f"is not the PEM private key for {self.file('a.pem')}"
        self.assert_refused("client.key", text, server_options, *files)
        self.assert_refused("client.key", text, VerifiedServers, self.file("ca.pem"), *files)


class Expiry(TlsTestCase):
    def warning(self, begins_in: timedelta, ends_in: timedelta) -> str | None:
        """What is said at `NOW` of a certificate that begins and ends so much later."""
        leaf = self.ca.issue_cert("a.example", not_before=NOW + begins_in, not_after=NOW + ends_in)
        self.file("a.pem").write_bytes(leaf.cert_chain_pems[0].bytes())
        warning = expiry_warning(self.file("a.pem"), NOW)
        return (
            warning
            if warning is None
            else warning.removeprefix(f"{self.file('a.pem')}: the certificate ")
        )

    def test_warning(self) -> None:
        """A certificate that has expired, or will have within two weeks, or is not yet valid, is
        spoken of; any other is not.
        """
        day = timedelta(days=1)
        self.assertIsNone(self.warning(-day, 15 * day))
        self.assertEqual(self.warning(-day, 13 * day), "expires on 2030-01-14 12:00 UTC")
        self.assertEqual(self.warning(-3 * day, -day), "has expired on 2029-12-31 12:00 UTC")
        self.assertEqual(self.warning(day, 100 * day), "is not valid before 2030-01-02 12:00 UTC")

    def test_chain(self) -> None:
        """A certificate that comes after others in its file is spoken of as they are."""
        day = timedelta(days=1)
        self.warning(-day, 13 * day)
        ending = self.file("a.pem").read_bytes()
        self.assertIsNone(self.warning(-day, 100 * day))
        self.file("a.pem").write_bytes(self.file("a.pem").read_bytes() + ending)
        self.assertEqual(
            expiry_warning(self.file("a.pem"), NOW),
            f"{self.file('a.pem')}: the certificate expires on 2030-01-14 12:00 UTC",
        )


class TextFiles(SynchronousTestCase):
    """What editors make of files that operators write by hand."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(folder.name) / "file"

    def test_byte_order_mark(self) -> None:
        """A byte order mark is no part of the text, in keys, tokens, scenarios and certificates."""
        token, _ = new_token("billing")
        leaf = trustme.CA().issue_cert("localhost")
        for content, load in (
            (token.line, lambda: self.assertEqual(load_tokens(self.file), (token,))),
            (new_key(), lambda: load_keys(read_text(self.file, "sealing keys"))),
            (
                '[[rule]]\nmatch = "A.*"\nanswer = 200\n',
                lambda: self.assertEqual(len(rules(self.file)), 1),
            ),
            (leaf.cert_chain_pems[0].bytes().decode(), lambda: load_certificates(self.file)),
        ):
            for newline in ("\n", "\r\n"):
                self.file.write_bytes(
                    f"\ufeff{content.replace(chr(10), newline)}{newline}".encode()
                )
                load()

    def test_private_key(self) -> None:
        """So it is in a private key."""
        leaf = trustme.CA().issue_cert("localhost")
        certificate = self.file.with_name("certificate")
        certificate.write_bytes(leaf.cert_chain_pems[0].bytes())
        self.file.write_bytes(
            b"\xef\xbb\xbf" + leaf.private_key_pem.bytes().replace(b"\n", b"\r\n")
        )
        load_identity(certificate, self.file)

    def test_wide_characters(self) -> None:
        """Text in UTF-16 or UTF-32 is named as what it is, with what to do."""
        for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"):
            self.file.write_bytes("billing sha256:s3cr3t\n".encode(encoding))
            error = self.assertRaises(ConfigurationError, load_tokens, self.file)
            text = (
                f"{self.file}: cannot read the tokens: it is not UTF-8 text (UTF-16?); save it as"
                " UTF-8"
            )
            self.assertEqual(str(error), text)

    def test_out_of_memory(self) -> None:
        """What says nothing about the file is not taken for a mistake in it."""

        def exhausted(*_: object) -> object:
            raise MemoryError

        leaf = trustme.CA().issue_cert("localhost")
        key = self.file.with_name("key")
        self.file.write_bytes(leaf.cert_chain_pems[0].bytes())
        key.write_bytes(leaf.private_key_pem.bytes())
        self.patch(tls, "load_privatekey", exhausted)
        self.assertRaises(MemoryError, load_identity, self.file, key)


class Presence(SynchronousTestCase):
    def test_there(self) -> None:
        """Whether a file is there; what keeps that from being known is an error of one line."""
        self.assertTrue(is_there(Path(__file__)))
        self.assertFalse(is_there(Path(__file__).with_name("none")))
        self.assertFalse(is_there(Path(__file__) / "none"))
        long = Path("/", "a" * 300)
        self.assertEqual(
            str(self.assertRaises(ConfigurationError, is_there, long)),
            f"{long}: File name too long",
        )
