"""``Idempotency-Key`` at the front end: valid keys, and answers when the journal cannot be read."""

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
        """Any visible ASCII is a key, as it stands: quotes are part of it."""
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
        """An empty key, one that is too long or not visible ASCII, and two keys are a 400."""
        for values in ([""], ["x" * 256], ["a b"], ["\xe9"], ["a", "a"]):
            fields = [f"Idempotency-Key: {value}" for value in values]
            self.assertRefused(self.post(BODY, *fields), 400, BAD_KEY)

    def test_a_known_key(self) -> None:
        """A POST whose task has started publishes nothing. With another body it is a 422."""
        first = self.post_with("k")
        self.directory.store.apply(Started(first.json["taskId"], ID, 1000.0, 1))
        self.assertEqual(self.post_with("k").json, first.json)
        self.assertEqual(len(self.tasks.submitted), 1)
        self.assertError(self.post_with("k", BODY + b" "), 422, REUSED)
        self.assertEqual(len(self.tasks.submitted), 1)

    def test_a_task_that_has_not_begun(self) -> None:
        """A task that has not started may be missing in the work queue: it is published again,
        unchanged, and never with another body.
        """
        self.post_with("k")
        self.post_with("k")
        self.assertError(self.post_with("k", BODY + b" "), 422, REUSED)
        first, second = self.tasks.submitted
        self.assertEqual((second.task_id, second.fingerprint), (first.task_id, first.fingerprint))

    def test_looked_up_behind_the_barrier(self) -> None:
        """After the publish and a barrier of the journal, the journal's contents decide the
        answer.
        """
        self.assertAccepted(self.post_with("k"))
        self.assertEqual(self.directory.barriers, [False, True])

    def test_the_body_comes_first(self) -> None:
        """An invalid body is a 400 that uses no key."""
        self.assertError(self.post_with("k", b"{"), 400)
        self.assertAccepted(self.post_with("k"))


class Trouble(KeyTestCase):
    def test_nothing_was_sent(self) -> None:
        """If the key cannot be looked up, or the broker refuses the message, no task was made, and
        the answer does not say that one may exist.
        """
        for error, message in (
            (NoWorker("no worker"), "no worker"),
            (NoReply("late"), AWAY),
            (BrokerUnavailable("away"), AWAY),
        ):
            self.directory.error = error
            self.assertRefused(self.post_with("k"), 503, message)
        self.directory.error = None
        self.tasks.error = Overloaded("full")
        self.assertRefused(self.post_with("k"), 503, AWAY)

    def test_something_was_sent(self) -> None:
        """If the confirm or the journal's answer is lost after the publish, the answer says that
        the task may exist.
        """
        self.tasks.error = Unconfirmed("lost")
        self.assertError(self.post_with("k1"), 503, UNDECIDED)
        self.tasks.error = None
        for error in (NoWorker("no worker"), NoReply("late"), BrokerUnavailable("away")):
            self.directory.error, self.lost = None, error
            self.tasks.then = self._lose_the_worker
            self.assertError(self.post_with(type(error).__name__), 503, UNDECIDED)

    def _lose_the_worker(self) -> None:
        self.directory.error = self.lost

    def test_silence(self) -> None:
        """Whatever does not answer, the client's answer comes within 5 s, and says whether the task
        may exist.
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
        """A client that hangs up leaves no timer and no log line."""
        self.directory.silent = True
        client = self.connect()
        client.send(request("POST", POST_PATH, BODY, ["Idempotency-Key: k"]))
        client.hang_up()
        self.assertEqual(
            [event for event in self.events if "Unhandled" in event or "log_failure" in event], []
        )


class KeysInPieces(Keys):
    piece = 1
