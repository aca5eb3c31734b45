"""The page ``/ui/`` in Chromium, with everything real: front end, broker, worker and stub of A."""

from __future__ import annotations

from rtprov.frontend.resource import Frontend
from rtprov.security.tokens import Role, new_token
from tests.support.chromium import BrowserTestCase
from tests.support.system import REQUEST

LIVE = "document.querySelector('#connection[data-state=live]')"


class WithWorkers(BrowserTestCase):
    async def test_tasks(self) -> None:
        """After a log-in with a token, tasks that clients order are seen to run and to end, and one
        that waits is cancelled. When the front end stops, the page says so.
        """
        token, secret = new_token("shift", role=Role.OPERATE)
        (self.folder / "tokens").write_text(token.line + "\n")
        process = self.twistd(
            "rtprov",
            *("--port", "0", "--stub-port", "0", "--broker-port", "0", "--stub-delay", "3"),
            *("--tokens", "tokens"),
        )
        port = await process.port("service B (front end)")
        await process.logged("ready")
        page = await self.open(f"https://localhost:{port}/ui/")
        await page.until("document.activeElement.id === 'token'")
        await page.type(secret)
        await page.press("Enter")
        await page.until(LIVE)
        client = self.client(port)
        ids = []
        for serial in ("ABC123456", "ABC123456", "FAIL000001", "NOTFOUND01"):
            answer = await client.request(
                "POST",
                f"/api/v1/equipment/cpe/{serial}",
                REQUEST,
                Authorization=f"Bearer {secret}",
            )
            ids.append(answer.json["taskId"])
        await page.run(f"location.hash = '#/task/{ids[1]}'")
        await page.until("document.getElementById('cancel-task')")
        await page.click("#cancel-task")
        await page.until("document.activeElement.id === 'cancel-reason'")
        await page.type("wrong device")
        await page.press("Enter")
        await page.until("document.querySelector('.timeline').innerText.includes('cancelled')")
        await process.logged("by token:shift, reason: wrong device")
        ended = "document.getElementById('latest-list').innerText"
        for state in ("completed", "failed", "not found", "cancelled"):
            await page.until(f"{ended}.includes('{state}')")
        await page.until(
            "document.getElementById('failures-list').innerText.includes('A answered 500')"
        )
        self.assertEqual(len(page.complaints), 1, page.complaints)  # the 401 before the log-in
        await self.stop(process)
        await page.until("document.querySelector('#connection[data-state=lost]')")


if not any(rule.rule == "/api/v1/events" for rule in Frontend.app.url_map.iter_rules()):
    WithWorkers.skip = "this front end has no event stream"
