"""``--broker-file``: what may stand in it, and what becomes of a change."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from rtprov.amqp.client.url import BrokerUrl
from rtprov.errors import ConfigurationError
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
    def test_right(self) -> None:
        """One line with the URL, as editors and secret stores write it."""
        for content in (TEXT, f"{TEXT}\n", f"\ufeff{TEXT}\r\n", f"\n  {TEXT}  \n\n"):
            self.file.write_text(content)
            self.assertEqual(read_broker_url(self.file), URL)

    def test_wrong(self) -> None:
        """Anything else is one line that names the file and shows nothing of it."""
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
    """Keeps where it is sent."""

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
        """Without a file the option counts, and nothing is watched."""
        self.assertEqual(self.follow(None).url, URL)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_changed(self) -> None:
        """Another URL is followed within seconds; the same one again is not."""
        self.assertEqual(self.follow(self.file).url, URL)
        self.file.write_text(f"{TEXT}\n")
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual(self.connection.urls, [])
        self.file.write_text("amqp://joe:other@elsewhere/v")
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual(self.connection.urls, [BrokerUrl.parse("amqp://joe:other@elsewhere/v")])

    def test_mistake(self) -> None:
        """A file that is no good is told of, without what it holds, and the URL of before stays."""
        self.follow(self.file)
        # there is no CA for the second
        for content in ("sesame\n", "amqps://joe:sesame@elsewhere/"):
            self.file.write_text(content)
            with capturedLogs() as events:
                self.clock.advance(LOOK_EVERY_S)
            self.assertEqual([event["what"] for event in events], ["broker's URL"])
            self.assertNotIn("sesame", repr(events))
        self.assertEqual(self.connection.urls, [])
