"""The store of browsers' sessions: each ends with its time, and with its token."""

from __future__ import annotations

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtprov.security.sessions import LIFETIME_S, MAX_PER_TOKEN, Sessions
from rtprov.security.tokens import Role, new_token


class Store(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.sessions = Sessions(self.clock.seconds)
        self.shift, _ = new_token("shift")
        self.other, _ = new_token("other")

    def test_found(self) -> None:
        """A session is found by its secret only, until its eight hours are over."""
        secret, session = self.sessions.begin(self.shift, [self.shift])
        self.assertEqual(self.sessions.find(secret), session)
        self.assertIsNone(self.sessions.find(secret[:-1]))
        self.assertIsNone(self.sessions.find(session.csrf))
        self.clock.advance(LIFETIME_S - 1)
        self.assertEqual(self.sessions.find(secret), session)
        self.clock.advance(1)
        self.assertIsNone(self.sessions.find(secret))

    def test_token(self) -> None:
        """A session stands for its token as it is now, with its present role. A token of the same
        name with another secret is another one.
        """
        _, session = self.sessions.begin(self.shift, [self.shift])
        changed = attrs.evolve(self.shift, role=Role.READ)
        self.assertEqual(self.sessions.token_of(session, [self.other, changed]), changed)
        self.assertIsNone(self.sessions.token_of(session, [self.other]))
        self.assertIsNone(self.sessions.token_of(session, [new_token("shift")[0]]))

    def test_ended(self) -> None:
        """A session that is ended is not found any more. Others are."""
        first, _ = self.sessions.begin(self.shift, [self.shift])
        second, session = self.sessions.begin(self.shift, [self.shift])
        self.sessions.end(first)
        self.sessions.end("unknown")
        self.assertIsNone(self.sessions.find(first))
        self.assertEqual(self.sessions.find(second), session)

    def test_bounded(self) -> None:
        """A token has a limited number of sessions; a further one ends its oldest, and none of
        another token.
        """
        tokens = [self.shift, self.other]
        kept, _ = self.sessions.begin(self.other, tokens)
        secrets = [self.sessions.begin(self.shift, tokens)[0] for _ in range(MAX_PER_TOKEN + 2)]
        found = [self.sessions.find(secret) is not None for secret in secrets]
        self.assertEqual(found, [False] * 2 + [True] * MAX_PER_TOKEN)
        self.assertIsNotNone(self.sessions.find(kept))
        self.assertEqual(len(self.sessions), MAX_PER_TOKEN + 1)

    def test_forgotten(self) -> None:
        """A log-in forgets the sessions that have ended, and those of removed tokens."""
        self.sessions.begin(self.shift, [self.shift])
        self.sessions.begin(self.other, [self.other])
        self.assertEqual(len(self.sessions), 1)
        self.clock.advance(LIFETIME_S)
        self.sessions.begin(self.shift, [self.shift, self.other])
        self.assertEqual(len(self.sessions), 1)

    def test_not_shown(self) -> None:
        """No secret is in the text of a session, which a log could show."""
        _, session = self.sessions.begin(self.shift, [self.shift])
        self.assertNotIn(session.csrf, repr(session))
