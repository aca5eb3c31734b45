"""``--broker-file``: valid contents, and changes of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from rtprov.amqp.client.url import BrokerUrl
from rtprov.errors import ConfigurationError
from rtprov.security.development import make_development_set
from rtprov.tap.broker_file import BrokerRoute, read_broker_url
from rtprov.tap.reloading import LOOK_EVERY_S
from tests.support.command_files import FilesTestCase

TEXT = "amqp://joe:sesame@broker/v"
URL = BrokerUrl.parse(TEXT)


class BrokerFileTestCase(FilesTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.file = self.certs.parent / "url"
        self.file.write_text(TEXT)


class Contents(BrokerFileTestCase):
    def test_one_url(self) -> None:
        """The file has one line with the URL. Blank lines, spaces and a byte order mark are
        ignored.
        """
        for content in (TEXT, f"{TEXT}\n", f"\ufeff{TEXT}\r\n", f"\n  {TEXT}  \n\n"):
            self.file.write_text(content)
            self.assertEqual(read_broker_url(self.file), URL)

    def test_invalid(self) -> None:
        """Any other content is an error of one line that names the file and shows none of the
        content.
        """
        contents = (
            "",
            "\n",
            f"{TEXT}\n{TEXT}\n",
            "sesame",
            "http://sesame@broker/",
            "amqp://joe:sesame@broker:0/",
        )
        for content in (
            *(text.encode() for text in contents),
            TEXT.encode("utf-16"),
            b"amqp://joe:\xff@broker/\0",
        ):
            self.file.write_bytes(content)
            text = str(self.assertRaises(ConfigurationError, read_broker_url, self.file))
            self.assertTrue(text.startswith(f"{self.file}: "), text)
            self.assertNotIn("sesame", text)
            self.assertNotIn("\n", text)
        self.file.unlink()
        self.assertRaises(ConfigurationError, read_broker_url, self.file)


class Connection:
    """Collects the URLs that it is redirected to."""

    def __init__(self) -> None:
        self.urls: list[BrokerUrl] = []

    def redirect(self, endpoint: object, url: BrokerUrl) -> None:
        self.urls.append(url)


class Changes(BrokerFileTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.connection = Connection()

    def follow(self, file: Path | None) -> BrokerRoute:
        route = BrokerRoute(
            URL, file, certs=self.certs, ca=None, clock=cast("IReactorTime", self.clock)
        )
        for service in route.follow(lambda: cast("Any", self.connection)):
            service.startService()
            self.addCleanup(service.stopService)
        return route

    def test_without_a_file(self) -> None:
        """Without a file the URL of the option is used, and no file is watched."""
        self.assertEqual(self.follow(None).url, URL)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_changed(self) -> None:
        """If the file has another URL, the connection is redirected within seconds. The same URL
        changes nothing.
        """
        self.assertEqual(self.follow(self.file).url, URL)
        self.file.write_text(f"{TEXT}\n")
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual(self.connection.urls, [])
        self.file.write_text("amqp://joe:other@elsewhere/v")
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual(self.connection.urls, [BrokerUrl.parse("amqp://joe:other@elsewhere/v")])

    def test_ca_after_the_url(self) -> None:
        """A URL for which the CA is still missing is used as soon as the CA is there."""
        route = self.follow(self.file)
        self.file.write_text("amqps://joe:sesame@elsewhere/")
        for _ in range(2):
            self.clock.advance(LOOK_EVERY_S)
        self.assertEqual(self.connection.urls, [])
        make_development_set(self.certs)
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual(self.connection.urls, [route.url])
        self.assertEqual(str(route.url), "amqps://joe@elsewhere:5671/")

    def test_mistake(self) -> None:
        """A file with a mistake is logged without its content, and the earlier URL stays in use."""
        self.follow(self.file)
        # For the second URL there is no CA.
        for content in ("sesame\n", "amqps://joe:sesame@elsewhere/"):
            self.file.write_text(content)
            with capturedLogs() as events:
                self.clock.advance(LOOK_EVERY_S)
            self.assertEqual([event["what"] for event in events], ["broker's URL"])
            self.assertNotIn("sesame", repr(events))
        self.assertEqual(self.connection.urls, [])
