"""TLS handshakes in memory, and the error for each certificate file that cannot be used."""

from __future__ import annotations

import tempfile
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from time import time
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
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

SERVERS = partial(VerifiedServers, wall_clock=time)


class Handshakes(TlsTestCase):
    def test_agreed(self) -> None:
        """A client that trusts the CA connects to a server with one of its certificates, by name or
        by address, over TLS 1.3.
        """
        for host in ("a.example", "127.0.0.1", "::1"):
            peers = self.handshake(self.server(), self.client(host))
            self.assert_agreed(peers)
            self.assertEqual(peers[1].tls.get_protocol_version_name(), "TLSv1.3")

    def test_wrong_name(self) -> None:
        """A client refuses a server with another host's certificate."""
        for host in ("b.example", "127.0.0.2", "example"):
            server, client = self.handshake(self.server(), self.client(host))
            self.assert_failed(client, "certificate verify failed")
            self.assertEqual(server.heard, b"")

    def test_unknown_ca(self) -> None:
        """A client refuses a server with a certificate of another CA."""
        server, client = self.handshake(self.server(), self.client(ca="other-ca.pem"))
        self.assert_failed(client, "certificate verify failed")
        self.assertEqual(server.heard, b"")

    def test_version(self) -> None:
        """Both sides accept TLS 1.2, and no older version."""
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
        """Without a client CA, a client is not asked for a certificate, even if it has one."""
        for identity in (None, "client"):
            server, client = self.handshake(self.server(), self.client(identity=identity))
            self.assert_agreed((server, client))
            self.assertIsNone(server.tls.get_peer_certificate())

    def test_client_certificate_wanted(self) -> None:
        """With a client CA, a client with a certificate of that CA is accepted."""
        server, client = self.handshake(self.server("ca.pem"), self.client(identity="client"))
        self.assert_agreed((server, client))
        self.assertIsNotNone(server.tls.get_peer_certificate())

    def test_client_certificate_missing(self) -> None:
        """With a client CA, a client without a certificate, or with one of another CA, is
        refused.
        """
        self.issue("stranger", trustme.CA(), "client.example")
        server, _ = self.handshake(self.server("ca.pem"), self.client())
        self.assert_failed(server, "peer did not return a certificate")
        server, _ = self.handshake(self.server("ca.pem"), self.client(identity="stranger"))
        self.assert_failed(server, "certificate verify failed")

    def test_chain(self) -> None:
        """A server sends the intermediate certificates in its file, so that a client needs only the
        root.
        """
        self.issue("a", self.ca.create_child_ca(), "a.example")
        self.assertGreater(len(load_certificates(self.file("a.pem"))), 1)
        self.assert_agreed(self.handshake(self.server(), self.client()))

    def test_several_cas(self) -> None:
        """A CA file may have several certificates, with text between them. All are trusted."""
        both = [self.file(name).read_bytes() for name in ("other-ca.pem", "ca.pem")]
        self.file("bundle.pem").write_bytes(b"# theirs\n" + both[0] + b"# ours\n" + both[1])
        self.assert_agreed(self.handshake(self.server(), self.client(ca="bundle.pem")))

    def test_one_context(self) -> None:
        """All connections share one context. One for each would cost about 20 KB of memory."""
        policy = VerifiedServers(self.file("ca.pem"), wall_clock=time)
        contexts = [
            self.handshake(self.server(), policy.server(host))[1].tls.get_context()
            for host in ("a.example", "a.example", "127.0.0.1")
        ]
        self.assertEqual(len(set(map(id, contexts))), 1)


class Files(TlsTestCase):
    def assert_refused(self, name: str, text: str, call: Any, *arguments: Any) -> None:
        """Check that the call fails with one line that begins with the file's path and repeats
        nothing of the file's content.
        """
        error = self.assertRaises(ConfigurationError, call, *arguments)
        self.assertEqual(str(error), f"{self.file(name)}: {text}")

    def test_unreadable(self) -> None:
        """The error for a file that cannot be read says what the file should be."""
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
        needed.
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
            self.assert_refused("bad.pem", "holds no PEM certificate", SERVERS, bad)
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
        """One damaged certificate makes the whole file invalid, so that never only a part of it is
        trusted.
        """
        good = self.file("ca.pem").read_bytes()
        self.file("bad.pem").write_bytes(good + good.replace(b"MII", b"XII", 1))
        self.assert_refused(
            "bad.pem", "holds no PEM certificate", load_certificates, self.file("bad.pem")
        )

    def test_incomplete(self) -> None:
        """A file that ends within a later certificate is refused, for servers and for CAs."""
        good = self.file("a.pem").read_bytes()
        text = "is incomplete: a PEM block has no end line"
        bad = self.file("bad.pem")
        for rest in (good[:-1].rstrip()[:-1], good[:-30], good[:400], good[:20]):
            for content in (good + rest, good + rest + b"\n" + good):
                bad.write_bytes(content)
                if content.endswith(rest):
                    self.assert_refused("bad.pem", text, server_options, bad, self.file("a.key"))
                    self.assert_refused("bad.pem", text, SERVERS, bad)
                else:
                    self.assertRaises(ConfigurationError, load_certificates, bad)
        # A private key in the same file is no certificate.
        bad.write_bytes(good + self.file("a.key").read_bytes())
        self.assertEqual(len(load_certificates(bad)), 1)

    def test_no_key(self) -> None:
        """A file without a private key is refused."""
        good = self.file("a.key").read_bytes()
        for content in (b"", b"s3cr3t", self.file("a.pem").read_bytes(), good[:40]):
            self.file("bad.key").write_bytes(content)
            text = f"is not the PEM private key for {self.file('a.pem')}"
            self.assert_refused(
                "bad.key", text, server_options, self.file("a.pem"), self.file("bad.key")
            )

    def test_key_with_a_passphrase(self) -> None:
        """An encrypted private key is refused. There is no prompt for its passphrase."""
        key = load_pem_private_key(self.file("a.key").read_bytes(), None)
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
            self.file("bad.key").write_bytes(
                key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"sesame"))
            )
            text = "is encrypted, and rtprov cannot ask for a passphrase; store the key without one"
            self.assert_refused(
                "bad.key", text, server_options, self.file("a.pem"), self.file("bad.key")
            )

    def self_signed(self, name: str, key: Any) -> tuple[Path, Path]:
        """Write a certificate for `key`, and the key; return the paths."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder(
            subject, subject, key.public_key(), 1, NOW, NOW + timedelta(days=1)
        )
        edwards = isinstance(key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey))
        certificate = builder.sign(key, None if edwards else hashes.SHA256())
        files = (self.file(f"{name}.pem"), self.file(f"{name}.key"))
        files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
        files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files

    def test_kinds_of_keys(self) -> None:
        """A server's key that no client with the usual settings can use is refused at once."""
        for key in (
            rsa.generate_private_key(65537, 2048),
            ed25519.Ed25519PrivateKey.generate(),
            ed448.Ed448PrivateKey.generate(),
            *(
                ec.generate_private_key(curve)
                for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())
            ),
        ):
            server_options(*self.self_signed("usual", key))
            server_options(*self.self_signed("usual", key), self.file("ca.pem"))
        text = (
            "no client can use it (no shared cipher): its key must be RSA, Ed25519, or ECDSA on the"
            " curve P-256, P-384 or P-521"
        )
        for key in (
            dsa.generate_private_key(2048),
            ec.generate_private_key(ec.SECP224R1()),
            ec.generate_private_key(ec.SECP256K1()),
        ):
            files = self.self_signed("unusual", key)
            self.assert_refused("unusual.pem", text, server_options, *files)

    def test_weak_key(self) -> None:
        """A certificate that OpenSSL considers too weak is refused when it is loaded, for servers
        and for clients.
        """
        key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - weak on purpose
        files = self.self_signed("weak", key)
        self.assert_refused(
            "weak.pem", "OpenSSL does not accept it: ee key too small", server_options, *files
        )
        self.assert_refused(
            "weak.pem",
            "OpenSSL does not accept it: ee key too small",
            SERVERS,
            self.file("ca.pem"),
            *files,
        )

    def test_key_of_another(self) -> None:
        """A private key that does not match the certificate is refused, for servers and for
        clients.
        """
        files = (self.file("a.pem"), self.file("client.key"))
        text = f"is not the PEM private key for {self.file('a.pem')}"
        self.assert_refused("client.key", text, server_options, *files)
        self.assert_refused("client.key", text, SERVERS, self.file("ca.pem"), *files)


class Expiry(TlsTestCase):
    def warning(self, begins_in: timedelta, ends_in: timedelta) -> str | None:
        """Return the warning at `NOW` for a certificate with these relative validity times."""
        leaf = self.ca.issue_cert("a.example", not_before=NOW + begins_in, not_after=NOW + ends_in)
        self.file("a.pem").write_bytes(leaf.cert_chain_pems[0].bytes())
        warning = expiry_warning(self.file("a.pem"), NOW)
        return (
            warning
            if warning is None
            else warning.removeprefix(f"{self.file('a.pem')}: the certificate ")
        )

    def test_warning(self) -> None:
        """There is a warning for a certificate that has expired, expires within two weeks, or is
        not yet valid, and for no other.
        """
        day = timedelta(days=1)
        self.assertIsNone(self.warning(-day, 15 * day))
        self.assertEqual(self.warning(-day, 13 * day), "expires on 2030-01-14 12:00 UTC")
        self.assertEqual(self.warning(-3 * day, -day), "has expired on 2029-12-31 12:00 UTC")
        self.assertEqual(self.warning(day, 100 * day), "is not valid before 2030-01-02 12:00 UTC")

    def test_chain(self) -> None:
        """The later certificates of a file get warnings too."""
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
    """Files that operators write by hand, as various editors save them."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(folder.name) / "file"

    def test_byte_order_mark(self) -> None:
        """A byte order mark is ignored in keys, tokens, scenarios and certificates."""
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
        """It is ignored in a private key too."""
        leaf = trustme.CA().issue_cert("localhost")
        certificate = self.file.with_name("certificate")
        certificate.write_bytes(leaf.cert_chain_pems[0].bytes())
        self.file.write_bytes(
            b"\xef\xbb\xbf" + leaf.private_key_pem.bytes().replace(b"\n", b"\r\n")
        )
        load_identity(certificate, self.file)

    def test_wide_characters(self) -> None:
        """The error for text in UTF-16 or UTF-32 names the encoding, and says what to do."""
        for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"):
            self.file.write_bytes("billing sha256:s3cr3t\n".encode(encoding))
            error = self.assertRaises(ConfigurationError, load_tokens, self.file)
            text = (
                f"{self.file}: cannot read the tokens: it is not UTF-8 text (UTF-16?); save it as"
                " UTF-8"
            )
            self.assertEqual(str(error), text)

    def test_out_of_memory(self) -> None:
        """An error that is not about the file's content is not reported as a mistake in
        the file.
        """

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
        """Whether a file exists; if that cannot be found out, there is an error of one line."""
        self.assertTrue(is_there(Path(__file__)))
        self.assertFalse(is_there(Path(__file__).with_name("none")))
        self.assertFalse(is_there(Path(__file__) / "none"))
        long = Path("/", "a" * 300)
        self.assertEqual(
            str(self.assertRaises(ConfigurationError, is_there, long)),
            f"{long}: File name too long",
        )
