"""Child processes that run twistd, an HTTP client for them, and a test case that cleans up both.

    stub = self.twistd("rtprov-stub", "--listen", ANY_PORT)
    port = await stub.port("service A (stub)")
    stub.signal("TERM")
    await stub.ended

A test waits for lines of a log, never for time to pass. No process, folder or connection outlives
its test.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from treq.client import HTTPClient
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.http_headers import Headers

import rtprov
from tests.support.system import REQUEST, Answer

reactor = cast("Any", _reactor)

ANY_PORT = "tcp:0:interface=127.0.0.1"
PASSWORDS = ("s3cr3t", "sesame")
POLL_EVERY_S = 0.1
# What the script twistd does. It need not be installed beside the interpreter.
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
TWIST = [sys.executable, "-c", "from twisted.application.twist._twist import Twist; Twist.main()"]


class Twistd(ProcessProtocol):
    """One child process. `ended` fires with its exit status, or with the negative number of the
    signal that ended it.
    """

    def __init__(self) -> None:
        self._out = bytearray()
        self._err = bytearray()
        self._waiting: list[tuple[re.Pattern[str], Deferred[re.Match[str]]]] = []
        self._enders: list[Deferred[int]] = []
        self.status: int | None = None

    @property
    def log(self) -> str:
        """What the process has written to standard output so far: twistd's log."""
        return self._out.decode("utf-8", "replace")

    @property
    def errors(self) -> str:
        """What the process has written to standard error so far."""
        return self._err.decode("utf-8", "replace")

    @property
    def ended(self) -> Deferred[int]:
        """Fires when the process has ended and all its output has been read."""
        ended: Deferred[int] = Deferred()
        if self.status is None:
            self._enders.append(ended)
        else:
            ended.callback(self.status)
        return ended

    def logged(self, pattern: str) -> Deferred[re.Match[str]]:
        """Fire when the log matches the regular expression. Fail if the process ends before."""
        found: Deferred[re.Match[str]] = Deferred()
        self._waiting.append((re.compile(pattern), found))
        self._look()
        return found

    async def port(self, what: str) -> int:
        """Return the port that `what` listens on."""
        return int((await self.logged(re.escape(what) + r" listens on 127\.0\.0\.1:(\d+)\n"))[1])

    def signal(self, name: str) -> None:
        """Send a signal, such as TERM."""
        assert self.transport is not None
        self.transport.signalProcess(signal.Signals[f"SIG{name}"])

    def say(self, data: bytes) -> None:
        """Write the complete standard input, and close it."""
        assert self.transport is not None
        self.transport.write(data)
        self.transport.closeStdin()

    # Called by Twisted.

    def outReceived(self, data: bytes) -> None:
        self._out += data
        self._look()

    def errReceived(self, data: bytes) -> None:
        self._err += data

    def processEnded(self, reason: Failure) -> None:
        error = reason.value
        if isinstance(error, ProcessTerminated):
            self.status = -error.signal if error.signal is not None else error.exitCode
        else:
            self.status = 0
        assert self.status is not None
        waiting, self._waiting = self._waiting, []
        for pattern, found in waiting:
            found.errback(
                AssertionError(
                    f"ended without logging {pattern.pattern!r}:\n{self.log}\n{self.errors}"
                )
            )
        enders, self._enders = self._enders, []
        for ended in enders:
            ended.callback(self.status)

    def _look(self) -> None:
        for entry in list(self._waiting):
            match = entry[0].search(self.log)
            if match is not None:
                self._waiting.remove(entry)
                entry[1].callback(match)


class Client:
    """An HTTPS client that trusts one CA, for a front end on this machine."""

    def __init__(self, ca: Path, port: int) -> None:
        self._url = f"https://localhost:{port}"
        self._pool = HTTPConnectionPool(reactor)
        policy = BrowserLikePolicyForHTTPS(
            trustRootFromCertificates([Certificate.loadPEM(ca.read_bytes())])
        )
        self._http = HTTPClient(Agent(reactor, contextFactory=policy, pool=self._pool))

    async def request(self, method: str, path: str, body: object = None, **fields: str) -> Answer:
        """Send a request. `fields` are header fields, with underscores instead of hyphens."""
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        headers = Headers({} if data is None else {"Content-Type": ["application/json"]})
        for name, value in fields.items():
            headers.setRawHeaders(name.replace("_", "-"), [value])
        response = await self._http.request(method, self._url + path, data=data, headers=headers)
        return Answer(response.code, response.headers, await response.content())

    async def post(self, equipment_id: str) -> Answer:
        return await self.request("POST", f"/api/v1/equipment/cpe/{equipment_id}", REQUEST)

    async def accepted(self, equipment_id: str) -> str:
        """POST a task, which must be accepted; return the path of its status."""
        answer = await self.post(equipment_id)
        assert answer.status == 200, answer
        location = answer.header("Location")
        assert location == f"/api/v1/equipment/cpe/{equipment_id}/task/{answer.json['taskId']}", (
            location
        )
        return location

    async def final(self, path: str) -> Answer:
        """Poll a status until the task is no longer running. Answers of 503 are passed over."""
        while True:
            answer = await self.request("GET", path)
            if answer.status != 503 and answer.json["code"] != 204:
                return answer
            await deferLater(reactor, POLL_EVERY_S)

    def close(self) -> Deferred[None]:
        return cast("Deferred[None]", self._pool.closeCachedConnections())


class ProcessTestCase(TestCase):
    """A test with a working folder of its own, and child processes in it."""

    timeout = 120.0  # far more than any test needs on an idle machine

    def setUp(self) -> Any:
        self.folder = Path(tempfile.mkdtemp(prefix="rtprov-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def twistd(
        self,
        command: str,
        *arguments: str,
        environment: dict[str, str] | None = None,
        pidfile: str = "",
    ) -> Twistd:
        """Start ``twistd -n COMMAND ARGUMENTS``."""
        return self.spawn([*TWISTD, "-n", f"--pidfile={pidfile}", command, *arguments], environment)

    def twist(self, command: str, *arguments: str) -> Twistd:
        """Start ``twist COMMAND ARGUMENTS``, with a log in twistd's format."""
        return self.spawn([*TWIST, "--log-format=text", command, *arguments])

    async def assert_refused(self, process: Twistd, line: str, status: int = 78) -> None:
        """Check that the process ends with this status, writes only this line (a regular
        expression) to standard error, and writes nothing else.
        """
        self.assertEqual(await process.ended, status, process.log + process.errors)
        self.assertRegex(process.errors, rf"\A{line}\n\Z")
        self.assertNotIn("Traceback", process.log)
        self.assertNotRegex(process.log, line)
        for password in PASSWORDS:
            self.assertNotIn(password, process.log)

    def spawn(self, arguments: list[str], environment: dict[str, str] | None = None) -> Twistd:
        """Start a program in the working folder. The project's modules are first on its path, and
        its environment has no other settings that would change its behaviour.
        """
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RTPROV_", "PYTHON", "COVERAGE_"))
        }
        inherited["PYTHONPATH"] = str(Path(rtprov.__file__).resolve().parent.parent)
        process = Twistd()
        reactor.spawnProcess(
            process,
            arguments[0],
            arguments,
            env=inherited | (environment or {}),
            path=str(self.folder),
        )
        self.addCleanup(self._kill, process)
        return process

    def client(self, port: int) -> Client:
        """Return a client of the front end on `port` that trusts the working folder's CA."""
        client = Client(self.folder / "certs" / "ca.pem", port)
        self.addCleanup(client.close)
        return client

    async def stop(self, process: Twistd, name: str = "TERM") -> None:
        """End a process with this signal, as an operator would, and check that it ends cleanly."""
        process.signal(name)
        status = await process.ended
        self.assertIn(status, (0, -signal.Signals[f"SIG{name}"]), process.log)
        self.assert_clean(process)

    def assert_clean(self, process: Twistd) -> None:
        """Check that the process logged no errors and no secrets."""
        self.assertEqual(process.errors, "")
        self.assertNotIn("Traceback", process.log)
        self.assertNotIn("Unhandled", process.log)
        for password in PASSWORDS:
            self.assertNotIn(password, process.log)

    def _kill(self, process: Twistd) -> Deferred[int]:
        ended = process.ended
        if process.status is None:
            process.signal("KILL")
        return ended
