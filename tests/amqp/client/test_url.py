"""Broker URLs, and the endpoints made from them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtprov.amqp.client.url import BrokerUrl
from rtprov.errors import ConfigurationError


class ParseTests(SynchronousTestCase):
    def test_whole(self) -> None:
        """Every part is used, and percent-decoded."""
        url = BrokerUrl.parse("amqps://us%40er:p%2Fa%3As%23%25@broker.example:1234/%2Fv%20h")
        self.assertEqual(url, BrokerUrl("broker.example", 1234, "us@er", "p/a:s#%", "/v h", True))

    def test_defaults(self) -> None:
        """Missing parts have the same defaults as for RabbitMQ's clients."""
        self.assertEqual(
            BrokerUrl.parse("amqp://broker"),
            BrokerUrl("broker", 5672, "guest", "guest", "/", False),
        )
        self.assertEqual(BrokerUrl.parse("amqps://broker").port, 5671)
        self.assertEqual(BrokerUrl.parse("amqp://joe@broker").password, "")

    def test_virtual_host(self) -> None:
        """No path and `/` both mean the virtual host `/`. Otherwise it is the path,
        percent-decoded.
        """
        for path, expected in (
            ("", "/"),
            ("/", "/"),
            ("/%2F", "/"),
            ("/%2f", "/"),
            ("/a", "a"),
            ("//", "/"),
            ("/a%2Fb", "a/b"),
            ("/%20", " "),
            ("\n", "/"),
            ("/a\r\n", "a"),
            ("/%D0%96", "Ж"),
        ):
            self.assertEqual(BrokerUrl.parse(f"amqp://broker{path}").virtual_host, expected)

    def test_ip6(self) -> None:
        """An IPv6 address is written in brackets."""
        url = BrokerUrl.parse("amqp://[::1]:5673/")
        self.assertEqual((url.host, url.port), ("::1", 5673))
        self.assertEqual(str(url), "amqp://guest@[::1]:5673/")

    def test_certificate(self) -> None:
        """A client certificate logs in if the URL names no user. It needs TLS."""
        url = BrokerUrl.parse("amqps://broker/v").with_certificate()
        self.assertTrue(url.external)
        self.assertEqual(str(url), "amqps://broker:5671/v")
        named = BrokerUrl.parse("amqps://joe:sesame@broker/v")
        self.assertEqual(named.with_certificate(), named)
        self.assertNotEqual(url, BrokerUrl.parse("amqps://broker/v"))
        error = self.assertRaises(
            ConfigurationError, BrokerUrl.parse("amqp://joe:sesame@broker/").with_certificate
        )
        self.assertIn("its URL does not begin with amqps://", str(error))
        self.assertNotIn("sesame", str(error))

    def test_no_password_shown(self) -> None:
        """Neither `str` nor `repr` shows the password."""
        url = BrokerUrl.parse("amqp://joe:sesame@broker/v")
        self.assertEqual(str(url), "amqp://joe@broker:5672/v")
        self.assertNotIn("sesame", repr(url))

    def test_wrong(self) -> None:
        """An invalid broker URL is refused with one line that does not contain the password."""
        for text in (
            "",
            "broker",
            "http://joe:sesame@broker",
            "amqp://",
            "amqp://joe:sesame@/",
            "amqp://joe:sesame@broker:port/",
            "amqp://joe:sesame@broker:70000/",
            "amqp://joe:sesame@[broker/",
            "amqp://joe:sesame@broker/v?heartbeat=5",
            "amqp://joe:sesame@broker/v#x",
            "amqp://joe:sesame%FF@broker/",
            "amqp://joe:sesame%00@broker/",
            "amqp://joe:sesame/1@broker/",
            *(
                f"amqp://joe:sesame@broker{path}"
                for path in ("/ ", "/v/", "/a/b", "///", "/%00", "/%", "/%2", "/%zz", "/a\tb")
            ),
            " amqp://joe:sesame@broker/",
            *(
                f"amqp://joe:sesame{rest}@broker/"
                for rest in ("\t1", "\n1", "\r1", " 1", "\x7f1", "%zz", "%")
            ),
            "amqp://joe:sesame@broker/" + "v" * 128,
            "amqp://joe:/sesame@broker",
            "amqp://joe:12/sesame@broker/v",
            "amqp://joe:12/sesame?x@broker",
        ):
            error = self.assertRaises(ConfigurationError, BrokerUrl.parse, text)
            self.assertNotIn("sesame", str(error))
            self.assertNotIn("\n", str(error))

    def test_zone(self) -> None:
        """The zone of an IPv6 address may follow a percent sign, or %25 (RFC 6874)."""
        for zone in ("%lo", "%25lo"):
            self.assertEqual(BrokerUrl.parse(f"amqp://[fe80::1{zone}]/").host, "fe80::1%lo")
