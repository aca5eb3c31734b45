"""``/api/v1/session``: a token is exchanged for a cookie, which is accepted as the token is."""

from __future__ import annotations

import attrs

from rtprov.http.admission import Admission
from rtprov.http.session_cookie import COOKIE
from rtprov.http.site import JsonSite
from rtprov.model import State
from rtprov.security.sessions import LIFETIME_S
from rtprov.security.tokens import Role, Token, new_token
from tests.support.front import BODY, GET_PATH, POST_PATH, FrontendTestCase
from tests.support.raw_http import RawAnswer

SESSION = "/api/v1/session"
NO_CSRF = (
    "A request with a session cookie that changes something needs the header X-CSRF-Token, with the"
    " csrfToken of GET /api/v1/session"
)


class SessionTestCase(FrontendTestCase):
    """A front end (B) with the tokens "dash" (read) and "billing" (order)."""

    def setUp(self) -> None:
        super().setUp()
        dash, self.dash = new_token("dash", role=Role.READ)
        billing, self.billing = new_token("billing")
        self.admission = Admission(
            now=self.clock.seconds, wall_clock=self.clock.seconds, tokens=(dash, billing)
        )
        self.network.listen("b").listen(
            JsonSite(self.frontend.resource(), reactor=self.reactor, admission=self.admission)
        )
        self.knows(State.COMPLETED)

    def log_in(self, token: str) -> tuple[str, str]:
        """Log in; return the Cookie field and the X-CSRF-Token field of further requests."""
        answer = self.ask("POST", SESSION, None, [f"Authorization: Bearer {token}"])
        self.assertEqual(answer.status, 200, answer.body)
        cookie = str(answer.header("Set-Cookie")).partition(";")[0]
        return f"Cookie: a=b; {cookie}", f"X-CSRF-Token: {answer.json['session']['csrfToken']}"

    def change(self, name: str, role: Role) -> None:
        """Give a token another role, as a change of the tokens file does."""
        assert self.admission.tokens is not None
        self.admission.tokens = tuple(
            attrs.evolve(each, role=role) if each.name == name else each
            for each in self.admission.tokens
        )

    def only(self, name: str) -> tuple[Token, ...]:
        assert self.admission.tokens is not None
        return tuple(each for each in self.admission.tokens if each.name == name)


class LogIn(SessionTestCase):
    def test_cookie(self) -> None:
        """The cookie is for this host only, over TLS only, for no script and no other site, and for
        eight hours. The answer says who is logged in.
        """
        answer = self.ask("POST", SESSION, None, [f"Authorization: Bearer {self.dash}"])
        cookie, *attributes = str(answer.header("Set-Cookie")).split("; ")
        self.assertRegex(cookie, f"^{COOKIE}=[A-Za-z0-9_-]{{43}}$")
        self.assertEqual(
            set(attributes),
            {f"Max-Age={LIFETIME_S}", "Path=/", "Secure", "HttpOnly", "SameSite=Strict"},
        )
        session = answer.json["session"]
        self.assertEqual((session["caller"], session["role"]), ("token:dash", "read"))
        self.assertNotIn(self.dash.encode(), answer.body)
        self.assertEqual(answer.header("Cache-Control"), "no-store")

    def test_refused(self) -> None:
        """Without a valid token there is no session, and no cookie."""
        for fields in ([], ["Authorization: Bearer nonsense"]):
            answer = self.ask("POST", SESSION, None, fields)
            self.assertEqual((answer.status, answer.header("Set-Cookie")), (401, None))
            self.assertEqual(self.ask("GET", SESSION, None, fields).status, 401)
        self.assertEqual(len(self.admission.sessions), 0)

    def test_not_prolonged(self) -> None:
        """A session cannot begin another one; that needs the token."""
        answer = self.ask("POST", SESSION, None, self.log_in(self.billing))
        self.assertEqual((answer.status, answer.header("Set-Cookie")), (401, None))

    def test_foreign(self) -> None:
        """No page of another site can log in."""
        for field in ("Origin: https://evil.example", "Sec-Fetch-Site: cross-site"):
            fields = [f"Authorization: Bearer {self.billing}", field]
            self.assertEqual(self.ask("POST", SESSION, None, fields).status, 403)
        self.assertEqual(len(self.admission.sessions), 0)

    def test_parameters(self) -> None:
        """There are no query parameters."""
        for method in ("GET", "POST", "DELETE"):
            fields = [f"Authorization: Bearer {self.billing}"]
            self.assertError(self.ask(method, f"{SESSION}?x=1", None, fields), 400)
        self.assertEqual(len(self.admission.sessions), 0)

    def test_not_asked_for(self) -> None:
        """A front end without tokens needs no session: everybody may operate."""
        self.network.listen("b").listen(
            JsonSite(
                self.frontend.resource(),
                reactor=self.reactor,
                admission=Admission(now=self.clock.seconds, wall_clock=self.clock.seconds),
            )
        )
        for method in ("GET", "POST"):
            answer = self.ask(method, SESSION)
            self.assertEqual((answer.status, answer.header("Set-Cookie")), (200, None))
            session = answer.json["session"]
            self.assertEqual((session["role"], session["csrfToken"]), ("operate", None))

    def test_audited(self) -> None:
        """Log-in and log-out have an audit line, without secrets."""
        fields = self.log_in(self.billing)
        self.ask("DELETE", SESSION, None, fields)
        lines = [event for event in self.events if "by a browser" in event]
        self.assertEqual(len(lines), 2)
        secret = fields[0].rpartition("=")[2]
        for event in self.events:
            self.assertNotIn(secret, event)
            self.assertNotIn(self.billing, event)


class Cookie(SessionTestCase):
    def status(self, *fields: str) -> RawAnswer:
        return self.ask("GET", GET_PATH, None, fields)

    def test_reading(self) -> None:
        """The cookie is accepted as its token is, and GET returns the session's CSRF token."""
        cookie, csrf = self.log_in(self.dash)
        self.assertEqual(self.status(cookie).status, 200)
        session = self.ask("GET", SESSION, None, [cookie]).json["session"]
        self.assertEqual(f"X-CSRF-Token: {session['csrfToken']}", csrf)

    def test_changing(self) -> None:
        """A changing request needs the session's CSRF token. The task belongs to the token."""
        cookie, csrf = self.log_in(self.billing)
        other = self.log_in(self.billing)[1]
        for fields in ([], [other], [csrf, csrf], ["X-CSRF-Token: "], [f"{csrf}x"]):
            self.assertRefused(self.post(BODY, cookie, *fields), 403, NO_CSRF)
        self.assertEqual(self.ask("DELETE", SESSION, None, [cookie]).status, 403)
        self.assertAccepted(self.post(BODY, cookie, csrf))
        self.assertEqual(self.tasks.submitted[0].caller, "token:billing")

    def test_role(self) -> None:
        """The role is that of the token, as it is now."""
        fields = self.log_in(self.dash)
        self.assertEqual(self.post(BODY, *fields).status, 403)
        self.change("dash", Role.ORDER)
        self.assertAccepted(self.post(BODY, *fields))
        self.change("dash", Role.READ)
        self.assertEqual(self.ask("POST", POST_PATH, BODY, fields).status, 403)

    def test_removed_token(self) -> None:
        """If the token is removed, its sessions are refused at once; those of others are not."""
        (dash, _), (billing, _) = self.log_in(self.dash), self.log_in(self.billing)
        self.admission.tokens = self.only("billing")
        self.assertEqual(self.status(dash).status, 401)
        self.assertEqual(self.status(billing).status, 200)

    def test_ended(self) -> None:
        """After eight hours the cookie is a 401."""
        cookie, _ = self.log_in(self.dash)
        self.clock.advance(LIFETIME_S)
        self.assertEqual(self.status(cookie).status, 401)

    def test_logged_out(self) -> None:
        """After log-out the cookie is refused, and the browser is told to remove it. A reader may
        log out, too.
        """
        cookie, csrf = self.log_in(self.dash)
        answer = self.ask("DELETE", SESSION, None, [cookie, csrf])
        self.assertEqual(answer.status, 200)
        self.assertIn(f"{COOKIE}=; Max-Age=0;", str(answer.header("Set-Cookie")))
        self.assertEqual(self.status(cookie).status, 401)

    def test_token_first(self) -> None:
        """If a request has a token too, only that counts."""
        cookie, _ = self.log_in(self.dash)
        self.assertEqual(self.status(cookie, "Authorization: Bearer x").status, 401)
        self.assertAccepted(self.post(BODY, cookie, f"Authorization: Bearer {self.billing}"))

    def test_twice(self) -> None:
        """Two session cookies are as good as none."""
        first, second = self.log_in(self.dash)[0], self.log_in(self.dash)[0]
        self.assertEqual(self.status(first, second).status, 401)

    def test_files(self) -> None:
        """Files are served with a stale cookie as without one."""
        self.assertEqual(self.ask("GET", "/ui/docs.js", None, [f"Cookie: {COOKIE}=x"]).status, 200)
