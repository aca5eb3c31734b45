"""A test case that runs each test twice: on Twisted's way, and with the fast lane.

Both runs must pass, and must agree byte by byte in all answers, closes and log lines. Only the date
of an answer and the random secrets of sessions may differ. So every test of the web's packages is a
test of `rtprov.http.fast_lane`, with every byte stream that it sends.
"""

from __future__ import annotations

import re
from typing import cast
from unittest import TestResult

from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from rtprov.http.fast_lane import PlainRoutes

_DATE = re.compile(rb"\r\nDate: [^\r]+ GMT\r\n")
_SECRET = re.compile(rb'(session=|"csrfToken":")[A-Za-z0-9_-]{43}')


def comparable(received: bytes | bytearray) -> bytes:
    """Return the bytes of answers with one date, and with one secret for all sessions."""
    return _SECRET.sub(rb"\1-", _DATE.sub(b"\r\nDate: -\r\n", bytes(received)))


class BothWays(SynchronousTestCase):
    """Compares the two runs of each test.

    A test that sends its requests in pieces runs once: no request arrives as a whole. `said` is
    called at the end of a test.
    """

    piece: int | None = None
    fast_lane = True
    _expected: list[object] | None = None
    _problems = ""

    def said(self) -> list[object]:
        """Return what the clients have received, to be compared."""
        raise NotImplementedError

    def run(self, result: TestResult | None = None) -> TestResult | None:
        if self.fast_lane and self.piece is None:
            other, outcome = type(self)(self.id().rpartition(".")[2]), TestResult()
            other.fast_lane = False
            other.run(outcome)
            self._problems = "\n".join(text for _, text in outcome.failures + outcome.errors)
            self._expected = other._transcript
        return cast("TestResult | None", super().run(result))

    def setUp(self) -> None:
        self._lines: list[str] = []
        self._transcript: list[object] = []
        observer = cast("ILogObserver", self._note)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(self._compare)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        if not self.fast_lane:
            self.patch(PlainRoutes, "handler", lambda *_: None)

    def _note(self, event: LogEvent) -> None:
        failure = event.get("log_failure")
        self._lines.append(f"{event['log_namespace']}: {formatEvent(event)}")
        if failure is not None:
            self._lines.append(f"{failure.type.__name__}: {failure.value}")

    def _compare(self) -> None:
        self._transcript = [*self.said(), *self._lines]
        self.assertEqual(self._problems, "", "the test fails without the fast lane")
        if self._expected is not None:
            self.assertEqual(self._transcript, self._expected, "the fast lane answers differently")
