"""Cross-site requests of browsers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from rtprov.http.admission import Admission
from rtprov.http.same_origin import is_foreign
from rtprov.http.site import JsonSite
from rtprov.model import State
from rtprov.security.tokens import new_token
from tests.support.front import BODY, GET_PATH, POST_PATH, FrontendTestCase

MESSAGE = (
    "Requests that change something are not accepted from pages of other sites (see Origin"
    " and Sec-Fetch-Site)"
)


class Rules(SynchronousTestCase):
    def foreign(
        self, host: str = "b.example:8443", *, secure: bool = True, **fields: list[str]
    ) -> bool:
        headers = Headers(
            {"Host": [host], **{name.replace("_", "-"): values for name, values in fields.items()}}
        )
        return is_foreign(headers, secure)

    def test_no_browser(self) -> None:
        """A client that is not a browser sends no origin, and is accepted."""
        self.assertFalse(self.foreign())

    def test_site(self) -> None:
        """Requests from a page of the same origin, and those started by the user, are accepted.
        Those from other sites, and with unknown values, are not.
        """
        for site, foreign in (
            ("same-origin", False),
            ("none", False),
            ("same-site", True),
            ("cross-site", True),
            ("", True),
            ("x", True),
        ):
            self.assertEqual(self.foreign(Sec_Fetch_Site=[site]), foreign, site)
        self.assertTrue(self.foreign(Sec_Fetch_Site=["none", "none"]))

    def test_origin(self) -> None:
        """The origin must equal the scheme, host and port of the request."""
        for origin in (
            "https://b.example:8443",
            "HTTPS://B.Example:8443",
            " https://b.example:8443 ",
        ):
            self.assertFalse(self.foreign(Origin=[origin]), origin)
        for origin in (
            "null",
            "",
            "https://b.example",
            "http://b.example:8443",
            "https://b.example:8443.evil.example",
            "https://evil.example",
            "b.example:8443",
            "https://b.example:8443/",
        ):
            self.assertTrue(self.foreign(Origin=[origin]), origin)
        self.assertTrue(self.foreign(Origin=["https://b.example:8443"] * 2))

    def test_default_port(self) -> None:
        """The default port of a scheme may be omitted on either side."""
        for host, origin, secure in (
            ("b.example", "https://b.example", True),
            ("b.example:443", "https://b.example", True),
            ("b.example", "http://b.example", False),
            ("[::1]:80", "http://[::1]", False),
        ):
            self.assertFalse(self.foreign(host, secure=secure, Origin=[origin]), host)
        self.assertTrue(self.foreign("b.example:80", Origin=["https://b.example"]))

    def test_either(self) -> None:
        """One field that names another site is enough to refuse."""
        self.assertTrue(
            self.foreign(Origin=["https://b.example:8443"], Sec_Fetch_Site=["cross-site"])
        )
        self.assertTrue(self.foreign(Origin=["null"], Sec_Fetch_Site=["none"]))


class Requests(FrontendTestCase):
    def test_changing(self) -> None:
        """Cross-site requests that could change something are a 403, on any path. Reading is
        allowed, as are requests from our own pages.
        """
        self.knows(State.COMPLETED)
        for field in ("Origin: https://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site"):
            for method, path in (
                ("POST", POST_PATH),
                ("DELETE", GET_PATH),
                ("PUT", "/nothing"),
                ("post", POST_PATH),
            ):
                answer = self.ask(method, path, BODY, [field])
                self.assertRefused(answer, 403, MESSAGE)
                self.assertIsNone(answer.header("WWW-Authenticate"))
            self.assertEqual(self.ask("GET", GET_PATH, None, [field]).status, 200)
        self.assertEqual(self.tasks.called_off, [])
        self.assertAccepted(self.post(BODY, "Origin: http://b", "Sec-Fetch-Site: same-origin"))

    def test_whatever_the_log_in(self) -> None:
        """A cross-site request that could change something is a 403 with valid credentials, with
        invalid ones and without any, also if it asks whether to send its body. The method of a
        request that only reads does not matter.
        """
        token, secret = new_token("billing")
        admission = Admission(
            now=self.clock.seconds, wall_clock=self.clock.seconds, tokens=(token,)
        )
        self.network.listen("b").listen(
            JsonSite(self.frontend.resource(), reactor=self.reactor, admission=admission)
        )
        origin = "Origin: https://evil.example"
        for fields in ((f"Authorization: Bearer {secret}",), ("Authorization: Bearer x",), ()):
            self.assertRefused(self.post(BODY, origin, *fields), 403, MESSAGE)
            self.assertRefused(self.ask("DELETE", GET_PATH, None, [origin, *fields]), 403, MESSAGE)
        self.assertRefused(self.post(BODY, origin, "Expect: 100-continue"), 403, MESSAGE)
        self.assertRefused(self.ask("POST", "/ui/", BODY, [origin]), 403, MESSAGE)
        self.assertEqual(self.ask("GET", GET_PATH, None, [origin]).status, 401)
        self.assertEqual(self.post(BODY, "Origin: http://b").status, 401)


class RequestsInPieces(Requests):
    piece = 1
