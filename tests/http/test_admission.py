"""Admission to the front end: which requests are admitted, how others are refused, and that there
is no way around it.
"""

from __future__ import annotations

from typing import Any

from twisted.web.iweb import IRequest
from twisted.web.resource import Resource

import rtprov.http.request
from rtprov.http.admission import Admission
from rtprov.http.request import MAX_BODY_BYTES, caller_of, is_open
from rtprov.http.site import JsonSite
from rtprov.model import State
from rtprov.security.limits import Rate
from rtprov.security.tokens import Role, new_token
from tests.support.front import BODY, GET_PATH, NO_ROUTE, POST_PATH, FrontendTestCase
from tests.support.raw_http import RawAnswer, WebTestCase, chunked, request

MISSING = "Credentials are required: send Authorization: Bearer TOKEN"
MALFORMED = "The credentials are malformed: send one header field, Authorization: Bearer TOKEN"
UNKNOWN = "The credentials are not valid"
FORBIDDEN = (
    "These credentials do not allow this request: it needs the role order, and they have the role"
    " read"
)
CHALLENGE = 'Bearer realm="rtprov"'


class GateTestCase(FrontendTestCase):
    """A front end (B) that admits the token "billing" and, for reading, "dash"."""

    per_s: float | None = None

    def setUp(self) -> None:
        super().setUp()
        billing, self.billing = new_token("billing")
        dash, self.dash = new_token("dash", role=Role.READ)
        rate = None if self.per_s is None else Rate(self.per_s)
        self.admission = Admission(
            now=self.clock.seconds, wall_clock=self.clock.seconds, tokens=(billing, dash), rate=rate
        )
        self.network.listen("b").listen(
            JsonSite(self.frontend.resource(), reactor=self.reactor, admission=self.admission)
        )
        self.knows(State.COMPLETED)

    def bearer(self, token: str) -> str:
        return f"Authorization: Bearer {token}"

    def post_as(self, token: str) -> RawAnswer:
        return self.post(BODY, self.bearer(token))

    def get_as(self, token: str) -> RawAnswer:
        return self.ask("GET", GET_PATH, None, [self.bearer(token)])

    def assertTurnedAway(
        self, answer: RawAnswer, status: int, message: str, challenge: str | None
    ) -> None:
        self.assertRefused(answer, status, message)
        self.assertEqual(answer.header("WWW-Authenticate"), challenge)


class Health(GateTestCase):
    def test_open_to_all(self) -> None:
        """Liveness and readiness need no credentials, with or without a body. All other
        paths do.
        """
        for credentials in ([], ["Authorization: Bearer nonsense"], ["Authorization: nonsense"]):
            self.assertEqual(self.ask("GET", "/livez", None, credentials).status, 200)
            self.assertNotEqual(self.ask("GET", "/readyz", None, credentials).status, 401)
            for path in (
                "/openapi.json/",
                "/docs/",
                "/docs/x",
                "/docsx",
                "/livez/",
                "/livez/..",
                "/openapi.json%00",
            ):
                self.assertIn(self.ask("GET", path, None, credentials).status, (400, 401), path)

    def test_description(self) -> None:
        """The description of the interface is public, as page and as JSON, since it contains no
        secret.
        """
        for credentials in ([], ["Authorization: Bearer nonsense"], ["Authorization: nonsense"]):
            for path in ("/openapi.json", "/docs"):
                self.assertEqual(self.ask("GET", path, None, credentials).status, 200)

    def test_folders(self) -> None:
        """If a folder is public, all paths below it are. A path with only the same prefix
        is not.
        """
        self.patch(rtprov.http.request, "OPEN_FOLDERS", (b"/x/",))
        self.assertEqual(
            [is_open(path) for path in (b"/x/", b"/x/a/b.js", b"/x", b"/xy", b"/")],
            [True, True, False, False, False],
        )


class Tokens(GateTestCase):
    def test_let_in(self) -> None:
        """A request with a valid token is answered as without access control. The case of the
        scheme and spaces do not matter.
        """
        for field in (
            f"Bearer {self.billing}",
            f"bearer {self.billing}",
            f"BEARER   {self.billing} ",
        ):
            self.assertAccepted(self.post(BODY, f"Authorization: {field}"))
        self.assertEqual(self.get_as(self.billing).status, 200)
        self.assertError(self.ask("GET", "/", None, [self.bearer(self.billing)]), 404, NO_ROUTE)

    def test_missing(self) -> None:
        """A request without a token, or with credentials of another scheme, is a 401 that asks for
        a token (RFC 6750 §3).
        """
        self.assertTurnedAway(self.post(), 401, MISSING, CHALLENGE)
        for field in (
            "Basic am9lOnMzY3IzdA==",
            "",
            "Bear er",
            self.billing,
            f"Bearer{self.billing}",
        ):
            self.assertTurnedAway(
                self.post(BODY, f"Authorization: {field}"), 401, MISSING, CHALLENGE
            )
        self.assertTurnedAway(
            self.ask("POST", f"{POST_PATH}?access_token={self.billing}", BODY),
            401,
            MISSING,
            CHALLENGE,
        )

    def test_unknown(self) -> None:
        """An unknown token is a 401 that says so."""
        for token in ("x", self.billing[:-1], self.billing + "x", self.gate_hash()):
            self.assertTurnedAway(
                self.post_as(token), 401, UNKNOWN, f'{CHALLENGE}, error="invalid_token"'
            )

    def gate_hash(self) -> str:
        assert self.admission.tokens is not None
        return self.admission.tokens[0].digest.hex()

    def test_malformed(self) -> None:
        """Malformed credentials, or two of them, are a 400, even if one would be valid."""
        challenge = f'{CHALLENGE}, error="invalid_request"'
        for fields in (
            ["Bearer"],
            ["Bearer a b"],
            [f"Bearer {self.billing}, Bearer x"],
            ["Bearer ="],
            ['Bearer token="x"'],
        ):
            self.assertTurnedAway(
                self.post(BODY, *(f"Authorization: {field}" for field in fields)),
                400,
                MALFORMED,
                challenge,
            )
        for others in (self.billing, "x"):
            self.assertTurnedAway(
                self.post(BODY, self.bearer(self.billing), self.bearer(others)),
                400,
                MALFORMED,
                challenge,
            )
        self.assertTurnedAway(
            self.post(BODY, "Authorization: Basic x", self.bearer(self.billing)),
            400,
            MALFORMED,
            challenge,
        )

    def test_reading_only(self) -> None:
        """A read-only token may read statuses. Other requests with it are a 403."""
        self.assertEqual(self.get_as(self.dash).status, 200)
        self.assertTurnedAway(
            self.post_as(self.dash), 403, FORBIDDEN, f'{CHALLENGE}, error="insufficient_scope"'
        )
        for method in ("PUT", "DELETE", "get"):
            self.assertEqual(self.ask(method, GET_PATH, None, [self.bearer(self.dash)]).status, 403)

    def test_no_path_around(self) -> None:
        """Admission applies to every path and method, existing or not, in every spelling."""
        for path in (
            "/",
            "/nothing",
            GET_PATH,
            POST_PATH,
            "//",
            "/a%2Fb",
            "/%zz",
            "http://b/",
            "*",
        ):
            for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS", "frob"):
                answers = self.say(request(method, path), method)
                self.assertEqual([answer.status for answer in answers], [401], (method, path))
        self.assertEqual((self.tasks.submitted, self.statuses.asked), ([], []))

    def test_connection_goes_on(self) -> None:
        """Each request on a connection is checked separately."""
        client = self.connect()
        right, wrong = (
            request("GET", GET_PATH, None, [self.bearer(token)]) for token in (self.billing, "x")
        )
        client.send(
            right
            + wrong
            + request("GET", GET_PATH)
            + right
            + request("POST", POST_PATH, BODY)
            + right
        )
        self.assertEqual(
            [answer.status for answer in client.answers()], [200, 401, 401, 200, 401, 200]
        )
        self.assertFalse(client.lost)

    def test_revoked(self) -> None:
        """A revoked token is refused, even on a connection on which it was accepted before."""
        client, data = self.connect(), request("GET", GET_PATH, None, [self.bearer(self.billing)])
        client.send(data)
        self.admission.tokens = ()
        client.send(data)
        self.assertEqual([answer.status for answer in client.answers()], [200, 401])

    def test_body_is_not_kept(self) -> None:
        """The body of a refused request is read to its end, within the limit for discarded bodies,
        but not stored.
        """
        client = self.connect()
        head = request(
            "POST",
            POST_PATH,
            None,
            ["Content-Type: application/json", "Transfer-Encoding: chunked"],
        )
        client.send(head + chunked(b"x" * MAX_BODY_BYTES)[:-5])
        (held,) = self.requests()
        self.assertEqual(held.content.getvalue(), b"")
        client.send(b"0\r\n\r\n")
        self.assertTurnedAway(client.answers()[0], 401, MISSING, CHALLENGE)

    def requests(self) -> list[Any]:
        """Return what the front end stores of incomplete requests."""
        _, end = self.network.connections[-1]
        channel: Any = end.other.protocol
        return list(channel.requests)

    def test_expect(self) -> None:
        """A client without credentials that expects ``100-continue`` gets the refusal instead, and
        the connection is closed.
        """
        head, _, body = request("POST", POST_PATH, BODY, ["Expect: 100-continue"]).partition(
            b"\r\n\r\n"
        )
        client = self.connect()
        client.send(head + b"\r\n\r\n")
        (answer,) = client.answers()
        self.assertTurnedAway(answer, 401, MISSING, CHALLENGE)
        self.assertTrue(client.lost)
        client = self.connect()
        client.send(head + f"\r\n{self.bearer(self.billing)}\r\n\r\n".encode())
        client.send(body)
        self.assertEqual([answer.status for answer in client.answers()], [100, 200])

    def test_not_logged(self) -> None:
        """No token, valid or not, appears in the log or in an answer."""
        for token in (self.billing, "wr0ng"):
            answer = self.post_as(token)
            self.assertNotIn(token.encode(), answer.body)
            self.assertEqual([event for event in self.events if token in event], [])


class TokensInPieces(Tokens):
    piece = 1


class Rates(GateTestCase):
    per_s = 0.5

    def test_too_many(self) -> None:
        """A request over the rate limit is a 429 that says when to try again. At that time it is
        accepted.
        """
        self.assertAccepted(self.post_as(self.billing))
        answer = self.post_as(self.billing)
        self.assertError(answer, 429, "Too many requests")
        self.assertEqual((answer.header("Retry-After"), len(self.tasks.submitted)), ("2", 1))
        self.network.advance(2)
        self.assertAccepted(self.post_as(self.billing))

    def test_by_token(self) -> None:
        """Each token is counted separately, over all connections. Clients without a valid token are
        counted by address, before they are refused.
        """
        self.assertEqual(
            [self.get_as(token).status for token in (self.billing, self.dash, self.billing)],
            [200, 200, 429],
        )
        self.assertEqual([self.get_as(token).status for token in ("x", "y")], [401, 429])
        self.assertEqual(self.ask("GET", "/").status, 429)

    def test_expect(self) -> None:
        """A client over the limit that expects ``100-continue`` gets the 429 at once."""
        self.post_as(self.billing)
        (answer,) = self.say(
            request(
                "POST",
                POST_PATH,
                None,
                ["Expect: 100-continue", "Content-Length: 9", self.bearer(self.billing)],
            )
        )
        self.assertError(answer, 429, "Too many requests")
        self.assertEqual(
            (answer.header("Retry-After"), answer.header("Connection")), ("2", "close")
        )


class Callers(WebTestCase):
    """What a handler learns about the caller of a request."""

    def served(self, admission: Admission | None, *fields: str) -> bytes:
        class Who(Resource):
            isLeaf = True

            def render(self, request: IRequest) -> bytes:
                return caller_of(request).name.encode()

        self.network.listen("b").listen(JsonSite(Who(), reactor=self.reactor, admission=admission))
        return self.ask("GET", "/", None, fields).body

    def test_names(self) -> None:
        """Without tokens the caller is the address, with tokens the token's name."""
        self.assertEqual(self.served(None), b"address:127.0.0.1")
        self.assertEqual(
            self.served(Admission(now=self.clock.seconds, wall_clock=self.clock.seconds)),
            b"address:127.0.0.1",
        )
        token, secret = new_token("billing")
        admission = Admission(
            now=self.clock.seconds, wall_clock=self.clock.seconds, tokens=(token,)
        )
        self.assertEqual(
            self.served(admission, f"Authorization: Bearer {secret}"), b"token:billing"
        )
