"""The HTTP site: parsing of requests, limits, and JSON for every refusal."""

from __future__ import annotations

from rtprov.http.request import MAX_BODY_BYTES, MAX_DISCARDED_BYTES
from rtprov.model import State
from tests.support.front import BODY, GET_PATH, NO_ROUTE, NOT_HTTP, POST_PATH
from tests.support.http_case import CHUNKED, HttpTestCase
from tests.support.raw_http import chunked, request

TOO_LARGE = f"The body is too large: the limit is {MAX_BODY_BYTES} bytes"
HEAD_TOO_LARGE = "The request's head is too large: the limits are 16384 bytes and 500 fields"
URL_TOO_LONG = "The URL is too long: the limit is 16384 bytes"
COMPLETED = {"code": 200, "message": "Completed"}


def padded(size: int) -> bytes:
    """Return a valid body of `size` bytes."""
    return BODY + b" " * (size - len(BODY))


class Framing(HttpTestCase):
    def test_fields_of_an_answer(self) -> None:
        """Each answer has Date, our own Server, its length, and may not be cached. Nothing in it
        mentions Twisted.
        """
        self.knows(State.COMPLETED)
        answers = [
            self.post(),
            self.post(b"{"),
            self.get(),
            self.ask("GET", "/"),
            self.ask("PUT", "/"),
            self.ask("OPTIONS", "*"),
        ]
        for answer in answers:
            self.assertEqual(
                (answer.header("Server"), answer.header("Cache-Control")), ("rtprov", "no-store")
            )
            self.assertEqual(answer.header("Content-Length"), str(len(answer.body)))
            self.assertIn("GMT", answer.header("Date") or "")
            self.assertIsNone(answer.header("Connection"))
            self.assertNotIn("Twisted", repr(answer))
        refused = self.say(b"nonsense\r\n\r\n")[0]
        self.assertEqual(refused.header("Server"), "rtprov")
        self.assertIn("GMT", refused.header("Date") or "")

    def test_one_connection_for_many_requests(self) -> None:
        """Requests on one connection are answered in order, whatever their results."""
        self.knows(State.COMPLETED)
        client = self.connect()
        for _ in range(3):
            client.send(request("POST", POST_PATH, BODY))
            client.send(request("POST", POST_PATH, b"[]"))
            client.send(request("GET", GET_PATH))
            client.send(b"\r\n" + request("PUT", "/nowhere", b"text"))
        self.assertEqual([answer.status for answer in client.answers()], [200, 400, 200, 404] * 3)

    def test_pipelining(self) -> None:
        """Pipelined requests are answered in order, even if the first one waits."""
        self.tasks.silent = True
        client = self.connect()
        client.send(
            request("POST", POST_PATH, BODY)
            + request("GET", "/")
            + request("GET", GET_PATH)
            + request("GET", "/")[:20]
        )
        self.assertEqual((client.answers(), self.statuses.asked), ([], []))
        self.network.advance(5)
        self.assertEqual([answer.status for answer in client.answers()], [503, 404, 404])
        client.send(request("GET", "/")[20:])
        self.assertEqual(len(client.answers()), 4)

    def test_chunked(self) -> None:
        """A chunked body is the content of its chunks. Extensions and trailers are ignored, and the
        connection stays open.
        """
        client = self.connect()
        head = request("POST", POST_PATH, None, CHUNKED)
        client.send(head + chunked(BODY) + head + chunked(BODY[:10], BODY[10:11], BODY[11:]))
        client.send(
            head
            + b'%x;a="b";c\r\n%s\r\n0\r\nTrailer: x\r\n\r\n' % (len(BODY), BODY)
            + request("GET", "/")
        )
        self.assertEqual([answer.status for answer in client.answers()], [200, 200, 200, 404])
        self.assertEqual(self.bodies(), [BODY] * 3)

    def test_http_1_0(self) -> None:
        """An HTTP/1.0 client is answered, and its connection is closed."""
        client = self.connect()
        client.send(request("POST", POST_PATH, BODY, version="HTTP/1.0"))
        (answer,) = client.answers()
        self.assertAccepted(answer)
        self.assertEqual((answer.header("Connection"), client.lost), ("close", True))

    def test_connection_close(self) -> None:
        """``Connection: close`` is recognised anywhere in the field: the answer repeats it, and
        later requests are not served.
        """
        for fields in (
            ["close"],
            ["Close"],
            ["close, TE"],
            ["TE,close"],
            ["keep-alive , close"],
            ["TE", "close"],
            ["close", ""],
        ):
            client = self.connect()
            client.send(
                request("GET", "/", None, [f"Connection: {field}" for field in fields])
                + request("POST", POST_PATH, BODY)
            )
            self.assertClosed(client, 404, NO_ROUTE)

    def test_connection_goes_on(self) -> None:
        """Other options, and similar words, do not close the connection."""
        client = self.connect()
        for fields in ([], [""], ["keep-alive"], ["TE", "upgrade"], ["closed"], ["disclose"]):
            client.send(request("GET", "/", None, [f"Connection: {field}" for field in fields]))
        self.assertEqual((len(client.answers()), client.lost), (6, False))

    def test_expect(self) -> None:
        """A client that expects ``100-continue`` gets a 100."""
        client = self.connect()
        head, _, body = request("POST", POST_PATH, BODY, ["Expect: 100-continue"]).partition(
            b"\r\n\r\n"
        )
        client.send(head + b"\r\n\r\n")
        self.assertEqual(bytes(client.received), b"HTTP/1.1 100 Continue\r\n\r\n")
        client.received.clear()
        client.send(body)
        (answer,) = client.answers()
        self.assertAccepted(answer)

    def test_expect_with_a_large_body(self) -> None:
        """A client that expects ``100-continue`` for a body over the limit is refused at once, and
        gets no 100.
        """
        head = request(
            "POST",
            POST_PATH,
            None,
            ["Expect: 100-continue", f"Content-Length: {MAX_BODY_BYTES + 1}"],
        )
        self.assertRefusedAndClosed(head, 413, TOO_LARGE)

    def test_not_http(self) -> None:
        """Data that is not an HTTP request is refused in JSON, and the connection is closed."""
        for line in (
            b"nonsense",
            b"GET /",
            b"GET / HTTP/0.9",
            b"GET / HTTP/2.0",
            b"GET / HTTP/1.1 x",
            b"GET  / HTTP/1.1",
            b"\x16\x03\x01\x02",
            b" ",
        ):
            self.assertRefusedAndClosed(line + b"\r\nHost: b\r\n\r\n", 400, NOT_HTTP)
        self.assertRefusedAndClosed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, NOT_HTTP)

    def test_bad_fields(self) -> None:
        """Invalid fields, and fields that make the length of a body ambiguous, are refused. Later
        requests are not served.
        """
        for fields in (
            ["no colon"],
            ["na me: x"],
            [": x"],
            ["Name : x"],
            ["X: a\x00b"],
            ["X: a\nb"],
            ["Content-Length: 5", "Transfer-Encoding: chunked"],
            ["Transfer-Encoding: chunked", "Content-Length: 5"],
            ["Content-Length: 5", "Content-Length: 6"],
            ["Content-Length: 5, 5"],
            ["Content-Length: -1"],
            ["Content-Length: +5"],
            ["Content-Length: 0x5"],
            ["Content-Length: 5.0"],
            ["Content-Length: "],
            ["Content-Length: \xb2"],
            ["Transfer-Encoding: gzip, chunked"],
            ["Transfer-Encoding: xchunked"],
            ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ):
            data = request("POST", POST_PATH, None, fields) + request("POST", POST_PATH, BODY)
            self.assertRefusedAndClosed(data, 400, NOT_HTTP)

    def test_bad_chunks(self) -> None:
        """A malformed chunked body is refused, and later requests are not served."""
        head = request("POST", POST_PATH, None, CHUNKED)
        for body in (
            b"x\r\n",
            b"-1\r\n",
            b"0x5\r\n",
            b"\r\n",
            b"5\r\nabcdefg\r\n",
            b"1" * 2000,
            b"5;\x00\r\nabcde\r\n",
        ):
            self.assertRefusedAndClosed(
                head + body + request("POST", POST_PATH, BODY), 400, NOT_HTTP
            )


class Limits(HttpTestCase):
    def test_largest_body(self) -> None:
        """A body of 64 KiB is accepted, in one piece or chunked."""
        body = padded(MAX_BODY_BYTES)
        self.assertAccepted(self.post(body))
        self.assertAccepted(self.say(request("POST", POST_PATH, None, CHUNKED) + chunked(body))[0])
        self.assertAccepted(
            self.say(request("POST", POST_PATH, None, CHUNKED) + chunked(body[:9999], body[9999:]))[
                0
            ]
        )
        self.assertEqual(self.bodies(), [body] * 3)

    def test_too_large(self) -> None:
        """One byte more is a 413, even if the part within the limit is a valid body. The connection
        stays open.
        """
        client = self.connect()
        for body in (
            padded(MAX_BODY_BYTES + 1),
            padded(MAX_BODY_BYTES + 1)[::-1],
            b"x" * MAX_DISCARDED_BYTES,
        ):
            client.received.clear()
            client.send(request("POST", POST_PATH, body) + request("GET", "/"))
            first, second = client.answers()
            self.assertRefused(first, 413, TOO_LARGE)
            self.assertRefused(second, 404)

    def test_too_large_in_chunks(self) -> None:
        """The same holds for a chunked body, with chunks of any size."""
        client = self.connect()
        large = padded(MAX_BODY_BYTES + 1)
        for chunks in (
            [large],
            [large[:-1], large[-1:]],
            [BODY, large, BODY],
            [b"x" * 60_000] * 10,
        ):
            client.received.clear()
            client.send(
                request("POST", POST_PATH, None, CHUNKED) + chunked(*chunks) + request("GET", "/")
            )
            first, second = client.answers()
            self.assertRefused(first, 413, TOO_LARGE)
            self.assertRefused(second, 404)

    def test_far_too_large(self) -> None:
        """A body far over the limit is refused before its end, and the connection is closed."""
        client = self.connect()
        client.send(
            request("POST", POST_PATH, None, [f"Content-Length: {MAX_DISCARDED_BYTES + 1}"])
        )
        self.assertClosed(client, 413, TOO_LARGE)
        chunks = request("POST", POST_PATH, None, CHUNKED) + chunked(*[b"x" * 60_000] * 20)
        self.assertRefusedAndClosed(chunks, 413, TOO_LARGE)
        self.assertRefusedAndClosed(chunks + request("POST", POST_PATH, BODY), 413, TOO_LARGE)
        self.assertRefusedAndClosed(
            chunks.replace(POST_PATH.encode(), GET_PATH.encode()).replace(b"POST", b"GET", 1),
            413,
            TOO_LARGE,
        )
        self.assertEqual(self.statuses.asked, [])

    def test_one_phrase(self) -> None:
        """A 413 has the same reason phrase (RFC 9110 §15.5.14) and the same problem title, whether
        or not the body is read to its end.
        """
        problem = "Accept: application/problem+json"
        client = self.connect()
        client.send(request("POST", POST_PATH, padded(MAX_BODY_BYTES + 1), [problem]))
        client.send(
            request("POST", POST_PATH, None, [f"Content-Length: {MAX_DISCARDED_BYTES + 1}"])
        )
        read, unread = client.answers()
        phrases = [read.phrase, read.json["title"], unread.phrase]
        self.assertEqual(phrases, ["Content Too Large"] * 3)

    def test_a_length_beyond_all_measure(self) -> None:
        """A Content-Length of thousands of digits is a 413, not an internal error."""
        for digits in (20, 4300, 4301, 16_000):
            for last in ("X: y", "Content-Type: application/json"):
                head = request("POST", POST_PATH, None, ["Content-Length: " + "9" * digits, last])
                self.assertRefusedAndClosed(head, 413, TOO_LARGE)

    def test_a_large_head(self) -> None:
        """A head over the limits is a 431: one long line, many bytes, or many fields."""
        for data in (
            request("GET", "/", None, ["X: " + "x" * 17_000]),
            request("GET", "/", None, ["X: " + "x" * 17_000])[:-4],
            request("GET", "/", None, [f"X{number}: {'x' * 100}" for number in range(200)]),
            request("GET", "/", None, [f"X{number}: x" for number in range(600)]),
            request("GET", "/", None, ["X: x", *[" folded" * 10] * 300]),
        ):
            self.assertRefusedAndClosed(
                data + request("POST", POST_PATH, BODY), 431, HEAD_TOO_LARGE
            )

    def test_a_long_url(self) -> None:
        """A URL over the limit is a 414, even before the end of its line, and also for a pipelined
        request.
        """
        for data in (b"GET /" + b"x" * 17_000, request("GET", "/" + "x" * 17_000)):
            self.assertRefusedAndClosed(data + request("POST", POST_PATH, BODY), 414, URL_TOO_LONG)
            first, second = self.say(request("GET", "/") + data)
            self.assertError(first, 404)
            self.assertError(second, 414, URL_TOO_LONG)

    def test_a_head_within_the_limits(self) -> None:
        """A large head within the limits is accepted."""
        self.assertAccepted(self.ask("POST", POST_PATH, BODY, ["X: " + "x" * 15_000]))
        self.assertAccepted(
            self.ask("POST", POST_PATH, BODY, [f"X{number}: x" for number in range(400)])
        )


class FramingInPieces(Framing):
    piece = 1


class LimitsInPieces(Limits):
    piece = 1
