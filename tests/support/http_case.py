"""A test case for requests that a site refuses before they reach a resource."""

from __future__ import annotations

from tests.support.front import FrontendTestCase
from tests.support.raw_http import RawClient

CHUNKED = ("Transfer-Encoding: chunked", "Content-Type: application/json")


class HttpTestCase(FrontendTestCase):
    def assertClosed(self, client: RawClient, status: int, message: str) -> None:
        """Check that the only answer on the connection is this refusal with ``Connection: close``,
        and that the connection is closed.
        """
        (answer,) = client.answers()
        self.assertRefused(answer, status, message)
        self.assertEqual((answer.header("Connection"), client.lost), ("close", True))

    def assertRefusedAndClosed(self, data: bytes, status: int, message: str) -> None:
        client = self.connect()
        client.send(data)
        self.assertClosed(client, status, message)
