"""The page ``/docs`` in Chromium: it shows the API, and requests can be tried."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rtprov.security.tokens import new_token
from tests.support.chromium import BrowserTestCase, Page

PICTURES = os.environ.get("RTPROV_PICTURES")
OPERATION = "#operations-Tasks-{}"


class DocsPage(BrowserTestCase):
    async def serve(self, *options: str) -> str:
        """Start everything in one process; return the front end's origin."""
        process = self.twistd(
            "rtprov",
            *("--port", "0", "--stub-port", "0", "--broker-port", "0", "--stub-delay", "0.1"),
            *options,
        )
        port = await process.port("service B (front end)")
        await process.logged("ready")
        return f"https://localhost:{port}"

    async def shown(self, origin: str) -> Page:
        page = await self.open(f"{origin}/docs")
        await page.until("document.querySelectorAll('.opblock').length >= 7")
        return page

    async def try_out(self, page: Page, operation: str) -> str:
        """Open an operation and execute it with its examples; return the answer as shown."""
        block = OPERATION.format(operation)
        await page.click(f"{block} .opblock-summary-control")
        await page.until(f"document.querySelector('{block} .execute')")
        await page.click(f"{block} .execute")
        found = await page.until(
            f"document.querySelector('{block} .live-responses-table .response-col_status')"
            " && document.querySelector("
            f"'{block} .live-responses-table .highlight-code code').innerText"
        )
        assert isinstance(found, str)
        return found

    async def test_tried(self) -> None:
        """A POST with the example is accepted, and the other requests can be tried. Nothing is
        loaded from another host, and the page's policy forbids nothing that it does.
        """
        origin = await self.serve()
        page = await self.shown(origin)
        receipt = json.loads(await self.try_out(page, "submitTask"))
        self.assertEqual((receipt["code"], set(receipt)), (200, {"code", "taskId"}))
        self.assertEqual(json.loads(await self.try_out(page, "listTasks"))["code"], 200)
        await self.picture(page, "docs")
        self.assertContent(page, origin)

    async def test_token(self) -> None:
        """The page is shown without a token. With the token that is entered, requests succeed."""
        token, secret = new_token("billing")
        (self.folder / "tokens").write_text(token.line + "\n")
        origin = await self.serve("--tokens", "tokens")
        page = await self.shown(origin)
        refused = json.loads(await self.try_out(page, "submitTask"))
        self.assertEqual(refused["code"], 401)
        await page.click(".auth-wrapper .authorize")
        await page.run("document.querySelector('.auth-container input').focus()")
        await page.type(secret)
        await page.click(".auth-btn-wrapper .authorize")
        await page.until(
            "document.querySelector('.auth-btn-wrapper button').innerText === 'Logout'"
        )
        await page.click(".auth-btn-wrapper .btn-done")
        await page.click(f"{OPERATION.format('submitTask')} .execute")
        await page.until(
            "document.querySelector('.live-responses-table').innerText.match(/taskId/)"
        )
        self.assertEqual(
            await page.run("JSON.stringify({...localStorage, ...sessionStorage})"), "{}"
        )
        # Chromium logs the 401.
        self.assertEqual(len(page.complaints), 1, page.complaints)

    async def test_examples(self) -> None:
        """The answers of the API's guide are shown as examples."""
        page = await self.shown(await self.serve())
        await page.click(f"{OPERATION.format('cancelTask')} .opblock-summary-control")
        await page.until("document.body.innerText.match(/cannot be cancelled any more/)")

    async def picture(self, page: Page, name: str) -> None:
        """Write a screenshot if the environment names a folder for it."""
        if PICTURES is not None:
            await page.picture(Path(PICTURES) / f"{name}.png")
