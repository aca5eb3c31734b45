"""A real browser for tests: headless Chromium, driven by the Chrome DevTools Protocol.

    class Pages(BrowserTestCase):
        async def test_a_page(self) -> None:
            page = await self.open(f"https://localhost:{port}/ui/")
            await page.until("document.title === 'rtprov'")
            await page.press("Tab")

The protocol runs over two pipes to the browser, file descriptors 3 and 4: JSON messages that end in
a zero byte (``--remote-debugging-pipe``). So the test and the servers that it starts share one
reactor, and no driver and no port is needed. https://chromedevtools.github.io/devtools-protocol/.

Each test has a browser with an empty profile of its own. Everything that a page logs as an error,
and each violation of its Content-Security-Policy, fails the test, unless the test takes it from
`Page.complaints`.
"""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from tests.support.processes import ProcessTestCase, reactor

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--lang=en",
    "--remote-debugging-pipe",
]
COMMAND_TIMEOUT_S = 90.0
PATIENCE_S = 90.0
LOOK_EVERY_S = 0.05
COMMANDS_FD, EVENTS_FD = 3, 4
# Key codes for `Page.press`, and the text that a key enters.
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), "Escape": (27, ""), " ": (32, " ")}


class Browser(ProcessProtocol):
    """A process of Chromium. `ended` fires when it has ended."""

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()
        self._numbers = count(1)
        self._received = bytearray()
        self._answers: dict[int, Deferred[Any]] = {}
        self._listeners: dict[str, Callable[[str, Any], None]] = {}

    def listen(self, session: str, listener: Callable[[str, Any], None]) -> None:
        """Call `listener` with the name and the parameters of each event of a session."""
        self._listeners[session] = listener

    async def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Call a method of the protocol; return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        answer = self._answers[number] = Deferred()
        assert self.transport is not None
        self.transport.writeToChild(COMMANDS_FD, json.dumps(message).encode() + b"\0")
        answer.addTimeout(COMMAND_TIMEOUT_S, reactor)
        try:
            return await answer
        except TimeoutError:
            raise AssertionError(f"Chromium did not answer {method}") from None
        finally:
            self._answers.pop(number, None)

    def end(self) -> None:
        """Kill the browser."""
        assert self.transport is not None
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")

    # Called by Twisted.

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD != EVENTS_FD:
            return  # notes of Chromium about its surroundings
        self._received += data
        while b"\0" in self._received:
            message, _, self._received = self._received.partition(b"\0")
            self._take(json.loads(message))

    def _take(self, message: dict[str, Any]) -> None:
        if "id" not in message:
            listener = self._listeners.get(message.get("sessionId", ""))
            if listener is not None:
                listener(message["method"], message["params"])
            return
        answer = self._answers.get(message["id"])
        if answer is None or answer.called:
            return
        if "error" in message:
            answer.errback(AssertionError(f"Chromium answered {message['error']}"))
        else:
            answer.callback(message["result"])

    def processEnded(self, reason: Failure) -> None:
        for answer in list(self._answers.values()):
            if not answer.called:
                answer.errback(AssertionError("Chromium has ended"))
        self.ended.callback(None)


class Page:
    """One tab. `complaints` are the errors that the page has logged, `requested` the URLs that it
    has loaded or tried to load.
    """

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.complaints: list[str] = []
        self.requested: list[str] = []
        self.interrupted = False
        browser.listen(session, self._on_event)

    async def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol for this tab."""
        return await self._browser.call(method, self._session, **parameters)

    async def go(self, url: str) -> None:
        """Load a page, and wait until it has been loaded.

        Chromium stops loading when a network interface of the machine comes or goes. Then the page
        is loaded again.
        """
        self.interrupted = True
        while self.interrupted:
            self.interrupted = False
            await self.call("Page.navigate", url=url)
            await self.until(
                "document.readyState === 'complete' && location.href !== 'about:blank'"
            )

    async def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression; a promise is awaited."""
        answer = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def until(self, script: str, patience_s: float = PATIENCE_S) -> Any:
        """Wait until the value of an expression is true; return it, or True for an object.

        An expression that raises an error counts as false.
        """
        looked = (
            f"(() => {{ try {{ const it = {script}; return it instanceof Object ? true : it }}"
            " catch { return null } })()"
        )
        ends = reactor.seconds() + patience_s
        while True:
            value = await self.run(looked)
            if value:
                return value
            if reactor.seconds() > ends:
                shown = await self.run("document.body.innerText")
                raise AssertionError(
                    f"not within {patience_s:g} s: {script}\n{shown}\n{self.complaints}"
                )
            await deferLater(reactor, LOOK_EVERY_S)

    async def text(self, selector: str = "body") -> str:
        """Return what the first element that matches shows."""
        value = await self.run(f"document.querySelector({json.dumps(selector)}).innerText")
        assert isinstance(value, str)
        return value

    async def click(self, selector: str) -> None:
        """Click the first element that matches, as a script does."""
        await self.run(f"document.querySelector({json.dumps(selector)}).click()")

    async def type(self, text: str) -> None:
        """Enter a text where the focus is."""
        await self.call("Input.insertText", text=text)

    async def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key of `KEYS`."""
        code, text = KEYS[key]
        names = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code}
        modifiers = 8 if shift else 0
        kind = "keyDown" if text else "rawKeyDown"
        await self.call(
            "Input.dispatchKeyEvent", type=kind, text=text, modifiers=modifiers, **names
        )
        await self.call("Input.dispatchKeyEvent", type="keyUp", modifiers=modifiers, **names)

    async def look(
        self, *, width: int = 1280, height: int = 800, dark: bool = False, scale: float = 1.0
    ) -> None:
        """Set the size of the window, and the colour scheme that the user prefers."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme, still])

    async def picture(self, file: Path, *, whole: bool = False) -> None:
        """Write a screenshot as PNG: of the window, or of the `whole` page."""
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        write(file, base64.b64decode(shot["data"]))

    def _on_event(self, method: str, event: Mapping[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requested.append(event["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(event["exceptionDetails"].get("exception", event)))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning"):
            self.complaints.append(str([each.get("value") for each in event["args"]]))
        elif method == "Log.entryAdded" and event["entry"]["level"] == "error":
            if "ERR_NETWORK_CHANGED" in event["entry"]["text"]:
                self.interrupted = True
            else:
                self.complaints.append(event["entry"]["text"])


def write(file: Path, data: bytes) -> None:
    """Write a file."""
    file.write_bytes(data)


class BrowserTestCase(ProcessTestCase):
    """Tests with a browser; they are skipped where Chromium is not installed."""

    timeout = 400.0  # far more than any test needs on an idle machine
    if CHROMIUM is None:
        skip = "Chromium is not installed"

    def setUp(self) -> None:
        super().setUp()
        self.profile = Path(tempfile.mkdtemp(prefix="rtprov-chromium-"))
        self.addCleanup(shutil.rmtree, self.profile, ignore_errors=True)
        self._browser: Browser | None = None

    async def open(self, url: str) -> Page:
        """Return a new tab with a page."""
        page = await self.blank()
        await page.go(url)
        return page

    async def blank(self) -> Page:
        """Return a new, empty tab."""
        browser = self._browser = self._browser or self._start()
        target = await browser.call("Target.createTarget", url="about:blank")
        attached = await browser.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        page = Page(browser, attached["sessionId"])
        for domain in ("Page", "Runtime", "Network", "Log"):
            await page.call(f"{domain}.enable")
        # The development CA is not in the browser's store.
        await page.call("Security.setIgnoreCertificateErrors", ignore=True)
        await page.look()
        return page

    def _start(self) -> Browser:
        assert CHROMIUM is not None
        browser = Browser()
        reactor.spawnProcess(
            browser,
            CHROMIUM,
            [CHROMIUM, *FLAGS, f"--user-data-dir={self.profile}"],
            env={"HOME": str(self.profile), "PATH": "/usr/bin:/bin", "TZ": "UTC"},
            path=str(self.profile),
            childFDs={0: "w", 1: "r", 2: "r", COMMANDS_FD: "w", EVENTS_FD: "r"},
        )
        self.addCleanup(self._stop, browser)
        return browser

    async def _stop(self, browser: Browser) -> None:
        try:
            await browser.call("Browser.close")
        except (AssertionError, CancelledError):
            browser.end()
        await browser.ended

    def assertContent(self, page: Page, origin: str) -> None:
        """Check that the page has logged no error, and has loaded nothing from elsewhere."""
        self.assertEqual(page.complaints, [])
        self.assertTrue(page.requested)
        elsewhere = [
            url for url in page.requested if not url.startswith((f"{origin}/", "data:", "blob:"))
        ]
        self.assertEqual(elsewhere, [])
