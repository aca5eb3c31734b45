"""Raw HTTP: connections on which a test sends any bytes, and the parsed answers.

    class Things(WebTestCase):
        def test_a_thing(self) -> None:
            self.serve(role.resource())
            answer = self.ask("GET", "/thing")             # one request on a connection of its own
            client = self.connect()                        # or: any bytes, in any pieces
            client.send(request("GET", "/thing") * 2)
            first, second = client.answers()

If a subclass sets `piece`, each request arrives in pieces of that many bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.web.resource import IResource

from rtprov.http.site import JsonSite
from tests.support.both_ways import BothWays, comparable
from tests.support.memory import MemoryNetwork, MemoryTransport

END_BYTES = 500


def request(
    method: str,
    path: str | bytes,
    body: bytes | None = None,
    headers: Iterable[str] = (),
    version: str = "HTTP/1.1",
) -> bytes:
    """Return a request as bytes. If it has a body, it gets a Content-Length, and a JSON
    Content-Type unless `headers` has one.
    """
    fields = ["Host: b", *headers]
    if body is not None:
        fields.append(f"Content-Length: {len(body)}")
        if not any(field.lower().startswith("content-type") for field in fields):
            fields.append("Content-Type: application/json")
    target = path if isinstance(path, bytes) else path.encode()
    start = b"%s %s %s\r\n" % (method.encode(), target, version.encode())
    return (
        start
        + "".join(f"{field}\r\n" for field in fields).encode("latin-1")
        + b"\r\n"
        + (body or b"")
    )


def chunked(*chunks: bytes) -> bytes:
    """Return a chunked body (RFC 9112 §7.1)."""
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


@frozen
class RawAnswer:
    """One answer: its header fields in order, with names in lower case. `phrase` is the reason
    phrase of the status line.
    """

    version: str
    status: int
    phrase: str
    fields: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """Return the field's value, or None if it is absent. A repeated field fails the test."""
        values = [value for field, value in self.fields if field == name.lower()]
        assert len(values) <= 1, f"{name} comes {len(values)} times"
        return values[0] if values else None


class RawClient(Protocol):
    """One connection, and everything that was received on it."""

    def __init__(self, network: MemoryNetwork, piece: int | None) -> None:
        self._network = network
        self._piece = piece
        self.received = bytearray()
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: object = None) -> None:
        self.lost = True

    def send(self, data: bytes) -> None:
        """Deliver the bytes, in pieces if `piece` is set. Bytes further than `END_BYTES` from both
        ends are delivered in larger pieces.
        """
        start = 0
        while start < len(data):
            size = self._piece or len(data)
            if self._piece and END_BYTES <= start < len(data) - END_BYTES:
                size = min(max(self._piece, 997), len(data) - END_BYTES - start)
            self._memory.write(data[start : start + size])
            self._network.settle()
            start += size

    def stop_reading(self) -> None:
        self._memory.pauseProducing()

    def read_again(self) -> None:
        self._memory.resumeProducing()

    def close(self) -> None:
        """Close the connection in the regular way."""
        self._memory.loseConnection()
        self._network.settle()

    def hang_up(self) -> None:
        self._memory.cut()
        self._network.settle()

    @property
    def _memory(self) -> MemoryTransport:
        return cast("MemoryTransport", self.transport)

    def answers(self, *methods: str) -> list[RawAnswer]:
        """Return everything received as complete answers, including 1xx. An incomplete rest fails
        the test. `methods` are those of the requests.
        """
        data, answers, asked = bytes(self.received), [], list(methods)
        while data:
            head, separator, data = data.partition(b"\r\n\r\n")
            assert separator, f"half an answer: {head!r}"
            start, *lines = head.decode("latin-1").split("\r\n")
            version, status, phrase = start.split(" ", 2)
            fields = tuple(
                (name.lower(), value) for name, value in (line.split(": ", 1) for line in lines)
            )
            has_body = (
                int(status) >= 200
                and int(status) not in (204, 304)
                and (asked.pop(0) if asked else "") != "HEAD"
            )
            body, data = _take_body(dict(fields), data) if has_body else (b"", data)
            answers.append(RawAnswer(version, int(status), phrase, fields, body))
        return answers


def _take_body(fields: dict[str, str], data: bytes) -> tuple[bytes, bytes]:
    if fields.get("transfer-encoding") == "chunked":
        body = b""
        while True:
            size, _, data = data.partition(b"\r\n")
            chunk, data = data[: int(size, 16)], data[int(size, 16) + 2 :]
            if not chunk:
                return body, data
            body += chunk
    length = int(fields["content-length"])
    assert len(data) >= length, f"half a body: {data!r}"
    return data[:length], data[length:]


class WebTestCase(BothWays):
    """A site in memory, on a virtual clock. At the end of a test no timer may be left, and neither
    an error nor a secret may have been logged. Each test runs with the fast lane and without.
    """

    secret = "s3cr3t"

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.reactor = cast("IReactorTime", self.clock)
        self.network = MemoryNetwork(self.clock)
        self.clients: list[RawClient] = []
        self.events: list[str] = []
        observer = cast("ILogObserver", self._observe)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.addCleanup(self._check_the_end)

    def said(self) -> list[object]:
        return [(comparable(client.received), client.lost) for client in self.clients]

    def _observe(self, event: LogEvent) -> None:
        self.events.append(repr(event))

    def _check_the_end(self) -> None:
        for client in self.clients:
            client.hang_up()
        self.assertEqual(self.clock.getDelayedCalls(), [], "timers are left behind")
        self.assertEqual(
            [event for event in self.events if self.secret in event], [], "a secret is logged"
        )

    def serve(self, resource: IResource) -> None:
        self.site = JsonSite(resource, reactor=self.reactor)
        self.network.listen("b").listen(self.site)

    def connect(self) -> RawClient:
        client = RawClient(self.network, self.piece)
        self.clients.append(client)
        connecting = self.network.connect("b").connect(Factory.forProtocol(lambda: client))
        self.network.settle()
        self.successResultOf(connecting)
        return client

    def say(self, data: bytes, *methods: str) -> list[RawAnswer]:
        """Send bytes on a connection of their own; return the answers, which must come at once."""
        client = self.connect()
        client.send(data)
        answers = client.answers(*methods)
        client.close()  # otherwise its timers would slow down the clock
        return answers

    def ask(
        self,
        method: str,
        path: str | bytes,
        body: bytes | None = None,
        headers: Iterable[str] = (),
        version: str = "HTTP/1.1",
    ) -> RawAnswer:
        """Send one request on a connection of its own; return the answer, which must come
        at once.
        """
        answers = self.say(request(method, path, body, headers, version), method)
        self.assertEqual(len(answers), 1, answers)
        return answers[0]

    def assertError(self, answer: RawAnswer, status: int, message: str | None = None) -> None:
        """Check that the answer is the JSON error envelope, with status and message only."""
        self.assertEqual(
            (answer.status, answer.header("Content-Type")), (status, "application/json")
        )
        self.assertEqual(
            answer.json,
            {"code": status, "message": message if message is not None else answer.json["message"]},
        )
        self.assertIsInstance(answer.json["message"], str)
        self.assertNotIn(b"<", answer.body)
        self.assertNotIn(self.secret.encode(), answer.body)
