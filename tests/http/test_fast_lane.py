"""The fast lane: which requests take it, and that nobody can tell from the answers.

`tests.support.both_ways` runs all other tests of the web's packages on both ways as well.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from klein import Klein
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IRequest

import tests.support.strategies  # noqa: F401 # Hypothesis settings
from rtprov.errors import NoReply, NoWorker, Overloaded, Unconfirmed
from rtprov.frontend.resource import Frontend
from rtprov.http.channel import EAGER_BYTES
from rtprov.http.fast_lane import MAX_FIELDS, MAX_HEAD_BYTES, PlainRoutes, read_plain
from rtprov.http.site import IDLE_TIMEOUT_S
from rtprov.model import State
from tests.support.front import BODY, CPE, GET_PATH, ID, POST_PATH, TASK, FrontendTestCase
from tests.support.memory import HIGH_WATER, MemoryTransport
from tests.support.raw_http import chunked, request
from tests.support.scale import FULL, QUICK, slow
from tests.support.two_ways import ORDER, READ, Conversation

EXAMPLES = 5000 if FULL else 50 if QUICK else 300
GET = request("GET", GET_PATH)
POST = request("POST", POST_PATH, BODY)
CLIENTS = {
    "curl": ["User-Agent: curl/8.5.0", "Accept: */*"],
    "requests": [
        "User-Agent: python-requests/2.32.3",
        "Accept-Encoding: gzip, deflate",
        "Accept: */*",
        "Connection: keep-alive",
    ],
    "Go": ["User-Agent: Go-http-client/1.1", "Accept-Encoding: gzip"],
    "Java": ["User-Agent: Java-http-client/21"],
    "with a key": ["Idempotency-Key: 1234", "Prefer: wait=3", "Authorization: Bearer x.y"],
}


class Plain(SynchronousTestCase):
    """`read_plain` finds the plain requests."""

    def test_clients(self) -> None:
        """The requests of common clients are plain."""
        for name, fields in CLIENTS.items():
            head = read_plain(request("GET", GET_PATH, None, fields))
            self.assertIsNotNone(head, name)
            head = read_plain(request("POST", POST_PATH, BODY, fields))
            assert head is not None
            self.assertEqual(
                (head.method, head.path, head.body), (b"POST", POST_PATH.encode(), BODY)
            )
            for field in fields:
                field_name, _, value = field.partition(": ")
                self.assertEqual(head.headers.getRawHeaders(field_name), [value])

    def test_others(self) -> None:
        """A request is left to Twisted if it differs from a plain one in anything that matters."""
        for data in (
            b"",
            GET[:-1],
            GET + b"G",
            GET * 2,
            b"\r\n" + GET,
            GET.replace(b"\r\n", b"\n"),
            GET.replace(b"HTTP/1.1", b"HTTP/1.0"),
            GET.replace(b"HTTP/1.1", b"HTTP/1.1 "),
            GET.replace(b"GET", b"get"),
            GET.replace(b"GET", b"DELETE"),
            GET.replace(b"/api", b"http://b/api"),
            GET.replace(b"Host: b", b"Host : b"),
            GET.replace(b"Host: b", b"Host: "),
            GET.replace(b"Host: b", b"Host: b b"),
            GET.replace(b"Host: b", b"Host: b:99999"),
            GET.replace(b"Host: b", b"Hosts: b"),
            GET.replace(b"Host: b", b"Host: b\r\n folded"),
            POST[:-1],
            POST + b"x",
            POST + GET,
            request("POST", POST_PATH),
            request("POST", POST_PATH, None, ["Content-Length: 0"]),
            request("GET", GET_PATH, BODY),
            request("POST", POST_PATH, b"x" * 65537),
            POST.replace(b"Content-Length: ", b"Content-Length: 0"),
            POST.replace(b"Content-Length: ", b"Content-Length: +"),
            request("POST", POST_PATH, None, ["Transfer-Encoding: chunked"]) + chunked(BODY),
            *(
                request("GET", GET_PATH, None, [field])
                for field in (
                    "Host: b",
                    "Connection: close",
                    "Connection: Upgrade",
                    "Connection: keep-alive, close",
                    "Content-Length: 0",
                    "Expect: 100-continue",
                    "Upgrade: h2c",
                    "Origin: https://b",
                    "Sec-Fetch-Site: none",
                    "Cookie: a=b",
                    "X:",
                    "X: \t",
                    "X: a\tb",
                    "X: \xff",
                    "X: \x7f",
                    "X: \0",
                    "no field",
                    "\xe9: x",
                    "X: " + "x" * MAX_HEAD_BYTES,
                )
            ),
            request("GET", GET_PATH, None, ["Accept: a", "accept: b"]),
            request("GET", GET_PATH, None, [f"X{number}: x" for number in range(MAX_FIELDS)]),
        ):
            self.assertIsNone(read_plain(data), data[:200])

    def test_routes(self) -> None:
        """Klein's routing finds the same handler and arguments for each path of the fast lane."""
        app = Frontend.app
        for method, path, endpoint in (
            ("POST", POST_PATH, "_submit"),
            ("POST", CPE + "x", "_submit"),
            ("GET", GET_PATH, "_status"),
            ("GET", f"{CPE}a/task/b", "_status"),
        ):
            found, arguments = app.url_map.bind("rtprov").match(path, method)
            self.assertEqual(found, endpoint)
            called: list[Any] = []
            routes = PlainRoutes(
                cast("Klein", _App(called)),
                {
                    (b"POST", CPE + "<string(minlength=0):equipment_id>"): "_submit",
                    (
                        b"GET",
                        CPE
                        + "<string(minlength=0):equipment_id>/task/<string(minlength=0):task_id>",
                    ): "_status",
                },
            )
            head = read_plain(request(method, path, BODY if method == "POST" else None))
            assert head is not None
            handler = routes.handler(head)
            assert handler is not None
            handler(cast("IRequest", None))
            self.assertEqual(called, [(endpoint, arguments)])

    def test_other_routes(self) -> None:
        """Another path has no handler in the fast lane: it is left to Klein."""
        routes = Conversation(fast_lane=True).routes
        for method, path in (
            ("GET", "/"),
            ("GET", "/livez"),
            ("GET", POST_PATH),
            ("GET", POST_PATH + "/task"),
            ("GET", GET_PATH + "?x"),
            ("GET", GET_PATH + "/"),
            ("GET", GET_PATH.replace("task", "%74ask")),
            ("GET", f"/{GET_PATH}"),
            ("GET", f"{CPE}{ID}//task/{TASK}"),
            ("GET", f"{CPE}../task/{TASK}"),
            ("GET", f"{CPE}{ID}#/task/{TASK}"),
            ("POST", CPE),
            ("POST", POST_PATH + "%41"),
            ("POST", POST_PATH + "/"),
        ):
            head = read_plain(request(method, path, BODY if method == "POST" else None))
            assert head is not None
            self.assertIsNone(routes.handler(head), path)


class _App:
    """A Klein app that only remembers what is called."""

    endpoints = ("_submit", "_status")

    def __init__(self, called: list[Any]) -> None:
        self._called = called

    def execute_endpoint(self, endpoint: str, request: object, **arguments: str) -> bytes:
        self._called.append((endpoint, arguments))
        return b""


Step = Callable[[Conversation], object]

FIELDS = (
    "Connection: close",
    "Connection: keep-alive",
    "connection: Keep-Alive",
    "Expect: 100-continue",
    "Content-Length: 3",
    "Transfer-Encoding: chunked",
    "Content-Type: text/plain",
    "Content-Type: application/json",
    "Content-Encoding: gzip",
    "Content-Encoding: identity",
    "Host: b",
    "Host: ",
    "X:",
    "X:   spaces  ",
    "X: \ttab",
    "X: \xe9",
    "no field",
    " folded",
    "Upgrade: websocket",
    "Origin: https://evil",
    "Origin: http://b",
    "Sec-Fetch-Site: cross-site",
    "Cookie: a=b",
    "Accept: application/problem+json",
    "Accept: */*",
    "accept: text/html",
    "Prefer: wait=2",
    "Prefer: wait=nonsense",
    "Idempotency-Key: 12345678",
    "Idempotency-Key: \x7f",
    f"Authorization: Bearer {ORDER}",
    f"Authorization: Bearer {ORDER}",
    f"Authorization: Bearer {READ}",
    "Authorization: Bearer unknown",
    "authorization: nonsense",
    "X: " + "x" * 5000,
    "X: " + "x" * 17000,
)
PATHS = (
    GET_PATH,
    GET_PATH,
    POST_PATH,
    POST_PATH,
    CPE + "SHORT",
    f"{CPE}{ID}/task/unknown",
    f"{CPE}{ID}/task/{TASK}?wait=1",
    POST_PATH + "?x=1",
    POST_PATH + "/",
    POST_PATH + "%41",
    "http://b" + GET_PATH,
    "//b" + GET_PATH,
    "/livez",
    "/",
)
BODIES = (
    None,
    None,
    BODY,
    BODY,
    BODY,
    b"{}",
    b"not JSON",
    BODY.replace(b"14", b"0"),
    BODY.replace(b"534", b"5340"),
    b"x" * 65536,
    b"x" * 65537,
)
plain_requests = st.one_of(
    st.builds(
        lambda fields: request("GET", GET_PATH, None, fields),
        st.lists(st.sampled_from(FIELDS), max_size=2),
    ),
    st.builds(
        lambda fields, body: request("POST", POST_PATH, body, fields),
        st.lists(st.sampled_from(FIELDS), max_size=2),
        st.sampled_from([body for body in BODIES if body]),
    ),
)
any_requests = st.builds(
    request,
    st.sampled_from(["GET", "GET", "POST", "POST", "HEAD", "DELETE", "OPTIONS", "get", "PUT"]),
    st.sampled_from(PATHS),
    st.sampled_from(BODIES),
    st.lists(st.sampled_from(FIELDS), max_size=4),
    st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0"]),
)


def mutated(data: bytes, place: int, byte: int) -> bytes:
    """Return the data with one byte replaced."""
    place %= len(data)
    return data[:place] + bytes([byte]) + data[place + 1 :]


streams = st.one_of(
    plain_requests,
    plain_requests,
    any_requests,
    st.builds(mutated, plain_requests, st.integers(0, 400), st.integers(0, 255)),
    st.lists(plain_requests, min_size=2, max_size=4).map(b"".join),
    st.builds(lambda data, end: data[: -1 - end % len(data)], plain_requests, st.integers(0, 400)),
    st.binary(max_size=5),
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return the data in the pieces between these places."""
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


pieces = st.builds(cut, streams, st.lists(st.integers(0, 2000), max_size=2))
clients = st.integers(0, 2)
outcomes = st.sampled_from(
    [*State, None, NoWorker("none"), NoReply("late"), Unconfirmed("x"), KeyError("internals")]
)
steps = st.one_of(
    st.builds(lambda n, parts: lambda talk: talk.send(n, parts), clients, pieces),
    st.builds(lambda n, parts: lambda talk: talk.send(n, parts), clients, pieces),
    st.builds(lambda n, parts: lambda talk: talk.send(n, parts), clients, pieces),
    st.builds(
        lambda n, parts: lambda talk: talk.burst(n, parts),
        clients,
        st.lists(plain_requests, min_size=2, max_size=3),
    ),
    st.builds(lambda state: lambda talk: talk.answer(state), outcomes),
    st.builds(
        lambda seconds: lambda talk: talk.network.advance(seconds),
        st.sampled_from([0.0, 0.3, 1.0, 4.6, 14.9, 59.5, 60.0, 61.0]),
    ),
    st.builds(lambda n: lambda talk: talk.client(n).hang_up(), clients),
    st.just(lambda talk: setattr(talk.statuses, "silent", not talk.statuses.silent)),
    st.just(lambda talk: setattr(talk.tasks, "silent", not talk.tasks.silent)),
    st.sampled_from(
        [
            lambda talk, error=error: setattr(talk.tasks, "error", error)
            for error in (None, Overloaded("full"), Unconfirmed("lost"), KeyError("internals"))
        ]
    ),
    st.just(lambda talk: talk.statuses.states.update({(TASK, ID): State.RUNNING})),
    st.just(lambda talk: talk.statuses.states.update({(TASK, ID): State.COMPLETED})),
    st.just(lambda talk: talk.site.close()),
)


class Differential(SynchronousTestCase):
    """Both ways say the same, byte by byte, close at the same time, and log the same lines."""

    maxDiff = None

    def compare(self, taken: list[Step], **options: Any) -> int:
        """Have a conversation on both ways. Return how many requests took the fast lane."""
        fast = Conversation(fast_lane=True, **options)
        twisted = Conversation(fast_lane=False, **options)
        said, expected = fast.run(taken), twisted.run(taken)
        self.flushLoggedErrors(KeyError)
        self.assertEqual(said, expected)
        return fast.routes.taken

    @settings(max_examples=EXAMPLES)
    @given(
        st.lists(steps, min_size=1, max_size=12),
        st.booleans(),
        st.sampled_from([None, None, 0.5, 3.0]),
        st.sampled_from([200, 202, 204]),
    )
    def test_any_conversation(
        self, taken: list[Step], tokens: bool, per_s: float | None, running: int
    ) -> None:
        """Any requests, in any pieces, from several clients, with any trouble."""
        self.compare(taken, tokens=tokens, per_s=per_s, running=running)

    @settings(max_examples=EXAMPLES)
    @given(st.lists(streams, min_size=1, max_size=3), st.sampled_from(list(State)))
    def test_any_stream(self, sent: list[bytes], state: State) -> None:
        """Any requests on one connection, each in a piece of its own."""

        def prepare(talk: Conversation) -> None:
            talk.statuses.states[TASK, ID] = state

        self.compare([prepare, lambda talk: talk.send(0, sent)])

    @slow
    def test_cut_anywhere(self) -> None:
        """A stream of requests, cut at each of its bytes."""
        for data in (
            GET + POST,
            request("POST", POST_PATH, BODY, ["Expect: 100-continue"]) + GET,
            request("GET", GET_PATH, None, ["Connection: close"]) + GET,
            GET.replace(b"HTTP/1.1", b"HTTP/1.0"),
            request("POST", POST_PATH, None, ["Transfer-Encoding: chunked"]) + chunked(BODY) + GET,
        ):
            for send in (Conversation.send, Conversation.burst):
                self.compare(
                    [
                        partial(send, number=place, parts=(data[:place], data[place:]))
                        for place in range(len(data))
                    ]
                )

    def test_it_is_taken(self) -> None:
        """The comparison is one of two ways: plain requests do take the fast lane."""
        for fields in CLIENTS.values():
            sent = (
                request("GET", GET_PATH, None, fields),
                request("POST", POST_PATH, BODY, fields),
            )
            step = partial(Conversation.send, number=0, parts=sent)
            self.assertEqual(self.compare([step]), 2)


class Connections(FrontendTestCase):
    """The limits of a connection hold for plain requests. Each test runs on both ways."""

    def test_in_turn(self) -> None:
        """Other connections are served between plain requests that arrive in one turn."""
        greedy, modest = self.connect(), self.connect()
        for client, path, times in ((greedy, "GREEDY01", 3), (modest, "MODEST01", 1)):
            server = cast("MemoryTransport", client.transport).other
            for _ in range(times):
                server.protocol.dataReceived(request("POST", CPE + path, BODY))
        self.network.settle()
        self.assertEqual(
            [task.equipment_id for task in self.tasks.submitted],
            ["GREEDY01", "MODEST01", "GREEDY01", "GREEDY01"],
        )

    def test_unread(self) -> None:
        """Answers are sent only as fast as the client reads."""
        client = self.connect()
        client.stop_reading()
        server = cast("MemoryTransport", client.transport).other
        for _ in range(3000):
            server.protocol.dataReceived(GET)
            self.network.settle()
        self.assertLess(server.written, 2 * HIGH_WATER)
        cast("MemoryTransport", client.transport).resumeProducing()
        self.network.settle()
        self.assertEqual(len(client.answers()), 3000)

    def test_idle(self) -> None:
        """The time limit of an idle connection starts with the last answer."""
        self.knows(State.COMPLETED)
        client = self.connect()
        for _ in range(5):
            client.send(GET)
            self.network.advance(IDLE_TIMEOUT_S - 1)
        self.assertFalse(client.lost)
        self.network.advance(2)
        self.assertTrue(client.lost)

    def test_a_request_after_plain_ones(self) -> None:
        """A request that does not arrive as a whole has its own time limit after plain ones."""
        client = self.connect()
        self.network.advance(IDLE_TIMEOUT_S - 10)
        client.send(GET)
        self.network.advance(9)
        client.send(POST[:50])
        self.network.advance(IDLE_TIMEOUT_S - 1)
        self.assertEqual([answer.status for answer in client.answers()], [404])
        self.network.advance(2)
        self.assertEqual([answer.status for answer in client.answers()], [404, 408])

    def test_longer_than_the_limit(self) -> None:
        """A request that is answered late does not count as idle."""
        self.statuses.silent = True
        self.knows(State.RUNNING)
        client = self.connect()
        self.network.advance(IDLE_TIMEOUT_S - 2)
        client.send(request("GET", GET_PATH, None, ["Prefer: wait=30"]))
        self.statuses.asked[0].callback(State.RUNNING)
        self.network.advance(20)
        self.ends.waiting[0][2].callback(State.COMPLETED)
        self.network.settle()
        self.assertEqual([answer.status for answer in client.answers()], [200])
        self.network.advance(IDLE_TIMEOUT_S - 1)
        self.assertFalse(client.lost)
        self.network.advance(2)
        self.assertTrue(client.lost)

    def test_gone(self) -> None:
        """A handler is cancelled when its client hangs up, also with a part of another request."""
        self.tasks.silent = True
        for rest in (b"", b"GET", b"x" * (EAGER_BYTES - 10)):
            client = self.connect()
            client.send(POST)
            client.send(rest)
            self.assertTrue(cast("MemoryTransport", client.transport).other.reading)
            cancelled = self.tasks.cancelled
            client.hang_up()
            self.assertEqual(self.tasks.cancelled, cancelled + 1)

    def test_much_behind_a_request(self) -> None:
        """What arrives behind a request under way is read only up to a limit."""
        self.tasks.silent = True
        client = self.connect()
        client.send(POST)
        client.send(b"x" * (EAGER_BYTES + 1))
        self.assertFalse(cast("MemoryTransport", client.transport).other.reading)
