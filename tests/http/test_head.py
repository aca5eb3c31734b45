"""Rules for the head of every request: Host, framing, expectations and content codings (RFC 9110,
RFC 9112).
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtprov.equipment.scenario import BUILT_IN
from rtprov.equipment.stub import Stub
from rtprov.http.channel import CLOSE_TIMEOUT_S
from rtprov.http.head import is_host
from rtprov.model import State
from tests.support.front import BODY, GET_PATH, NOT_HTTP, POST_PATH
from tests.support.http_case import HttpTestCase
from tests.support.raw_http import chunked, request

HOSTS = (
    *(
        "b",
        "B.Example",
        "b.",
        "my_backend",
        "1.2.3.4",
        "999.1.2.3",
        "a-b.c~d",
        "b%FF",
        "!$&'()*+,;=",
        "xn--80ak6aa92e.com",
    ),
    *(
        "b:",
        "b:0",
        "b:443",
        "b:00443",
        "b:65535",
        "[::1]",
        "[::1]:8443",
        "[::ffff:1.2.3.4]",
        "[2001:DB8::7]:",
        "[v1.a:b]",
    ),
)
NO_HOSTS = (
    *(
        "b c",
        "b/",
        "b/c",
        "http://b",
        "a@b",
        "b?",
        "b#",
        "b\\c",
        '"b"',
        "<b>",
        "b|",
        "b^",
        "b{",
        "ABC|",
        "b%",
        "b%F",
        "b%GG",
    ),
    *(
        "b:x",
        "b:-1",
        "b:+1",
        "b:65536",
        "b:99999",
        "b:1:2",
        "b: 1",
        "b :1",
        "::1",
        "::1:8443",
        "b\xff",
        "б",
    ),
    *(
        "[::1",
        "::1]",
        "[]",
        "[b]",
        "[1.2.3.4]",
        "[::g]",
        "[::1]x",
        "[::1]:x",
        "[fe80::1%eth0]",
        "[fe80::1%25eth0]",
        "[v.a]",
        "[1::2::3]",
    ),
)
NONE = "Host: expected one field in an HTTP/1.1 request, not none"
SEVERAL = "Host: expected one field, not several"
INVALID = "Host: expected a host name or address, with or without a port"
NO_TARGET = "The request's target is not a valid URI"
ENCODED = "Unsupported content encoding: send the body as it is, without Content-Encoding"
EXPECTED = "Expect: only 100-continue is supported"


def head(
    *fields: str, version: str = "HTTP/1.1", method: str = "GET", target: str = GET_PATH
) -> bytes:
    """Return a request without a body, with exactly these fields."""
    text = "".join(f"{line}\r\n" for line in (f"{method} {target} {version}", *fields, ""))
    return text.encode("latin-1", "ignore")


class Grammar(SynchronousTestCase):
    def test_hosts(self) -> None:
        """A host follows RFC 3986 §3.2.2, with or without a port. It is empty only if that is
        allowed.
        """
        for host in HOSTS:
            for may_be_empty in (False, True):
                self.assertTrue(is_host(host.encode(), may_be_empty=may_be_empty), host)
        for host in NO_HOSTS:
            self.assertFalse(is_host(host.encode(), may_be_empty=True), host)
        for host in ("", ":", ":443"):
            self.assertEqual(
                [is_host(host.encode(), may_be_empty=each) for each in (False, True)], [False, True]
            )


class Hosts(HttpTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.knows(State.COMPLETED)

    def assertServed(self, data: bytes) -> None:
        self.assertEqual([answer.status for answer in self.say(data)], [200], data)

    def test_valid(self) -> None:
        """One valid Host is accepted in either version, in any spelling of the field. It may be
        empty.
        """
        for version in ("HTTP/1.1", "HTTP/1.0"):
            for host in ("b", "[::1]:8443", ""):
                for field in (f"Host: {host}", f"hOsT:{host}", f"HOST:\t {host} \t"):
                    self.assertServed(head(field, version=version))

    def test_none(self) -> None:
        """Without Host, HTTP/1.1 is a 400 and HTTP/1.0 is served."""
        for fields in ((), ("X-Host: b",), ("Content-Length: 0", "X: y")):
            self.assertRefusedAndClosed(head(*fields), 400, NONE)
            self.assertServed(head(*fields, version="HTTP/1.0"))

    def test_several(self) -> None:
        """Two Host fields are a 400 in either version, even if they are equal or empty."""
        for version in ("HTTP/1.1", "HTTP/1.0"):
            for hosts in (("b", "b"), ("b", "c"), ("b", ""), ("", ""), ("b", "b", "b")):
                self.assertRefusedAndClosed(
                    head(*(f"Host: {host}" for host in hosts), version=version), 400, SEVERAL
                )
            self.assertRefusedAndClosed(
                head("Host: b", "X: y", "HOST: b", version=version), 400, SEVERAL
            )

    def test_invalid(self) -> None:
        """An invalid Host is a 400 in either version. So is one that is folded over two lines."""
        for version in ("HTTP/1.1", "HTTP/1.0"):
            for host in ("b c", "a@b", "http://b", "b:x", "[::1", "\xff", "b,\tc"):
                self.assertRefusedAndClosed(head(f"Host: {host}", version=version), 400, INVALID)
            self.assertRefusedAndClosed(head("Host: b", " c", version=version), 400, INVALID)
            self.assertServed(head("Host:", " b", version=version))
            self.assertRefusedAndClosed(head("Host : b", version=version), 400, NOT_HTTP)

    def test_everywhere(self) -> None:
        """This holds for each method and path, with or without a body. Later requests on the
        connection are not served, and the broker is not used.
        """
        for method, target in (
            ("POST", POST_PATH),
            ("GET", "/livez"),
            ("DELETE", GET_PATH),
            ("OPTIONS", "*"),
            ("GET", "/nowhere"),
        ):
            self.assertRefusedAndClosed(
                head(method=method, target=target) + head("Host: b"), 400, NONE
            )
        body = f"Content-Length: {len(BODY)}"
        self.assertRefusedAndClosed(
            head(body, method="POST", target=POST_PATH) + BODY + request("POST", POST_PATH, BODY),
            400,
            NONE,
        )
        self.assertRefusedAndClosed(
            head(body, "Expect: 100-continue", method="POST", target=POST_PATH), 400, NONE
        )
        self.assertRefusedAndClosed(
            head("Transfer-Encoding: chunked", method="POST", target=POST_PATH) + chunked(BODY),
            400,
            NONE,
        )
        self.assertEqual((self.tasks.submitted, self.statuses.asked), ([], []))

    def test_head(self) -> None:
        """A refused HEAD has no body, whether its Host or its target is wrong."""
        for data in (head(method="HEAD"), head("Host: b", method="HEAD", target="http://a@b/")):
            client = self.connect()
            client.send(data)
            (answer,) = client.answers("HEAD")
            self.assertEqual((answer.status, answer.body, client.lost), (400, b"", True))
            self.assertGreater(int(answer.header("Content-Length") or 0), 0)

    def test_behind_another(self) -> None:
        """If a pipelined request is refused, the requests before it get their answers."""
        client = self.connect()
        client.send(head("Host: b") + head("Host: c") + head() + head("Host: b"))
        self.assertEqual([answer.status for answer in client.answers()], [200, 200, 400])
        self.assertTrue(client.lost)

    def test_absolute_target(self) -> None:
        """If the target is an absolute URL, its host is used (RFC 9112 §3.2.2). A valid Host is
        required all the same.
        """
        for origin in ("http://b", "https://other:8443", "http://[::1]:1"):
            for host in ("b", "c", ""):
                self.assertServed(head(f"Host: {host}", target=origin + GET_PATH))
            self.assertRefusedAndClosed(head(target=origin + GET_PATH), 400, NONE)
            self.assertRefusedAndClosed(
                head("Host: b", "Host: b", target=origin + GET_PATH), 400, SEVERAL
            )
            self.assertServed(head(target=origin + GET_PATH, version="HTTP/1.0"))

    def test_absolute_target_without_a_host(self) -> None:
        """A URL with an empty, missing or invalid host, or with a user (RFC 9110 §4.2),
        is a 400.
        """
        for origin in (
            "http://",
            "https://:8443",
            "http://a@b",
            "http://joe:x@b",
            "http://b:x",
            "http://[::1",
        ):
            self.assertRefusedAndClosed(
                head("Host: b", target=origin + GET_PATH) + head("Host: b"), 400, NO_TARGET
            )
            self.assertRefusedAndClosed(request("POST", origin + POST_PATH, BODY), 400, NO_TARGET)


class StubHosts(HttpTestCase):
    """The stub has the same rules for Host."""

    def setUp(self) -> None:
        super().setUp()
        self.network.factories.clear()
        self.stub = Stub(clock=self.reactor, delay_s=0.0, honour_timeout=False, rules=BUILT_IN)
        self.serve(self.stub.resource())

    def test_hosts(self) -> None:
        """A request without exactly one valid Host makes no call."""
        for fields, message in (
            ((), NONE),
            (("Host: b", "Host: b"), SEVERAL),
            (("Host: b c",), INVALID),
        ):
            data = (
                head(*fields, f"Content-Length: {len(BODY)}", method="POST", target=POST_PATH)
                + BODY
            )
            self.assertRefusedAndClosed(data, 400, message)
        self.assertEqual(self.stub.calls, 0)

    def test_content_encoding(self) -> None:
        """A body with a content coding is a 415."""
        answer = self.ask("POST", POST_PATH, BODY, ["Content-Encoding: gzip"])
        self.assertRefused(answer, 415, ENCODED)
        self.assertEqual((answer.header("Accept-Encoding"), self.stub.calls), ("identity", 0))


class Framing(HttpTestCase):
    def test_transfer_encoding_in_http_1_0(self) -> None:
        """HTTP/1.0 has no Transfer-Encoding, so the end of the body is unknown: the request is
        refused, and the connection closed (RFC 9112 §6.1).
        """
        data = request(
            "POST", POST_PATH, None, ["Transfer-Encoding: chunked"], version="HTTP/1.0"
        ) + chunked(BODY)
        self.assertRefusedAndClosed(
            data, 400, "Transfer-Encoding: not expected in an HTTP/1.0 request"
        )

    def test_transfer_encoding_identity(self) -> None:
        """The obsolete coding ``identity`` is refused, so that it cannot hide the length of a body
        (request smuggling).
        """
        for fields in (
            ["Transfer-Encoding: identity"],
            ["Transfer-Encoding: IDENTITY", "Content-Length: 5"],
        ):
            for order in (fields, fields[::-1]):
                data = request("POST", POST_PATH, None, order) + request("POST", POST_PATH, BODY)
                self.assertRefusedAndClosed(data, 400, "Transfer-Encoding: expected chunked")

    def test_repeated_length(self) -> None:
        """A repeated Content-Length is refused, even if the values are equal."""
        data = request("POST", POST_PATH, BODY, [f"Content-Length: {len(BODY)}"])
        self.assertRefusedAndClosed(data, 400, NOT_HTTP)

    def test_bare_line_ends(self) -> None:
        """A bare CR or LF is refused anywhere in a head. Lines that end in a bare LF never form a
        request.
        """
        for data in (
            b"GET / HTTP/1.1\nHost: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: b\nX: y\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: b\n\r\n",
            b"GET / HTTP/1.1\r\nHost: b\rX: y\r\n\r\n",
            b"GET / HTTP/1.1\r\nX\r: y\r\nHost: b\r\n\r\n",
            b"GET /\rx HTTP/1.1\r\nHost: b\r\n\r\n",
        ):
            self.assertRefusedAndClosed(data + head("Host: b"), 400, NOT_HTTP)
        client = self.connect()
        client.send(head("Host: b").replace(b"\r\n", b"\n"))
        self.assertEqual(client.answers(), [])

    def test_space_before_the_first_field(self) -> None:
        """A line that begins with a space continues the field before it. As the first field it is
        refused.
        """
        self.assertRefusedAndClosed(b"GET / HTTP/1.1\r\n Host: b\r\n\r\n", 400, NOT_HTTP)


class Expectations(HttpTestCase):
    LENGTH = f"Content-Length: {len(BODY)}"

    def asking(self, *fields: str, version: str = "HTTP/1.1") -> bytes:
        return head(
            "Host: b", self.LENGTH, *fields, version=version, method="POST", target=POST_PATH
        )

    def test_continue(self) -> None:
        """``100-continue`` is recognised in any case, and if it is repeated."""
        for fields in (
            ["Expect: 100-Continue"],
            ["Expect: 100-continue, 100-continue"],
            ["Expect: 100-continue"] * 2,
            ["Expect:,100-CONTINUE"],
        ):
            client = self.connect()
            client.send(self.asking(*fields))
            self.assertEqual(bytes(client.received), b"HTTP/1.1 100 Continue\r\n\r\n")
            client.send(BODY)
            self.assertEqual([answer.status for answer in client.answers()], [100, 200])

    def test_nothing_expected(self) -> None:
        """An empty Expect field has no effect."""
        client = self.connect()
        client.send(self.asking("Expect: ", "Expect: ,"))
        self.assertEqual(bytes(client.received), b"")
        client.send(BODY)
        self.assertEqual([answer.status for answer in client.answers()], [200])

    def test_unknown(self) -> None:
        """Any other expectation is a 417 at once."""
        for value in ("200-ok", "100-continue, dinner", "100-continue;x=y", "100"):
            self.assertRefusedAndClosed(self.asking(f"Expect: {value}"), 417, EXPECTED)

    def test_http_1_0(self) -> None:
        """HTTP/1.0 has no expectations: the field is ignored (RFC 9110 §10.1.1), and a large body
        is read before it is refused.
        """
        for value in ("100-continue", "dinner"):
            client = self.connect()
            client.send(self.asking(f"Expect: {value}", version="HTTP/1.0"))
            self.assertEqual(bytes(client.received), b"")
            client.send(BODY)
            self.assertEqual([answer.status for answer in client.answers()], [200])
        client = self.connect()
        client.send(
            request("POST", POST_PATH, b"x" * 70_000, ["Expect: 100-continue"], version="HTTP/1.0")
        )
        self.assertEqual([answer.status for answer in client.answers()], [413])


class ContentEncodings(HttpTestCase):
    def test_identity(self) -> None:
        """A body without content coding is accepted, with or without ``identity``."""
        for values in (
            [""],
            ["identity"],
            ["Identity"],
            ["identity, IDENTITY"],
            ["", "identity"],
            [" , ,"],
        ):
            self.assertAccepted(
                self.post(BODY, *(f"Content-Encoding: {value}" for value in values))
            )

    def test_others(self) -> None:
        """Any other coding is a 415 that names the accepted one, and the connection stays open."""
        client = self.connect()
        for values in (
            ["gzip"],
            ["GZIP"],
            ["x-gzip"],
            ["deflate"],
            ["br"],
            ["zstd"],
            ["nonsense"],
            ["gzip, identity"],
            ["identity", "gzip"],
            [",gzip"],
        ):
            client.received.clear()
            client.send(
                request("POST", POST_PATH, BODY, [f"Content-Encoding: {value}" for value in values])
            )
            (answer,) = client.answers()
            self.assertRefused(answer, 415, ENCODED)
            self.assertEqual(answer.header("Accept-Encoding"), "identity")
        self.assertFalse(client.lost)

    def test_any_request_with_a_body(self) -> None:
        """The same holds for chunked bodies, other methods and other paths. In a request without a
        body the field is ignored.
        """
        self.knows(State.COMPLETED)
        encoded = ["Content-Encoding: gzip"]
        (answer,) = self.say(
            request("POST", POST_PATH, None, [*encoded, "Transfer-Encoding: chunked"])
            + chunked(BODY)
        )
        self.assertRefused(answer, 415, ENCODED)
        for method, path in (("GET", GET_PATH), ("DELETE", GET_PATH), ("PUT", "/nowhere")):
            self.assertRefused(self.ask(method, path, b"x", encoded), 415, ENCODED)
        self.assertEqual(self.ask("GET", GET_PATH, None, encoded).status, 200)
        self.assertEqual(self.ask("GET", GET_PATH, b"", encoded).status, 200)

    def test_asked_before(self) -> None:
        """A client that expects ``100-continue`` before such a body gets the refusal at once, and
        no 100.
        """
        data = request(
            "POST",
            POST_PATH,
            None,
            ["Content-Encoding: gzip", "Content-Length: 9", "Expect: 100-continue"],
        )
        self.assertRefusedAndClosed(data, 415, ENCODED)

    def test_problem(self) -> None:
        """A client that accepts problem details (RFC 9457) gets them here too."""
        answer = self.ask(
            "POST", POST_PATH, BODY, ["Content-Encoding: br", "Accept: application/problem+json"]
        )
        self.assertEqual(
            (answer.status, answer.header("Content-Type")), (415, "application/problem+json")
        )
        self.assertEqual(answer.json["detail"], ENCODED)


class Closing(HttpTestCase):
    def test_a_client_that_does_not_close(self) -> None:
        """A refused connection ends, whatever the client still sends."""
        client = self.connect()
        client.stop_reading()
        client.send(head())
        client.send(BODY * 100)
        self.network.advance(CLOSE_TIMEOUT_S)
        self.assertTrue(client.lost)


class HostsInPieces(Hosts):
    piece = 1


class FramingInPieces(Framing):
    piece = 1


class ExpectationsInPieces(Expectations):
    piece = 1
