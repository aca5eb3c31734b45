"""Hosts in options: which are valid."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.client.url import BrokerUrl
from rtprov.errors import ConfigurationError
from rtprov.network.hosts import bracketed, parse_host, parse_https_url

ANY = {
    "localhost": "localhost",
    "A.Example": "a.example",
    "a.example.": "a.example.",
    "my_rabbit": "my_rabbit",
    "_rabbit-1.default.svc": "_rabbit-1.default.svc",
    "xn--bcher-kva.example": "xn--bcher-kva.example",
    "Bücher.example": "xn--bcher-kva.example",
    "почта.example": "xn--80a1acny.example",
    "a" * 63: "a" * 63,
    "1a": "1a",
    "1.2.3.a": "1.2.3.a",
    "127.0.0.1": "127.0.0.1",
    "::1": "::1",
    "FE80:0::1": "fe80::1",
}
NONE = (
    *(
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a b",
        "a\n",
        "a/b",
        "a:b",
        "*",
        "*.example",
        "a@b",
        "-a",
        "a-",
        "a.-b",
        "a" * 64,
        ".".join(["a" * 60] * 5),
    ),
    *(
        "127.1",
        "10.0.0.300",
        "1.2.3.4.5",
        "2130706433",
        "0x7f000001",
        "127.0.0.0x1",
        "127.0.0.1.",
        "1.2.3",
        "::1::",
        "[::1]",
        "1:2",
    ),
    *("xn--\udcff", "ü" * 64, "a\0", "a%20b", "\u2100", "ﬁ\u200b.example."),
)


class Hosts(SynchronousTestCase):
    def test_accepted(self) -> None:
        """Addresses, names, names with underscores and international names are accepted, and
        converted to lower case and ASCII.
        """
        for text, expected in ANY.items():
            for verified in (True, False):
                self.assertEqual(parse_host(text, verified=verified), expected)

    def test_refused(self) -> None:
        """A host that can be neither looked up nor verified is refused. The error does not repeat
        it, because it may be part of a password.
        """
        for text in NONE:
            error = self.assertRaises(ValueError, parse_host, text, verified=False)
            self.assertNotIn("\n", str(error))
            if len(text) > 5:
                self.assertNotIn(text, str(error))

    def test_zone(self) -> None:
        """An address with a zone is accepted, unless a certificate must contain it."""
        self.assertEqual(parse_host("fe80::1%eth0", verified=False), "fe80::1%eth0")
        error = self.assertRaises(ValueError, parse_host, "fe80::1%eth0", verified=True)
        self.assertIn("a certificate cannot contain", str(error))

    def test_bracketed(self) -> None:
        """Only IPv6 addresses may be in brackets."""
        self.assertEqual(
            [bracketed(host) for host in ("::1", "127.0.0.1", "a")], ["[::1]", "127.0.0.1", "a"]
        )


class EquipmentUrls(SynchronousTestCase):
    def test_accepted(self) -> None:
        """Host, port and path are kept, without a slash at the end."""
        for text, expected in {
            "https://localhost:8444": "https://localhost:8444",
            "HTTPS://A.Example/": "https://a.example",
            "https://a.example.:443/b/c//": "https://a.example.:443/b/c",
            "https://[::1]:8444": "https://[::1]:8444",
            "https://[FE80::1]/a%20b": "https://[fe80::1]/a%20b",
            "https://my_a": "https://my_a",
            "https://a/ü%20'(x)": "https://a/%C3%BC%20'(x)",
            "https://m%79%5Fa": "https://my_a",
            "https://Bücher.example": "https://xn--bcher-kva.example",
        }.items():
            self.assertEqual(parse_https_url(text), expected)

    def test_refused(self) -> None:
        """Everything else is refused with one line that says what is expected."""
        for text in (
            *(
                "",
                "localhost:8444",
                "http://a",
                "https://",
                "https:///a",
                "https://:443",
                "ftp://a",
                "https//a",
                "https:a",
            ),
            *(
                "https://u@a",
                "https://u:p@a",
                "https://a?",
                "https://a?b=c",
                "https://a#",
                "https://a#b",
                "https://@a",
            ),
            *(
                "https://a:",
                "https://a:/",
                "https://[::1]:",
                "https://a:0",
                "https://a:65536",
                "https://a:-1",
                "https://a:b",
                "https://a: 1",
                "https://a:１",
            ),
            *(
                "https://[::1",
                "https://[::1%25eth0]",
                "https://[::1%eth0]",
                "https://::1",
                "https://[a]",
                "https://[1.2.3.4]",
            ),
            *(
                "https://a b",
                "https://a/b c",
                "https://a/\n",
                " https://a",
                "https://a\t",
                "https://a%ff",
                "https://a%00",
                "https://a%2Fb",
            ),
            *(
                "https://127.1",
                "https://*.example",
                "https://a..b",
                "https://a/%zz",
                "https://a/%",
                "https://a/%ff",
                "https://a\\b",
            ),
        ):
            error = self.assertRaises(ValueError, parse_https_url, text)
            self.assertTrue(str(error))
            self.assertNotIn("\n", str(error))


class BrokerUrls(SynchronousTestCase):
    def test_accepted(self) -> None:
        """The broker's host may be any host that can be looked up and, for TLS, verified. It may be
        percent-encoded.
        """
        for text, host, port in (
            ("amqp://my_rabbit", "my_rabbit", 5672),
            ("amqps://my_rabbit/", "my_rabbit", 5671),
            ("amqp://my%5Frabbit:1/", "my_rabbit", 1),
            ("amqp://Rabbit.Example.:5672", "rabbit.example.", 5672),
            ("amqp://b%C3%BCcher.example", "xn--bcher-kva.example", 5672),
            ("amqp://[fe80::1%25eth0]:5672", "fe80::1%eth0", 5672),
            ("amqps://[::1]", "::1", 5671),
        ):
            url = BrokerUrl.parse(text)
            self.assertEqual((url.host, url.port), (host, port), text)
            self.assertEqual(BrokerUrl.parse(str(url)).host, host)

    def test_refused(self) -> None:
        """An invalid host or port is refused at once, not at each attempt to connect."""
        for text in (
            "amqp://joe:sesame@a..b",
            "amqp://joe:sesame@*",
            "amqps://joe:sesame@[fe80::1%25eth0]",
            "amqp://joe:sesame@a:0",
            "amqp://127.1",
        ):
            error = self.assertRaises(ConfigurationError, BrokerUrl.parse, text)
            self.assertNotIn("sesame", str(error))
