"""The handshake of a connection: what is negotiated, and peers that are no broker or refuse the
client.
"""

from __future__ import annotations

from OpenSSL import SSL
from pamqp.commands import Connection
from twisted.python.failure import Failure

from rtprov.amqp.client.url import BrokerUrl
from rtprov.errors import AmqpError, BrokerUnavailable
from tests.support.scripted_broker import AmqpTestCase, ScriptedPeer


class HandshakeTests(AmqpTestCase):
    def test_login(self) -> None:
        """A client logs in with PLAIN, in UTF-8, and sends the extensions that it supports."""
        self.result(self.begin(BrokerUrl.parse("amqp://%D0%96:%D1%8F%40@broker/")).handshake())
        (start_ok,) = self.peer.commands(Connection.StartOk)
        self.assertEqual((start_ok.mechanism, start_ok.response), ("PLAIN", "\0Ж\0я@"))
        properties: dict[str, object] = dict(start_ok.client_properties)
        self.assertEqual(properties["product"], "rtprov")
        self.assertEqual(
            properties["capabilities"],
            {
                "authentication_failure_close": True,
                "basic.nack": True,
                "connection.blocked": True,
                "consumer_cancel_notify": True,
                "publisher_confirms": True,
            },
        )

    def test_external(self) -> None:
        """With a client certificate and no user in the URL, the certificate logs in. The broker
        must offer that.
        """
        url = BrokerUrl.parse("amqps://broker/").with_certificate()
        self.broker.mechanisms = "PLAIN EXTERNAL"
        self.result(self.begin(url).handshake())
        (start_ok,) = self.peer.commands(Connection.StartOk)
        self.assertEqual((start_ok.mechanism, start_ok.response), ("EXTERNAL", ""))
        self.broker.mechanisms = "PLAIN AMQPLAIN"
        error = self.error(self.begin(url).handshake(), BrokerUnavailable)
        self.assertIn("offers the mechanisms 'PLAIN AMQPLAIN', not EXTERNAL", str(error))

    def test_certificate_and_user(self) -> None:
        """If the URL names a user, that user logs in, certificate or not."""
        self.broker.mechanisms = "PLAIN EXTERNAL"
        self.result(
            self.begin(BrokerUrl.parse("amqps://a:b@broker/").with_certificate()).handshake()
        )
        (start_ok,) = self.peer.commands(Connection.StartOk)
        self.assertEqual((start_ok.mechanism, start_ok.response), ("PLAIN", "\0a\0b"))

    def test_virtual_host(self) -> None:
        """The URL's virtual host is opened."""
        self.result(self.begin(BrokerUrl.parse("amqp://broker/%2Fa%20b")).handshake())
        self.assertEqual(
            [open.virtual_host for open in self.peer.commands(Connection.Open)], ["/a b"]
        )

    def test_server_properties(self) -> None:
        """The broker's server properties are available for the log."""
        self.assertEqual(self.connect().server_properties["product"], "Scripted")

    def test_tune(self) -> None:
        """The smaller of both sides' limits is used. 0 means no limit."""
        for (channels, frame, beat), expected in (
            ((0, 0, 0), (2047, 131072, 10)),
            ((100, 8192, 5), (100, 8192, 5)),
            ((65535, 1 << 20, 600), (2047, 131072, 10)),
        ):
            self.broker.tune = Connection.Tune(channels, frame, beat)
            self.connect()
            (tune_ok,) = self.peer.commands(Connection.TuneOk)
            self.assertEqual((tune_ok.channel_max, tune_ok.frame_max, tune_ok.heartbeat), expected)

    def test_tiny_frames(self) -> None:
        """A broker with a frame limit below AMQP's minimum is refused."""
        self.broker.tune = Connection.Tune(0, 100, 0)
        self.error(self.begin().handshake(), BrokerUnavailable)

    def test_tls_failed(self) -> None:
        """If TLS fails, the error describes why."""
        self.patch(self.broker, "greet", lambda peer: None)
        connection = self.begin()
        handshake = connection.handshake()
        connection.connectionLost(
            Failure(SSL.Error([("SSL routines", "", "certificate verify failed")]))
        )
        text = str(self.error(handshake, BrokerUnavailable))
        self.assertIn("TLS: certificate verify failed (", text)
        self.assertNotIn("SSL routines", text)

    def test_lost_at_each_step(self) -> None:
        """If the connection is lost at any step of the handshake, the handshake fails, and no timer
        is left.
        """

        def hang_up(peer: ScriptedPeer, _: object) -> None:
            peer.cut()

        for step in (None, Connection.StartOk, Connection.TuneOk, Connection.Open):
            self.setUp()
            if step is None:
                self.patch(self.broker, "greet", lambda peer: peer.cut())
            else:
                self.broker.answers[step] = hang_up
            connection = self.begin()
            self.error(connection.handshake(), BrokerUnavailable)
            self.assertTrue(connection.lost)
            self.assert_idle()

    def test_hangs_up_on_login(self) -> None:
        """A connection that is closed after the login is reported as a refused login."""
        self.broker.answers[Connection.StartOk] = lambda peer, _: peer.cut()
        self.assertIn(
            "wrong user name or password",
            str(self.error(self.begin().handshake(), BrokerUnavailable)),
        )

    def test_silent_at_each_step(self) -> None:
        """A broker that stops answering at any step of the handshake has 5 seconds."""
        for step in (None, Connection.StartOk, Connection.Open):
            self.setUp()
            if step is None:
                self.patch(self.broker, "greet", lambda peer: None)
            else:
                self.broker.answers[step] = None
            connection = self.begin()
            handshake = connection.handshake()
            self.network.advance(4.9)
            self.assertNoResult(handshake)
            self.network.advance(0.1)
            self.failureResultOf(handshake, BrokerUnavailable)
            self.assertTrue(self.peer.lost)
            self.assert_idle()

    def test_refused(self) -> None:
        """The broker's reason for refusing the client is in the error."""
        refusal = Connection.Close(403, "ACCESS_REFUSED - Login was refused", 0, 0)
        self.broker.answers[Connection.StartOk] = lambda peer, _: refusal
        error = self.error(self.begin().handshake(), AmqpError)
        assert isinstance(error, AmqpError)
        self.assertEqual(error.reply_code, 403)
        self.assertEqual(len(self.peer.commands(Connection.CloseOk)), 1)
        self.assertTrue(self.peer.lost)
        self.assert_idle()

    def test_no_plain(self) -> None:
        """A broker that does not offer PLAIN is reported as such."""
        self.patch(
            self.broker,
            "greet",
            lambda peer: peer.send(Connection.Start(0, 9, {}, "EXTERNAL PLAINER", "en_US")),
        )
        self.assertIn("not PLAIN", str(self.error(self.begin().handshake(), BrokerUnavailable)))
        self.assertEqual(self.peer.commands(Connection.StartOk), [])

    def test_other_version(self) -> None:
        """A broker of another version of AMQP gets no password."""
        self.patch(
            self.broker,
            "greet",
            lambda peer: peer.send(Connection.Start(0, 8, {}, "PLAIN", "en_US")),
        )
        self.assertIn("AMQP 0-8", str(self.error(self.begin().handshake(), BrokerUnavailable)))
        self.assertEqual(self.peer.commands(Connection.StartOk), [])

    def test_no_amqp(self) -> None:
        """A peer that speaks another protocol is reported as such, whatever it sends."""
        for garbage in (
            b"AMQP\x00\x01\x00\x00",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\x15\x03\x03\x00\x02\x02\x28",
            b"\0" * 100,
        ):
            self.patch(self.broker, "greet", lambda peer, garbage=garbage: peer.send_bytes(garbage))
            self.assertIn(
                "does not speak AMQP 0-9-1",
                str(self.error(self.begin().handshake(), BrokerUnavailable)),
            )

    def test_out_of_turn(self) -> None:
        """Handshake methods in the wrong order end the connection."""
        for method in (
            Connection.Start(),
            Connection.Tune(0, 0, 0),
            Connection.OpenOk(),
            Connection.Secure("who?"),
        ):
            connection = self.connect()
            self.peer.send(method)
            self.network.settle()
            self.assertIn("503", str(connection.failure))

    def test_channel_before_open(self) -> None:
        """No channel can be opened before the handshake is complete."""
        self.patch(self.broker, "greet", lambda peer: None)
        connection = self.begin()
        self.failureResultOf(connection.open_channel(), BrokerUnavailable)


class BytewiseHandshakeTests(HandshakeTests):
    bytewise = True
