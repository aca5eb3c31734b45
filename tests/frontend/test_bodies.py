"""Bodies as a hostile client could send them, over HTTP: a valid body reaches the broker unchanged,
all others are a 400 that makes no task.

The rules themselves are tested in `tests.equipment.test_request`. These tests show what a client
sees of them.
"""

from __future__ import annotations

import json

from tests.support.front import BODY, POST_PATH, FrontendTestCase
from tests.support.raw_http import RawClient, chunked, request
from tests.support.request_bodies import NAMED, NOT_JSON, TAKEN, body


class Bodies(FrontendTestCase):
    def test_taken(self) -> None:
        """A body that the contract allows is accepted in each of the three forms, and passed on
        byte for byte.
        """
        for data in TAKEN:
            self.assertAccepted(self.post(data))
        self.assertEqual(self.bodies(), list(TAKEN))

    def test_not_json(self) -> None:
        """A body that is not JSON in UTF-8, or is nested too deeply, is a 400 that says so."""
        for data in NOT_JSON:
            answer = self.post(data)
            self.assertRefused(answer, 400)
            self.assertTrue(answer.json["message"].startswith("the body is "), answer.json)

    def test_the_place_is_named(self) -> None:
        """A body that breaks a rule is a 400 that names the place, and neither the value nor an
        unknown key.
        """
        for data, message in NAMED:
            self.assertRefused(self.post(data), 400, message)

    def test_no_body(self) -> None:
        """A POST without a body is a 400, whether its length is 0 or missing."""
        for data in (
            request("POST", POST_PATH, b""),
            request("POST", POST_PATH),
            request("POST", POST_PATH, None, ["Content-Length: 0"]),
        ):
            self.assertRefused(self.say(data)[0], 400, "the body is empty")
        self.assertRefused(
            self.say(request("POST", POST_PATH, None, ["Transfer-Encoding: chunked"]) + chunked())[
                0
            ],
            400,
            "the body is empty",
        )

    def test_after_a_refusal(self) -> None:
        """Refused bodies do not affect later requests on the connection."""
        client: RawClient = self.connect()
        for data in NOT_JSON:
            client.send(request("POST", POST_PATH, data))
        client.send(request("POST", POST_PATH, BODY))
        self.assertEqual(
            [answer.status for answer in client.answers()], [400] * len(NOT_JSON) + [200]
        )

    def test_answers_are_ascii(self) -> None:
        """No refusal repeats a part of the body, so it contains only ASCII."""
        for data in (
            body('{"пароль": 1, "пароль": 2}'),
            body('{"password": 5, "пароль": "пароль"}'),
            "пароль".encode(),
        ):
            answer = self.post(data)
            self.assertRefused(answer, 400)
            self.assertTrue(answer.body.isascii())
            self.assertEqual(json.loads(answer.body)["code"], 400)


class BodiesInPieces(Bodies):
    piece = 1
