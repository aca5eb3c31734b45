"""A test case for requests that a site refuses before any resource sees them."""

from __future__ import annotations

from tests.support.front import FrontendTestCase
from tests.support.raw_http import RawClient

CHUNKED = ("Transfer-Encoding: chunked", "Content-Type: application/json")


class HttpTestCase(FrontendTestCase):
    def assertClosed(self, client: RawClient, status: int, message: str) -> None:
        """The connection's only answer is this refusal, which says that the connection ends, and it
        has ended.
        """
        (answer,) = client.answers()
        self.assertRefused(answer, status, message)
        self.assertEqual((answer.header("Connection"), client.lost), ("close", True))

    def assertRefusedAndClosed(self, data: bytes, status: int, message: str) -> None:
        client = self.connect()
        client.send(data)
        self.assertClosed(client, status, message)
