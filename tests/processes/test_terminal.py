"""``rtprov`` in a real terminal, in a pipe, and with ``NO_COLOR``, against a front end over TLS."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import sys
import termios
from typing import Any, cast

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint, wrapServerTLS
from twisted.internet.protocol import ProcessProtocol
from twisted.web.server import Site

from rtprov.security.certificates import server_options
from rtprov.security.development import make_development_set
from tests.support.fake_front_end import Canned, FakeFrontEnd, task_document
from tests.support.processes import ProcessTestCase

reactor = cast("Any", _reactor)
COLUMNS, LINES = 80, 24
_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[()].)")
_COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38;\d|4[0-7])")
# A background job ignores SIGINT, and so do its children, unless it is set back.
_SHELL = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    "os.execv('/bin/sh', sys.argv[1:])"
)
_SHOW_CURSOR, _LEAVE_SCREEN = "\x1b[?25h", "\x1b[?1049l"


class Terminal(ProcessProtocol):
    """A child in a terminal of 80 columns, or with pipes."""

    def __init__(self) -> None:
        self.output = ""
        self.ended: Deferred[None] = Deferred()
        self._wanted: list[tuple[str, Deferred[None]]] = []

    def shows(self, words: str) -> Deferred[None]:
        """Fire when the output has these words. Fail if the process ends before."""
        found: Deferred[None] = Deferred()
        self._wanted.append((words, found))
        self._look()
        return found

    def press(self, keys: bytes) -> None:
        assert self.transport is not None
        self.transport.write(keys)

    def _look(self) -> None:
        for wanted in list(self._wanted):
            if wanted[0] in self.output:
                self._wanted.remove(wanted)
                wanted[1].callback(None)

    # Called by Twisted.

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self.output += data.decode("utf-8", "replace")
        self._look()

    def processEnded(self, reason: object) -> None:
        for words, found in self._wanted:
            found.errback(AssertionError(f"ended without showing {words!r}: {self.output!r}"))
        self.ended.callback(None)


class TerminalTestCase(ProcessTestCase):
    async def setUp(self) -> None:  # type: ignore[override] # trial waits for it
        super().setUp()
        certs = self.folder / "certs"
        make_development_set(certs)
        self.front = FakeFrontEnd()
        self.front.tasks = [task_document(number, reason="long " * 40) for number in range(3)]
        options = server_options(certs / "frontend.pem", certs / "frontend.key")
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        self.port = await wrapServerTLS(options, endpoint).listen(Site(self.front))
        self.addCleanup(self.port.stopListening)

    def rtprov(self, *arguments: str, terminal: bool = True, **environ: str) -> Terminal:
        """Run a verb under a shell, which then shows the exit status and the terminal's modes."""
        child = Terminal()
        script = 'trap : INT; "$@"; echo "status=$?"'
        if terminal:
            script += "; stty -a"
        variables = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(each for each in sys.path if each),
            "HOME": str(self.folder),
            "TERM": "xterm-256color",
            "LC_ALL": "C.UTF-8",
            "RTPROV_API_URL": f"https://localhost:{cast('Any', self.port.getHost()).port}",
            **environ,
        }
        verb = [sys.executable, "-m", "rtprov.cli", *arguments]
        command = [sys.executable, "-c", _SHELL, "sh", "-c", script, "sh", *verb]
        process = reactor.spawnProcess(
            child, command[0], command, variables, str(self.folder), usePTY=terminal
        )
        if terminal:
            size = struct.pack("HHHH", LINES, COLUMNS, 0, 0)
            fcntl.ioctl(process.fd, termios.TIOCSWINSZ, size)
        return child

    def assert_as_before(self, child: Terminal, status: int) -> None:
        """Check the exit status, and that the terminal is as before."""
        self.assertIn(f"status={status}", child.output)
        self.assertRegex(child.output, r"[ ;]icanon")
        self.assertRegex(child.output, r"[ ;]echo[ ;]")
        if "\x1b[?25l" in child.output:
            self.assertGreater(child.output.rindex(_SHOW_CURSOR), child.output.rindex("\x1b[?25l"))


class Top(TerminalTestCase):
    async def test_quit(self) -> None:
        """top fills the screen, follows events, and leaves the terminal as it was at q."""
        child = self.rtprov("top")
        await child.shows("812")
        self.front.send("task", task_document(7))
        await child.shows("ABC000007")
        child.press(b"q")
        await child.ended
        self.assertIn("\x1b[?1049h", child.output)
        self.assertIn(_LEAVE_SCREEN, child.output)
        self.assert_as_before(child, 0)

    async def test_interrupt(self) -> None:
        """Ctrl-C ends it with 130, and the terminal is as it was."""
        child = self.rtprov("top")
        await child.shows("812")
        child.press(b"\x03")
        await child.ended
        self.assertIn(_LEAVE_SCREEN, child.output)
        self.assert_as_before(child, 130)
        self.assertNotIn("Traceback", child.output)

    async def test_pipe(self) -> None:
        """top needs a terminal, and says what to use without one."""
        child = self.rtprov("top", terminal=False)
        await child.ended
        self.assertIn("rtprov: top needs a terminal; use `rtprov summary`", child.output)
        self.assertIn("status=2", child.output)


class Output(TerminalTestCase):
    async def test_terminal(self) -> None:
        """On a terminal a table has colours and is no wider than the terminal."""
        child = self.rtprov("tasks")
        await child.ended
        self.assertRegex(child.output, _COLOUR)
        table = _ESCAPE.sub("", child.output).partition("status=")[0].splitlines()
        self.assertEqual(len(table), 4)
        self.assertLessEqual(max(map(len, table)), COLUMNS)
        self.assertIn("ABC000001  failed", table[2])
        self.assert_as_before(child, 0)

    async def test_no_color(self) -> None:
        """NO_COLOR turns colours off."""
        child = self.rtprov("tasks", NO_COLOR="1")
        await child.ended
        self.assertNotRegex(child.output, _COLOUR)
        self.assertIn("ABC000001", child.output)

    async def test_pipe(self) -> None:
        """In a pipe there are no colours, no progress bar, and nothing is cut."""
        child = self.rtprov("tasks", terminal=False)
        await child.ended
        self.assertNotIn("\x1b", child.output)
        self.assertIn("long " * 39, child.output)

    async def test_progress(self) -> None:
        """wait shows a bar on a terminal, and Ctrl-C leaves it clean."""
        running = {"code": 204, "message": "Task is still running"}
        self.front.answers += [Canned(200, running, {"Retry-After": "1"})] * 500
        child = self.rtprov("wait", "ABC000001", "1" * 32)
        await child.shows("0/1")
        child.press(b"\x03")
        await child.ended
        self.assert_as_before(child, 130)
