"""Requests are counted by route and status; refused callers by reason."""

from __future__ import annotations

from rtprov.http.admission import Admission
from rtprov.http.site import JsonSite
from rtprov.http.traffic import Traffic
from rtprov.metrics.counting import OTHER
from rtprov.model import Requested, State
from rtprov.security.limits import Rate
from rtprov.security.tokens import Role, new_token
from tests.support.front import BODY, CPE, GET_PATH, ID, POST_PATH, TASK, FrontendTestCase
from tests.support.raw_http import request

ORDER, STATUS = (f"{CPE}{{equipmentId}}", f"{CPE}{{equipmentId}}/task/{{taskId}}")


class TrafficTestCase(FrontendTestCase):
    def setUp(self) -> None:
        super().setUp()
        rules = [rule.rule for rule in self.frontend.app.url_map.iter_rules()]
        self.traffic = Traffic(rules, self.clock.seconds)
        tokens = {role: new_token(str(role), role=role) for role in Role}
        self.tokens = {role: secret for role, (_, secret) in tokens.items()}
        admission = Admission(
            now=self.clock.seconds,
            wall_clock=self.clock.seconds,
            tokens=tuple(token for token, _ in tokens.values()),
            rate=Rate(20.0),
        )
        self.network.listen("b").listen(
            JsonSite(
                self.frontend.resource(),
                reactor=self.reactor,
                admission=admission,
                traffic=self.traffic,
            )
        )

    def as_role(self, role: Role = Role.ORDER) -> str:
        return f"Authorization: Bearer {self.tokens[role]}"


class Requests(TrafficTestCase):
    def test_routes(self) -> None:
        """A request is counted by the rule of its route, never by an id, and by its status."""
        self.ask("POST", POST_PATH, BODY, [self.as_role()])
        self.ask("GET", GET_PATH, headers=[self.as_role()])
        self.ask("GET", f"{CPE}{ID}x/task/{TASK}", headers=[self.as_role()])
        self.ask("GET", "/livez")
        self.ask("GET", "/secret-path", headers=[self.as_role()])
        self.assertEqual(
            self.traffic.requests.values,
            {
                (ORDER, "200"): 1,
                (STATUS, "404"): 2,
                ("/livez", "200"): 1,
                (OTHER, "404"): 1,
            },
        )
        self.assertNotIn(ID, repr(self.traffic.requests.values))

    def test_seconds(self) -> None:
        """The time of a request is that from its last byte to its answer."""
        self.statuses.silent = True
        client = self.connect()
        client.send(request("GET", GET_PATH, None, [self.as_role()]))
        self.clock.advance(2.0)
        self.statuses.asked[0].callback(State.COMPLETED)
        self.network.settle()
        client.close()
        self.assertEqual(self.traffic.seconds.values[STATUS].sum, 2.0)

    def test_refused_at_the_head(self) -> None:
        """A request that is refused before it is complete is counted, without a time."""
        self.say(b"POST " + POST_PATH.encode() + b" HTTP/1.1\r\nHost: b\r\nHost: c\r\n\r\n")
        self.say(b"nonsense\r\n\r\n")
        self.assertEqual(self.traffic.requests.values, {(ORDER, "400"): 1, (OTHER, "400"): 1})
        self.assertEqual(self.traffic.seconds.values, {})

    def test_hang_up(self) -> None:
        """A request whose client has gone is not counted."""
        self.statuses.silent = True
        client = self.connect()
        client.send(request("GET", GET_PATH, None, [self.as_role()]))
        client.hang_up()
        self.network.settle()
        self.assertEqual(self.traffic.requests.values, {})


class Refused(TrafficTestCase):
    def test_reasons(self) -> None:
        """Each refusal of a caller is counted by its reason."""
        self.ask("GET", GET_PATH)
        self.ask("GET", GET_PATH, headers=["Authorization: Bearer " + "x" * 43])
        self.ask("POST", POST_PATH, BODY, [self.as_role(Role.READ)])
        foreign = [self.as_role(), "Origin: https://evil.example"]
        self.ask("POST", POST_PATH, BODY, foreign)
        self.directory.store.apply(Requested(TASK, ID, 1000.0, caller="token:other"))
        self.ask("DELETE", GET_PATH, headers=[self.as_role()])
        for _ in range(40):
            self.ask("GET", "/livez", headers=[self.as_role()])
        rate = self.traffic.refused.values.pop("rate")
        self.assertGreater(rate, 0)
        self.assertEqual(
            self.traffic.refused.values,
            {"missing": 1, "unknown": 1, "expired": 0, "role": 1, "origin": 1, "caller": 1},
        )
        self.assertEqual(self.traffic.requests.values["/livez", "429"], rate)
