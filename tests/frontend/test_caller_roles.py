"""What callers may do: by the roles of tokens and certificates, and by the owner of a task."""

from __future__ import annotations

from datetime import date
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from rtprov.errors import CredentialsExpired, Forbidden
from rtprov.frontend.query_parameters import parse_reason
from rtprov.http.admission import Admission, Caller
from rtprov.http.site import JsonSite
from rtprov.model import Requested, State
from rtprov.security.tokens import Role, Token, new_token
from tests.support.front import BODY, CPE, GET_PATH, ID, TASK, FrontendTestCase
from tests.support.raw_http import RawAnswer

EXPIRES = 1801440000.0  # 2027-02-01T00:00:00Z


class Roles(SynchronousTestCase):
    def test_methods(self) -> None:
        """A read-only caller may change nothing, on any path. The error names the required role."""
        reader = Caller("token:dash", Role.READ)
        for method in (b"GET", b"HEAD", b"OPTIONS"):
            reader.check_method(method)
        for method in (b"POST", b"DELETE", b"PUT", b"~get"):
            error = self.assertRaises(Forbidden, reader.check_method, method)
            self.assertEqual(
                str(error),
                "These credentials do not allow this request: it needs the role order, and they"
                " have the role read",
            )
            Caller("token:billing", Role.ORDER).check_method(method)
        self.assertRaises(Forbidden, Caller("token:billing", Role.ORDER).require, Role.OPERATE)
        Caller("token:shift", Role.OPERATE).require(Role.OPERATE)

    def admitted(
        self, caller: Caller, *tokens: Token, secret: str = "", now: float = 0.0, **options: Any
    ) -> Caller:
        admission = Admission(
            now=lambda: 0.0, wall_clock=lambda: now, tokens=tokens or None, **options
        )
        return admission.admit(
            Headers({"Authorization": [f"Bearer {secret}"]} if secret else {}), caller
        )

    def test_nobody_asks(self) -> None:
        """Without configured credentials, everyone may do everything."""
        self.assertEqual(
            self.admitted(Caller("address:local")), Caller("address:local", Role.OPERATE)
        )

    def test_certificates(self) -> None:
        """A client with a certificate has the role configured for its name, by default `order`,
        also if the certificate has no name.
        """
        roles = {"host7": Role.OPERATE, "dash": Role.READ}
        for name, role in (("host7", Role.OPERATE), ("dash", Role.READ), ("host8", Role.ORDER)):
            caller = self.admitted(Caller(f"certificate:{name}"), certificates=True, roles=roles)
            self.assertEqual(caller.role, role)
        self.assertEqual(
            self.admitted(Caller("address:host7"), certificates=True, roles=roles).role, Role.ORDER
        )

    def test_tokens(self) -> None:
        """A token has its own role, whatever certificate comes with it."""
        for role in Role:
            token, secret = new_token("billing", role=role)
            caller = self.admitted(
                Caller("certificate:host7"),
                token,
                secret=secret,
                certificates=True,
                roles={"host7": Role.OPERATE},
            )
            self.assertEqual(caller, Caller("token:billing", role))

    def test_expired(self) -> None:
        """A token is valid until the end of its last day in UTC."""
        token, secret = new_token("billing", expires=date(2027, 1, 31))
        self.assertEqual(
            self.admitted(Caller("address:local"), token, secret=secret, now=EXPIRES - 1).name,
            "token:billing",
        )
        self.assertRaises(
            CredentialsExpired,
            self.admitted,
            Caller("address:local"),
            token,
            secret=secret,
            now=EXPIRES,
        )


class Ownership(FrontendTestCase):
    """A front end (B) with the tokens "billing" and "shop", which may order, "dash", which may
    read, and "shift", which may operate.
    """

    def setUp(self) -> None:
        super().setUp()
        self.tokens: dict[str, str] = {}
        known = []
        for name, role in (
            ("billing", Role.ORDER),
            ("shop", Role.ORDER),
            ("dash", Role.READ),
            ("shift", Role.OPERATE),
        ):
            token, self.tokens[name] = new_token(name, role=role)
            known.append(token)
        admission = Admission(
            now=self.clock.seconds, wall_clock=self.clock.seconds, tokens=tuple(known)
        )
        self.network.listen("b").listen(
            JsonSite(self.frontend.resource(), reactor=self.reactor, admission=admission)
        )

    def by(
        self, name: str, method: str, path: str, body: bytes | None = None, *fields: str
    ) -> RawAnswer:
        return self.ask(method, path, body, [f"Authorization: Bearer {self.tokens[name]}", *fields])

    def test_own(self) -> None:
        """The caller who posted a task may cancel it, and the details name that caller."""
        self.assertAccepted(self.by("billing", "POST", f"{CPE}{ID}", BODY))
        details = self.by("dash", "GET", f"/api/v1/tasks/{TASK}").json["task"]
        self.assertEqual((details["caller"], details["acceptedBy"]), ("token:billing", "f1"))
        self.assertEqual(self.by("billing", "DELETE", GET_PATH).status, 200)

    def test_anothers(self) -> None:
        """Another caller cannot cancel the task, ended or not. An operator can cancel any task."""
        self.assertAccepted(self.by("billing", "POST", f"{CPE}{ID}", BODY))
        message = (
            "These credentials do not allow this request, because the task belongs to another"
            " caller: it needs the role operate, and they have the role order"
        )
        self.assertError(self.by("shop", "DELETE", GET_PATH), 403, message)
        self.assertEqual(
            (self.by("dash", "DELETE", GET_PATH).status, self.tasks.called_off), (403, [])
        )
        self.assertEqual(self.store.lookup(TASK, ID), State.RUNNING)
        self.assertEqual(self.by("shift", "DELETE", GET_PATH).status, 200)
        self.assertError(self.by("shop", "DELETE", GET_PATH), 403, message)

    def test_of_nobody(self) -> None:
        """A task whose caller is not in the journal may be cancelled by every caller who
        may order.
        """
        self.store.apply(Requested(TASK, ID, 1000.0))
        self.assertEqual(self.by("shop", "DELETE", GET_PATH).status, 200)

    def test_one_key_of_two_callers(self) -> None:
        """A task that two callers posted with one key belongs to the first one. The second gets its
        id, but cannot cancel it.
        """
        answers = [
            self.by(name, "POST", f"{CPE}{ID}", BODY, "Idempotency-Key: k1")
            for name in ("billing", "shop")
        ]
        self.assertEqual([answer.status for answer in answers], [200, 200])
        self.assertEqual(answers[0].json, answers[1].json)
        path = f"{CPE}{ID}/task/{answers[0].json['taskId']}"
        self.assertEqual(
            [self.by(name, "DELETE", path).status for name in ("shop", "billing")], [403, 200]
        )

    def test_reasons(self) -> None:
        """A reason has at most 200 characters, and is shown as one line everywhere."""
        self.assertAccepted(self.by("billing", "POST", f"{CPE}{ID}", BODY))
        message = "reason: expected a text of 1 to 200 characters"
        for reason in ("", "x" * 201, "a&reason=b", "%FF"):
            self.assertError(
                self.by("billing", "DELETE", f"{GET_PATH}?reason={reason}"), 400, message
            )
        self.assertEqual(self.tasks.called_off, [])
        self.assertEqual(
            self.by("billing", "DELETE", f"{GET_PATH}?reason={'%D0%96' * 198}%0A%C2%84").status, 200
        )
        self.assertEqual(parse_reason({b"reason": ["Ж\n\x84b".encode()]}), "Ж\ufffd\ufffdb")
