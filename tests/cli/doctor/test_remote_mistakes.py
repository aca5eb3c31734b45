"""Mistakes that ``rtprov doctor`` finds at service B, the broker and service A."""

from __future__ import annotations

import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rtprov import __version__
from rtprov.cli.doctor.connections import broker, broker_url
from rtprov.cli.doctor.finding import Finding, Level
from rtprov.cli.doctor.verb import brokers
from rtprov.errors import AmqpError, BrokerUnavailable
from tests.support.doctor_case import DoctorTestCase
from tests.support.fake_front_end import Canned

NO_TASK = Canned(404, {"code": 404, "message": "The requested task is not found"})


class ServiceB(DoctorTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.answer()

    def answer(
        self,
        ready: Canned | None = None,
        version: str = __version__,
        task: Canned = NO_TASK,
        skew_s: float = 0.0,
    ) -> None:
        """Set the answers to the three questions of the doctor."""
        date = {"Date": formatdate(time.time() + skew_s, usegmt=True)}
        ready = ready or Canned(200, {"code": 200, "message": "Ready"}, date)
        openapi = Canned(200, {"openapi": "3.1.0", "info": {"version": version}})
        self.front.answers.clear()
        self.front.answers += [ready, openapi, task]

    def finds(self, check: str, words: str, *options: str, level: str = "error") -> None:
        found = self.diagnose("--url", "https://b", *options, status=1 if level == "error" else 0)
        self.assertEqual([each["check"] for each in found], [check], found)
        self.assertIn(words, found[0]["message"])

    def test_nothing_listens(self) -> None:
        """The front end is not started, or the URL is another one."""
        self.network.factories.clear()
        self.finds("service B", "nothing listens on")

    def test_not_rtprov(self) -> None:
        """The URL leads to a web server."""
        self.answer(ready=Canned(200, b"<html></html>"))
        self.finds("service B", "is not JSON")

    def test_other_json(self) -> None:
        """The URL leads to another service that speaks JSON."""
        documents: list[Any] = [{"info": []}, {}, [], None]
        for document in documents:
            self.answer()
            self.front.answers[1] = Canned(200, document)
            self.finds("service B", "is another service")

    def test_redirection(self) -> None:
        """A proxy in front of service B redirects to its page for logging in."""
        self.answer(ready=Canned(302, b"", {"Location": "https://sso.example/"}))
        self.finds("service B", "a redirection (HTTP 302) to https://sso.example/")

    def test_no_worker(self) -> None:
        """No worker answers for a shard."""
        self.answer(ready=Canned(503, {"code": 503, "message": "No worker answers for 0of1"}))
        self.finds("service B", "No worker answers for 0of1")

    def test_unknown_token(self) -> None:
        """The token was revoked."""
        self.answer(task=Canned(401, {"code": 401, "message": "The token is unknown"}))
        self.finds("log-in", "The token is unknown")

    def test_clock(self) -> None:
        """The clocks differ."""
        self.answer(skew_s=-90.0)
        self.finds("clock", "s behind this machine's")

    def test_version(self) -> None:
        """The front end was not upgraded."""
        self.answer(version="0.0.1")
        self.finds("version", "runs rtprov 0.0.1", level="warning")

    def test_plain_service_a(self) -> None:
        """The URL of service A is not https://."""
        self.finds("service A", "expected an https:// URL", "--equipment-url", "http://a")

    def test_variables_of_one_command(self) -> None:
        """Service A, and brokers, are those of single commands; different brokers count each."""
        found = self.diagnose(
            *("--url", "https://b"),
            RTPROV_WORKER_EQUIPMENT_URL="http://a",
            RTPROV_FRONTEND_BROKER="http://one",
            RTPROV_WORKER_BROKER="http://two",
        )
        self.assertEqual(
            [(each["check"], each["about"]) for each in found],
            [
                ("broker URL", "$RTPROV_FRONTEND_BROKER"),
                ("broker URL", "$RTPROV_WORKER_BROKER"),
                ("service A", "http://a"),
            ],
        )

    def test_service_a_away(self) -> None:
        """Service A cannot be reached."""
        self.finds("service A", "nothing listens on", "--equipment-url", "https://a")


class BrokerUrl(DoctorTestCase):
    def url(self, text: str) -> list[tuple[Level, str]]:
        return [(each.level, each.message) for each in broker_url(text, "$RTPROV_BROKER")]

    def test_management_port(self) -> None:
        """The port is that of RabbitMQ's web page."""
        ((level, message),) = self.url("amqp://u:p@localhost:15672/")
        self.assertEqual((level, "management" in message), (Level.ERROR, True))

    def test_port_of_the_other_scheme(self) -> None:
        """amqp:// is used with the port of TLS."""
        ((level, message),) = self.url("amqp://u:p@localhost:5671/")
        self.assertEqual((level, "usual for amqps://" in message), (Level.WARNING, True))

    def test_clear_text(self) -> None:
        """The password crosses the network in clear text."""
        ((level, message),) = self.url("amqp://u:p@broker.example/")
        self.assertEqual((level, "clear text" in message), (Level.WARNING, True))
        self.assertEqual(self.url("amqp://u:p@127.0.0.1/"), [])

    def test_guest(self) -> None:
        """The user guest logs in over the network."""
        ((level, message),) = self.url("amqps://broker.example/")
        self.assertEqual((level, "guest" in message), (Level.ERROR, True))

    def test_scheme(self) -> None:
        """The URL is that of a web page."""
        ((level, message),) = self.url("https://broker.example/")
        self.assertEqual((level, "amqp://" in message), (Level.ERROR, True))

    def test_several_lines(self) -> None:
        """The broker's file has a comment."""
        file = self.folder / "broker"
        file.write_text("# url\namqp://localhost/\n")
        found = self.diagnose("--url", "https://b", "--broker-file", str(file))
        self.assertIn("expected one line", str(found))


class Brokers(SynchronousTestCase):
    def test_variables(self) -> None:
        """Each broker counts once. A file counts before the URL, and --broker-file alone."""
        environ = {
            "RTPROV_FRONTEND_BROKER": "amqp://b",
            "RTPROV_WORKER_BROKER_FILE": "url",
            "RTPROV_WORKER_BROKER": "amqp://c",
            "RTPROV_BROKER": "amqp://b",
        }
        both = {"amqp://b": "$RTPROV_FRONTEND_BROKER", Path("url"): "url"}
        self.assertEqual(brokers(None, environ), both)
        self.assertEqual(brokers(Path("given"), environ), {Path("given"): "given"})
        self.assertEqual(brokers(None, {"RTPROV_BROKER": ""}), {})


class Broker(DoctorTestCase):
    def finding(self, error: Exception) -> Finding:
        async def connect() -> str:
            raise error

        return self.successResultOf(Deferred.fromCoroutine(broker("$RTPROV_BROKER", connect)))

    def test_password(self) -> None:
        """The password is wrong."""
        found = self.finding(AmqpError(403, "ACCESS_REFUSED - Login was refused"))
        self.assertIn("correct the user and the password", found.advice)

    def test_virtual_host(self) -> None:
        """The virtual host was not made."""
        found = self.finding(AmqpError(530, "NOT_ALLOWED - vhost rtprov not found"))
        self.assertIn("make the virtual host", found.advice)

    def test_away(self) -> None:
        """The broker is not started."""
        found = self.finding(BrokerUnavailable("Could not connect to amqp://localhost:5672/"))
        self.assertIn("start the broker", found.advice)
