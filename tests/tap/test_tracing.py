"""The last spans are exported when a process stops, and delay its end by 2 s at most."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.sdk.trace import TracerProvider
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import provider

from rtprov.tap.tracing import WAIT_S, Tracing


class Provider(TracerProvider):
    """Counts its shutdowns, which fail with `error` if that is set."""

    def __init__(self) -> None:
        super().__init__(shutdown_on_exit=False)
        self.shutdowns = 0
        self.error: Exception | None = None

    def shutdown(self) -> None:
        self.shutdowns += 1
        if self.error is not None:
            raise self.error


class Stopping(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.provider = Provider()
        self.threads: list[Callable[[], None]] = []
        self.tracing = Tracing(
            self.provider,
            clock=self.clock,
            run_in_thread=self.threads.append,
            call_from_thread=lambda function, *args: function(*args),
        )
        self.tracing.startService()

    def logged(self) -> list[str]:
        """Return the list to which the texts of the log are added from now on."""
        texts: list[str] = []

        @provider(ILogObserver)
        def observe(event: LogEvent) -> None:
            texts.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return texts

    def test_exported(self) -> None:
        """The stop ends when the spans are exported, on a thread. No timer is left."""
        stopped = self.tracing.stopService()
        self.assertEqual(self.provider.shutdowns, 0)
        self.assertNoResult(stopped)
        self.threads.pop()()
        self.successResultOf(stopped)
        self.assertEqual(self.provider.shutdowns, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_silent_collector(self) -> None:
        """The stop ends after 2 s if the export does not end. A later end changes nothing."""
        texts = self.logged()
        stopped = self.tracing.stopService()
        self.clock.advance(WAIT_S - 0.01)
        self.assertNoResult(stopped)
        self.clock.advance(0.01)
        self.successResultOf(stopped)
        self.assertIn("the last spans were not exported within 2 s", texts[0])
        self.provider.error = ValueError("late")
        self.threads.pop()()
        self.assertEqual(len(texts), 1)

    def test_stop_now(self) -> None:
        """`stop_now` ends the wait. The export has begun."""
        stopped = self.tracing.stopService()
        self.tracing.stop_now()
        self.successResultOf(stopped)
        self.threads.pop()()
        self.assertEqual(self.provider.shutdowns, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_now_before_the_stop(self) -> None:
        """After `stop_now`, the later stop does not wait, but begins the export."""
        self.tracing.stop_now()
        self.successResultOf(self.tracing.stopService())
        self.threads.pop()()
        self.assertEqual(self.provider.shutdowns, 1)

    def test_failure(self) -> None:
        """A failed export fails the stop, so that it is logged."""
        self.provider.error = ValueError("no")
        stopped = self.tracing.stopService()
        self.threads.pop()()
        self.failureResultOf(stopped, ValueError)
