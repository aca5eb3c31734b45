"""Runs verbs of ``rtprov`` in memory: no process, no socket, and a virtual clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from attrs import define, field
from click.testing import CliRunner, Result
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from rtprov.cli.failures import VerbFailed
from rtprov.cli.https import client_to, reason
from rtprov.cli.main import main
from rtprov.cli.process import Network, Work, complain
from rtprov.cli.profile import Profile
from rtprov.network.hosts import host_and_port
from tests.support.fake_front_end import FakeFrontEnd
from tests.support.memory import MemoryNetwork

EPOCH = 1_800_000_000.0
URL = "https://b"
LIMIT_S = 4000.0


@define
class MemoryProcess:
    """A `rtprov.cli.process.Processes` on a `MemoryNetwork`. `at_start` is called when it runs."""

    network: MemoryNetwork
    clock: Clock
    home: Path
    environ: Mapping[str, str] = field(factory=dict)
    profiles: list[Profile] = field(factory=list)
    at_start: Callable[[], None] = lambda: None

    @property
    def reactor(self) -> Clock:
        return self.clock

    def now(self) -> float:
        return EPOCH + self.clock.seconds()

    def http(self, profile: Profile) -> tuple[HTTPClient, Callable[[BaseException], str]]:
        self.profiles.append(profile)
        host, _ = host_and_port(profile.url)
        return client_to(self.network.connect(host), cast("IReactorTime", self.clock)), reason

    def run(self, work: Work) -> int:
        running = Deferred.fromCoroutine(work(cast("Network", self)))
        self.at_start()
        self.network.until(lambda: bool(running.called), LIMIT_S)
        outcome: list[Any] = []
        running.addBoth(outcome.append)
        (result,) = outcome
        if not isinstance(result, Failure):
            return cast("int", result)
        if not isinstance(result.value, VerbFailed):
            result.raiseException()
        complain(str(result.value))
        return result.value.status


class VerbTestCase(SynchronousTestCase):
    """Runs verbs against `front`, a `FakeFrontEnd` at "b"."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.process = MemoryProcess(self.network, self.clock, self.folder)
        self.front = FakeFrontEnd()
        self.site = Site(self.front, reactor=self.clock)
        self.network.listen("b").listen(self.site)
        self.addCleanup(self._end)

    def _end(self) -> None:
        self.network.advance(400)

    def invoke(self, *arguments: str, text: str | bytes | None = None) -> Result:
        """Run a verb with the URL of the front end; return its result."""
        environ = {"RTPROV_API_URL": URL, **self.process.environ}
        self.process.environ = environ
        return CliRunner().invoke(main, arguments, obj=self.process, input=text, env=environ)

    def verb(self, *arguments: str, status: int = 0, text: str | bytes | None = None) -> str:
        """Run a verb, which must end with `status`; return its standard output."""
        done = self.invoke(*arguments, text=text)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        self.assertEqual(done.exit_code, status, done.output)
        self.errors = done.stderr
        return done.stdout
