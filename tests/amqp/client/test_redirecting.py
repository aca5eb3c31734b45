"""A connection whose broker's URL changes, and one whose broker contradicts the configuration."""

from __future__ import annotations

import random
from typing import Any

import attrs
from pamqp.commands import Connection

from rtprov.amqp.client.protocol import AmqpConnection
from rtprov.amqp.client.service import BrokerConnection, Session
from rtprov.errors import ConfigurationError
from tests.support.scripted_broker import URL, AmqpTestCase, ScriptedBroker


class ConnectionTestCase(AmqpTestCase):
    """A `BrokerConnection` that can connect to two brokers."""

    def setUp(self) -> None:
        super().setUp()
        self.other = ScriptedBroker()
        self.network.listen("other").listen(self.other)
        self.service = self.make()

    def make(self, *sessions: Session) -> BrokerConnection:
        return BrokerConnection(
            name="test",
            endpoint=self.network.connect("broker"),
            url=URL,
            clock=self.clock,
            rng=random.Random(5),
            sessions=sessions,
        )

    def start(self) -> None:
        self.service.startService()
        self.network.settle()

    def stop(self) -> None:
        stopped = self.service.stopService()
        self.network.settle()
        self.successResultOf(stopped)
        self.assert_idle()


class Redirecting(ConnectionTestCase):
    def redirect(self, **changes: Any) -> None:
        self.service.redirect(self.network.connect("other"), attrs.evolve(URL, **changes))
        self.network.advance(1)

    def test_another_broker(self) -> None:
        """If the host, user or virtual host changes, it closes the connection to the old broker and
        connects to the new one at once.
        """
        for change in ({"host": "other"}, {"username": "bob"}, {"virtual_host": "v"}):
            self.setUp()
            self.start()
            self.redirect(**change)
            self.assertEqual(len(self.peer.commands(Connection.Close)), 1)
            self.assertEqual([len(each.peers) for each in (self.broker, self.other)], [1, 1])
            self.assertTrue(self.service.connected)
            self.stop()

    def test_another_password(self) -> None:
        """A changed password alone is used from the next connection on."""
        self.start()
        self.redirect(password="new")
        self.assertEqual([len(each.peers) for each in (self.broker, self.other)], [1, 0])
        self.assertTrue(self.service.connected)
        self.peer.cut()
        self.network.advance(1)
        self.assertEqual([len(each.peers) for each in (self.broker, self.other)], [1, 1])
        self.assertEqual(
            self.other.peers[0].commands(Connection.StartOk)[0].response, f"\0{URL.username}\0new"
        )
        self.stop()

    def test_while_connecting(self) -> None:
        """A connection that is established with the old URL is closed."""
        self.service.startService()
        self.redirect(host="other")
        self.assertTrue(self.service.connected)
        self.assertTrue(all(peer.lost for peer in self.broker.peers))
        self.assertEqual(len(self.other.peers), 1)
        self.stop()

    def test_before_the_start(self) -> None:
        """Before the start there is no connection to close."""
        self.redirect(host="other")
        self.start()
        self.assertEqual([len(each.peers) for each in (self.broker, self.other)], [0, 1])
        self.stop()


class Contradicting(ConnectionTestCase):
    def test_reported_at_each_attempt(self) -> None:
        """If a session raises a configuration error, that is reported at each attempt until it
        attaches.
        """
        errors: list[str] = []
        trouble: list[ConfigurationError] = [
            ConfigurationError("the broker has 4 shards, --shards says 1")
        ]

        class Looking:
            async def attach(self, connection: AmqpConnection) -> None:
                if trouble:
                    raise trouble[0]
                await connection.open_channel()

            def detach(self) -> None: ...

        self.service = self.make(Looking())
        self.start()
        self.network.advance(1)  # no error: it is tried again
        self.network.advance(1)
        self.assertGreater(len(self.broker.peers), 2)
        self.service.on_contradiction = lambda error: errors.append(str(error))
        self.network.advance(5)
        self.assertEqual(set(errors), {"the broker has 4 shards, --shards says 1"})
        trouble.clear()
        self.network.advance(5)
        self.assertTrue(self.service.connected)
        self.stop()
