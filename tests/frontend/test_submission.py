"""``Idempotency-Key`` at the front end: what is a key, and what the client is told when the
journal's word does not come.
"""

from __future__ import annotations

from rtprov.errors import BrokerUnavailable, NoReply, NoWorker, Overloaded, Unconfirmed
from rtprov.model import Started, keyed_task_id
from tests.support.front import BODY, ID, POST_PATH, FrontendTestCase
from tests.support.raw_http import RawAnswer, request

BAD_KEY = "Idempotency-Key: expected one value of 1 to 255 visible ASCII characters"
REUSED = "This Idempotency-Key was used for this equipment before, with another body"
UNDECIDED = (
    "The request may or may not have taken effect: the broker's or the worker's answer was lost;"
    " send it again"
)
AWAY = "The service is temporarily unavailable"


class KeyTestCase(FrontendTestCase):
    def post_with(self, key: str, body: bytes = BODY) -> RawAnswer:
        return self.post(body, f"Idempotency-Key: {key}")


class Keys(KeyTestCase):
    def test_keys(self) -> None:
        """Any visible ASCII makes a key, as it stands: quotes belong to it."""
        for key in (
            "1",
            '"8e03978e-40d5-43dd-bc93-6894a57f9324"',
            "8e03978e-40d5-43dd-bc93-6894a57f9324",
            "x" * 255,
            "!~,;=",
        ):
            answer = self.post_with(key)
            self.assertAccepted(answer)
            self.assertEqual(answer.json["taskId"], keyed_task_id(ID, key))

    def test_no_keys(self) -> None:
        """An empty key, one that is too long or not visible ASCII, and two of them are a 400."""
        for values in ([""], ["x" * 256], ["a b"], ["\xe9"], ["a", "a"]):
            fields = [f"Idempotency-Key: {value}" for value in values]
            self.assertRefused(self.post(BODY, *fields), 400, BAD_KEY)

    def test_a_known_key(self) -> None:
        """A POST whose task has begun publishes nothing; one with another body is a 422."""
        first = self.post_with("k")
        self.directory.store.apply(Started(first.json["taskId"], ID, 1000.0, 1))
        self.assertEqual(self.post_with("k").json, first.json)
        self.assertEqual(len(self.tasks.submitted), 1)
        self.assertError(self.post_with("k", BODY + b" "), 422, REUSED)
        self.assertEqual(len(self.tasks.submitted), 1)

    def test_a_task_that_has_not_begun(self) -> None:
        """It may have reached the journal alone: it is sent again, as it was, and never with
        another body.
        """
        self.post_with("k")
        self.post_with("k")
        self.assertError(self.post_with("k", BODY + b" "), 422, REUSED)
        first, second = self.tasks.submitted
        self.assertEqual((second.task_id, second.fingerprint), (first.task_id, first.fingerprint))

    def test_looked_up_behind_the_barrier(self) -> None:
        """What was published is answered by what the journal says behind the barrier."""
        self.assertAccepted(self.post_with("k"))
        self.assertEqual(self.directory.barriers, [False, True])

    def test_the_body_comes_first(self) -> None:
        """A body that breaks the rules is a 400 that uses no key."""
        self.assertError(self.post_with("k", b"{"), 400)
        self.assertAccepted(self.post_with("k"))


class Trouble(KeyTestCase):
    def test_nothing_was_sent(self) -> None:
        """Where the key cannot be looked up, or the broker takes nothing, no task was made, and the
        answer does not say that one may be.
        """
        for error, message in (
            (NoWorker("nobody"), "nobody"),
            (NoReply("late"), AWAY),
            (BrokerUnavailable("away"), AWAY),
        ):
            self.directory.error = error
            self.assertRefused(self.post_with("k"), 503, message)
        self.directory.error = None
        self.tasks.error = Overloaded("full")
        self.assertRefused(self.post_with("k"), 503, AWAY)

    def test_something_was_sent(self) -> None:
        """Where the confirm or the journal's word is lost behind the publish, the answer says that
        the task may be there.
        """
        self.tasks.error = Unconfirmed("lost")
        self.assertError(self.post_with("k1"), 503, UNDECIDED)
        self.tasks.error = None
        for error in (NoWorker("nobody"), NoReply("late"), BrokerUnavailable("away")):
            self.directory.error, self.lost = None, error
            self.tasks.then = self._lose_the_worker
            self.assertError(self.post_with(type(error).__name__), 503, UNDECIDED)

    def _lose_the_worker(self) -> None:
        self.directory.error = self.lost

    def test_silence(self) -> None:
        """Whatever is silent, the answer comes within 5 s, and says whether the task may be
        there.
        """
        self.directory.silent = True
        client = self.connect()
        client.send(request("POST", POST_PATH, BODY, ["Idempotency-Key: k"]))
        self.network.advance(5)
        self.assertError(client.answers()[0], 503, AWAY)
        self.directory.silent, self.tasks.silent = False, True
        client = self.connect()
        client.send(request("POST", POST_PATH, BODY, ["Idempotency-Key: k"]))
        self.network.advance(5)
        self.assertError(client.answers()[0], 503, UNDECIDED)

    def test_hang_up(self) -> None:
        """A client that goes away leaves nothing behind and nothing in the log."""
        self.directory.silent = True
        client = self.connect()
        client.send(request("POST", POST_PATH, BODY, ["Idempotency-Key: k"]))
        client.hang_up()
        self.assertEqual(
            [event for event in self.events if "Unhandled" in event or "log_failure" in event], []
        )


class KeysInPieces(Keys):
    piece = 1
