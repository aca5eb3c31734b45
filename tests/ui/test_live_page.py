"""The page ``/ui/`` in Chromium, with a front end that has made-up data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rtprov.http.admission import Admission
from rtprov.security.tokens import Role, Token, new_token
from tests.support.chromium import BrowserTestCase, Page
from tests.support.live_front_end import LiveFrontEnd
from tests.support.processes import reactor

PICTURES = os.environ.get("RTPROV_PICTURES")
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
LIVE = "document.querySelector('#connection[data-state=live]')"
RULES = "{runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}"
VIOLATIONS = (
    f"axe.run(document, {RULES}).then(found => found.violations.flatMap(each =>"
    " each.nodes.map(node => `${each.id}: ${node.target} ${node.failureSummary}`)))"
)
# Nothing reaches out of the window to the right: only tables may, in regions that scroll.
TOO_WIDE = "document.documentElement.scrollWidth - innerWidth"


class LivePageTestCase(BrowserTestCase):
    """A front end for everybody, or for the tokens of `role`."""

    role: Role | None = None

    async def setUp(self) -> None:  # type: ignore[override] # trial waits for it
        super().setUp()
        self.secret = ""
        tokens: tuple[Token, ...] | None = None
        if self.role is not None:
            token, self.secret = new_token("shift", role=self.role)
            tokens = (token,)
        self.admission = Admission(now=reactor.seconds, wall_clock=reactor.seconds, tokens=tokens)
        self.front = LiveFrontEnd(self.admission)
        self.port = await self.front.listen()
        self.origin = f"https://localhost:{self.port}"
        self.addCleanup(self.front.down)

    async def live(self) -> Page:
        """Return the page, without log-in, once it follows the events."""
        page = await self.open(f"{self.origin}/ui/")
        await page.until(LIVE)
        return page

    async def logged_in(self) -> Page:
        """Return the page after a log-in with the token."""
        page = await self.open(f"{self.origin}/ui/")
        await page.until("document.activeElement.id === 'token'")
        await page.type(self.secret)
        await page.press("Enter")
        await page.until(LIVE)
        return page

    async def shows(self, page: Page, selector: str, text: str) -> None:
        """Wait until an element shows a text."""
        await page.until(f"document.querySelector({selector!r}).innerText.includes({text!r})")

    async def assertAccessible(self, page: Page) -> None:
        """Check that axe-core finds no violation on the page as it is."""
        if not await page.run("'axe' in window"):
            await page.run(AXE.read_text("utf-8") + "; true")
        self.assertEqual(await page.run(VIOLATIONS), [])

    async def picture(self, page: Page, name: str) -> None:
        """Write a screenshot if the environment names a folder for it."""
        if PICTURES is not None:
            await page.picture(Path(PICTURES) / f"{name}.png")

    def fill(self) -> dict[str, str]:
        """Add tasks in every state; return their ids."""
        front = self.front
        ids: dict[str, str] = {}
        for number, (state, reason) in enumerate(
            [
                ("completed", "A answered 200"),
                ("failed", "A answered 500"),
                ("not_found", "A answered 404"),
                ("failed", "no answer from A within 90 s"),
                ("completed", "A answered 200"),
            ]
        ):
            ids[state] = front.add(f"CPE00{number}123", phase="calling")
            front.end(ids[state], state, reason)
        ids["waiting"] = front.add("CPE000123", caller="token:shift")
        return ids


class Numbers(LivePageTestCase):
    async def test_moving(self) -> None:
        """The numbers, states, ends and failures follow the event stream, without a reload. Nothing
        is loaded from elsewhere, and no policy is violated.
        """
        page = await self.live()
        self.assertEqual(await page.text("#waiting"), "812")
        self.front.push_summary(waiting=813, calling=12)
        await self.shows(page, "#waiting", "813")
        self.assertEqual(await page.text("#calling"), "12")
        self.assertEqual(await page.text("#oldest"), "6 min")
        self.assertEqual(await page.text("#eta"), "25 min to 30 min")
        task = self.front.add("ABC123456", phase="calling")
        self.front.end(task, "failed", "A answered 500")
        await self.shows(page, "#latest-list", task)
        self.front.summary["equipment"] |= {"state": "open", "lastError": "connection refused"}
        self.front.summary["broker"] = {"connected": True, "blocked": True}
        self.front.summary["dispatch"] = "paused"
        self.front.summary |= {"etaSeconds": None, "etaReason": "paused"}
        self.front.summary["shards"][0] |= {"active": None, "standbys": []}
        self.front.push_summary()
        await self.shows(page, "#equipment", "in trouble: calls are held back; last error: conn")
        await self.shows(page, "#broker", "accepts no messages")
        await self.shows(page, "#dispatch", "paused")
        await self.shows(page, "#eta", "not known: dispatch is paused")
        await self.shows(page, "#shards", "none: its tasks wait")
        await self.shows(page, "#failures-list", "A answered 500")
        self.front.push("skipped", {"count": 77})
        await self.shows(page, "#skipped", "77 more")
        self.assertContent(page, self.origin)

    async def test_bounded(self) -> None:
        """However many tasks end, the page lists the latest twenty."""
        page = await self.live()
        for number in range(60):
            self.front.end(self.front.add(f"CPE{number:06}", phase="calling"), "completed", "ok")
        await self.shows(page, "#latest-list", "CPE000059")
        rows = await page.run("document.querySelectorAll('#latest-list tbody tr').length")
        self.assertEqual(rows, 20)

    async def test_search(self) -> None:
        """A serial number leads to the device's tasks, a task to its time line, which goes on while
        the task does. Unknown ones are an error in words.
        """
        page = await self.live()
        task = self.front.add("ABC123456", phase="calling")
        await page.run("document.getElementById('wanted').focus()")
        await page.type("ABC123456")
        await page.press("Enter")
        await self.shows(page, "#result", task)
        await page.click("#result tbody a")
        await self.shows(page, "#task", "token:billing")
        self.assertEqual(await page.run("document.querySelectorAll('.timeline li').length"), 2)
        self.front.end(task, "completed", "A answered 200")
        await self.shows(page, ".timeline", "completed: A answered 200")
        self.assertEqual(await page.run("document.querySelectorAll('.timeline li').length"), 4)
        await page.run("history.back()")
        await self.shows(page, "#result", "Tasks of device ABC123456")
        await page.run(f"location.hash = '#/task/{'f' * 32}'")
        await self.shows(page, "#search-error", "The requested task is not found")

    async def test_lost(self) -> None:
        """When the front end is away, the page says so, and that its numbers are old. When it is
        back, the page catches up by itself.
        """
        page = await self.live()
        await self.front.down()
        await page.until("document.querySelector('#connection[data-state=lost]')")
        await self.shows(page, "#notice", "The numbers below are old")
        await self.assertAccessible(page)
        await self.picture(page, "ui-lost")
        missed = self.front.add("ABC123456", phase="calling")
        self.front.end(missed, "completed", "A answered 200")
        self.front.summary["tasks"]["waiting"] = 4711
        await self.front.listen(self.port)
        await page.until(LIVE)
        await self.shows(page, "#waiting", "4,711")
        await self.shows(page, "#latest-list", missed)
        self.assertTrue(await page.run("document.getElementById('notice').hidden"))


class Looks(LivePageTestCase):
    async def test_sizes_and_schemes(self) -> None:
        """From 360 to 2560 px, in light and dark, nothing is cut off at the right, and axe-core
        finds no violation.
        """
        ids = self.fill()
        page = await self.live()
        await page.run(f"location.hash = '#/task/{ids['waiting']}'")
        await self.shows(page, "#task", "Cancel this task")
        await self.draw_history(page)
        for width, height in ((360, 740), (1280, 900), (1920, 1080), (2560, 1440)):
            for dark in (False, True):
                await page.look(width=width, height=height, dark=dark)
                self.front.push_summary()  # the page takes half a minute of silence for a loss
                await page.until(LIVE)
                self.assertEqual(await page.run(TOO_WIDE), 0, width)
                if width < 2000:
                    await self.assertAccessible(page)
                if width != 1280:
                    await self.picture(page, f"ui-{width}{'-dark' if dark else ''}")
        self.assertContent(page, self.origin)

    async def draw_history(self, page: Page) -> None:
        """Give the charts an hour of values, and load the page again."""
        await page.run(
            "sessionStorage.setItem('rtprov-charts', JSON.stringify(Array.from({length: 300},"
            " (_, i) => ({at: Date.now() / 1000 - 2990 + 10 * i, tasks: 825,"
            " accepted: Math.round(30 + 9 * Math.sin(i / 20)), completed: Math.round(28 + 5 *"
            " Math.sin(i / 20 - 1)), failed: Math.round(2 + 2 * Math.sin(i / 9)),"
            " calling: Math.round(10 + 4 * Math.sin(i / 15))}))))"
        )
        await page.go(f"{self.origin}/ui/" + await page.run("location.hash"))
        await page.call("Page.reload")
        await page.until(LIVE)
        await self.shows(page, "#task", "Cancel this task")


class Reader(LivePageTestCase):
    role = Role.READ

    async def test_no_buttons(self) -> None:
        """A reader sees everything, and has no button that changes something."""
        ids = self.fill()
        page = await self.logged_in()
        self.assertEqual(await page.text("#who"), "token:shift, role read")
        await page.run(f"location.hash = '#/task/{ids['waiting']}'")
        await self.shows(page, "#task", "token:shift")
        buttons = await page.run(
            "[...document.querySelectorAll('button')].filter(each => each.checkVisibility())"
            ".map(each => each.innerText)"
        )
        self.assertEqual(buttons, ["Log out", "Search"])
        await page.click("#log-out")
        await self.shows(page, "#log-in", "You are logged out")
        self.assertEqual(len(self.admission.sessions), 0)

    async def test_removed_token(self) -> None:
        """If the token is removed, the page asks for another one at its next request."""
        page = await self.logged_in()
        self.admission.tokens = ()
        await page.run("document.getElementById('wanted').focus()")
        await page.type("ABC123456")
        await page.press("Enter")
        await self.shows(page, "#log-in", "The session has ended")
        self.assertTrue(await page.run("document.getElementById('board').hidden"))


class KeyboardOnly(LivePageTestCase):
    role = Role.ORDER

    async def test_log_in_to_cancel(self) -> None:
        """A keyboard is enough to log in, find a task, and cancel it. The token is kept nowhere
        that a script could read. Wrong tokens are refused in words.
        """
        task = self.front.add("ABC123456", caller="token:shift")
        other = self.front.add("ABC123456")
        page = await self.open(f"{self.origin}/ui/")
        await page.until("document.activeElement.id === 'token'")
        await self.assertAccessible(page)
        await self.picture(page, "ui-log-in")
        for wrong in ("nonsense", "né"):
            await page.type(wrong)
            await page.press("Enter")
            await self.shows(page, "#log-in-error", "The credentials are not valid")
        await page.type(self.secret)
        await page.press("Enter")
        await page.until(LIVE)
        await self.tab_to(page, "wanted")
        await page.type(task)
        await page.press("Enter")
        await self.shows(page, "#task", "Cancel this task")
        await self.tab_to(page, "cancel-task")
        await page.press("Enter")
        await page.until("document.getElementById('cancel').open")
        await self.assertAccessible(page)
        await page.press("Escape")
        await page.until("!document.getElementById('cancel').open")
        self.assertEqual(self.front.cancelled, [])
        await page.press("Enter")
        await page.until("document.activeElement.id === 'cancel-reason'")
        await page.type("wrong device & more")
        await page.press("Enter")
        await self.shows(page, ".timeline", "cancelled by a client")
        self.assertEqual(self.front.cancelled, [("token:shift", "wrong device & more")])
        await page.run(f"location.hash = '#/task/{other}'")
        await self.shows(page, "#task", "token:billing")
        self.assertFalse(await page.run("Boolean(document.getElementById('cancel-task'))"))
        kept = await page.run(
            "document.cookie + JSON.stringify({...localStorage, ...sessionStorage})"
            " + document.documentElement.outerHTML"
        )
        self.assertNotIn(self.secret, kept)
        self.assertNotIn("rtprov-session", kept)

    async def tab_to(self, page: Page, wanted: str) -> None:
        """Press Tab until an element has the focus, as someone without a mouse does."""
        seen: list[Any] = []
        for _ in range(40):
            focused = await page.run("document.activeElement.id")
            if focused == wanted:
                return
            seen.append(focused)
            await page.press("Tab")
        self.fail(f"{wanted} is not reached by Tab, only {seen}")
