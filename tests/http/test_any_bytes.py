"""Arbitrary bytes in arbitrary pieces: each answer is complete and JSON, no error is logged, and no
timer is left.
"""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

import tests.support.strategies  # noqa: F401 # Hypothesis settings
from rtprov.http.site import IDLE_TIMEOUT_S
from rtprov.model import State
from tests.support.front import BODY, GET_PATH, NO_TASK, POST_PATH, FrontendTestCase
from tests.support.raw_http import RawAnswer, RawClient, chunked, request

METHODS = ("GET", "POST", "HEAD", "OPTIONS", "get", "X")
PATHS = (
    GET_PATH,
    POST_PATH,
    GET_PATH[:-1],
    "/",
    "*",
    "//",
    "http://b" + GET_PATH,
    POST_PATH + "%00%FF%2F",
    "/%",
    "?",
)
FIELDS = (
    "Connection: close",
    "Connection: keep-alive",
    "Expect: 100-continue",
    "Content-Length: 3",
    "Transfer-Encoding: chunked",
    "Content-Type: text/plain",
    "Content-Type: application/json",
    "Host: ",
    "X:",
    "no field",
    " folded",
    "Upgrade: websocket",
    "X: " + "x" * 9000,
)
requests = st.builds(
    request,
    st.sampled_from([method for method in METHODS if method != "HEAD"]),
    st.sampled_from(PATHS),
    st.one_of(st.none(), st.just(BODY), st.binary(max_size=20), st.just(b"x" * 70_000)),
    st.lists(st.sampled_from(FIELDS), max_size=3),
    st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0"]),
)
fragments = st.one_of(
    requests,
    requests,
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"\r\n",
            b"\r\n\r\n",
            b"\x00",
            b"GET ",
            chunked(BODY),
            chunked(b"x" * 70_000),
            b"0\r\n\r\n",
            b"5\r\nabc",
        ]
    ),
)
streams = st.lists(fragments, min_size=1, max_size=6).map(b"".join)


class AnyBytes(FrontendTestCase):
    def talk(self, data: bytes, cuts: list[int]) -> tuple[RawClient, list[RawAnswer]]:
        """Send the bytes on a connection of their own, cut at these places; return the answers."""
        client = self.connect()
        places = [0, *sorted({cut % len(data) for cut in cuts}), len(data)] if data else [0, 0]
        for start, end in itertools.pairwise(places):
            client.send(data[start:end])
        return client, client.answers()

    @settings(max_examples=400)
    @given(streams, st.lists(st.integers(0, 100_000), max_size=8))
    def test_pieces_do_not_matter(self, data: bytes, cuts: list[int]) -> None:
        """The same bytes get the same answers in one piece and in several. Each answer is JSON, and
        the connection ends after the last one.
        """
        self.knows(State.RUNNING)
        whole, answers = self.talk(data, [])
        pieces, others = self.talk(data, cuts)
        self.assertEqual(
            [answer.status for answer in answers], [answer.status for answer in others]
        )
        self.assertEqual(whole.lost, pieces.lost)
        for answer in answers:
            if answer.status == 100:
                continue
            self.assertEqual(answer.header("Content-Type"), "application/json")
            self.assertEqual(
                answer.json["code"],
                204 if "running" in answer.json.get("message", "") else answer.status,
            )
        self.network.advance(2 * IDLE_TIMEOUT_S)
        self.assertTrue(whole.lost and pieces.lost)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    @settings(max_examples=100)
    @given(st.lists(st.sampled_from(METHODS), min_size=1, max_size=5))
    def test_after_any_methods(self, methods: list[str]) -> None:
        """Whatever requests came before on a connection, the next one gets its own answer."""
        client = self.connect()
        client.send(b"".join(request(method, "/") for method in methods) + request("GET", GET_PATH))
        self.assertError(client.answers(*methods, "GET")[-1], 404, NO_TASK)
        client.hang_up()
