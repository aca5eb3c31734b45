"""Requests and replies over AMQP."""

from __future__ import annotations

from pamqp.commands import Basic, Connection
from twisted.internet.defer import CancelledError, Deferred

from rtprov.amqp.client.rpc import REPLY_TO, RpcClient, serve
from rtprov.errors import BrokerUnavailable, NoReply, Overloaded, Unroutable
from tests.support.scripted_broker import AmqpTestCase


class RpcClientTests(AmqpTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.connection = self.connect()
        self.client = RpcClient(clock=self.clock)
        self.result(self.client.attach(self.connection))
        (consume,) = self.peer.commands(Basic.Consume)
        self.assertEqual((consume.queue, consume.no_ack), (REPLY_TO, True))
        self.tag = consume.consumer_tag

    def call(self, body: bytes = b"request", timeout_s: float = 2.0) -> Deferred[bytes]:
        reply = self.client.call("service", body, timeout_s=timeout_s)
        self.network.settle()
        return reply

    def reply(self, request: int, body: bytes) -> None:
        """Reply to the request with this number, from 0."""
        properties = self.peer.contents(Basic.Publish)[request].properties
        assert properties is not None
        self.peer.deliver(
            1, self.tag, 1, body, Basic.Properties(correlation_id=properties.correlation_id)
        )
        self.network.settle()

    def test_request(self) -> None:
        """A request is mandatory, expires with its timeout and names the queue for the reply."""
        self.call(b"\xff", timeout_s=1.5)
        (publish,) = self.peer.contents(Basic.Publish)
        method, properties = publish.method, publish.properties
        assert isinstance(method, Basic.Publish) and properties is not None
        self.assertEqual(
            (method.exchange, method.routing_key, method.mandatory, publish.body),
            ("", "service", True, b"\xff"),
        )
        self.assertEqual((properties.expiration, properties.reply_to), ("1500", REPLY_TO))

    def test_replies(self) -> None:
        """Each reply is matched to its request, in any order, confirmed or not."""
        replies = [self.call() for _ in range(3)]
        self.peer.send(Basic.Ack(2, True), 1)
        for number in (2, 0, 1):
            self.assertNoResult(replies[number])
            self.reply(number, b"%d" % number)
            self.assertEqual(self.successResultOf(replies[number]), b"%d" % number)

    def test_no_reply(self) -> None:
        """After the timeout the request fails. A later reply is dropped."""
        late, other = self.call(timeout_s=2), self.call(timeout_s=3)
        self.network.advance(2)
        self.failureResultOf(late, NoReply)
        self.reply(0, b"late")
        self.assertNoResult(other)
        self.reply(1, b"in time")
        self.assertEqual(self.successResultOf(other), b"in time")

    def test_second_reply(self) -> None:
        """A second reply to a request, or one to an unknown request, is ignored."""
        reply = self.call()
        self.reply(0, b"first")
        self.reply(0, b"second")
        self.peer.deliver(1, self.tag, 2, b"?")
        self.network.settle()
        self.assertEqual(self.successResultOf(reply), b"first")
        self.assertFalse(self.connection.closed)

    def test_subscriber_fails(self) -> None:
        """An exception in the handling of a reply to a subscription is logged. It ends neither the
        subscription nor the connection.
        """
        heard: list[bytes] = []

        def each(body: bytes) -> None:
            heard.append(body)
            raise ZeroDivisionError

        over = self.client.subscribe("service", b"request", timeout_s=2.0, each=each)
        self.network.settle()
        self.reply(0, b"one")
        self.reply(0, b"two")
        self.assertEqual(heard, [b"one", b"two"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertFalse(self.connection.closed)
        self.assertNoResult(over)
        self.clock.advance(2.0)
        self.failureResultOf(over, NoReply)

    def test_nobody_serves(self) -> None:
        """A request that is routed to no queue fails at once."""
        reply = self.call()
        self.peer.send_back(self.peer.contents(Basic.Publish)[0])
        self.peer.send(Basic.Ack(1), 1)
        self.network.settle()
        self.failureResultOf(reply, Unroutable)

    def test_doubtful(self) -> None:
        """A request that the broker does not confirm may still be answered. Otherwise the timeout
        ends it.
        """
        answered, unanswered = self.call(), self.call()
        self.peer.send(Basic.Nack(2, True), 1)
        self.network.settle()
        self.reply(0, b"after all")
        self.assertEqual(self.successResultOf(answered), b"after all")
        self.assertNoResult(unanswered)
        self.network.advance(2)
        self.failureResultOf(unanswered, NoReply)

    def test_blocked(self) -> None:
        """While the broker blocks publishers, requests fail at once."""
        self.peer.send(Connection.Blocked("memory"))
        self.network.settle()
        self.failureResultOf(self.call(), Overloaded)

    def test_lost(self) -> None:
        """When the connection is lost, every waiting request fails at once, and so do
        later ones.
        """
        replies = [self.call() for _ in range(2)]
        self.peer.cut()
        self.network.settle()
        for reply in replies:
            self.failureResultOf(reply, NoReply)
        self.client.detach()
        self.failureResultOf(self.call(), BrokerUnavailable)
        self.assert_idle()

    def test_attached_again(self) -> None:
        """On a new connection requests work again."""
        self.connection.drop("over")
        self.client.detach()
        self.result(self.client.attach(self.connect()))
        reply = self.call()
        self.reply(0, b"again")
        self.assertEqual(self.successResultOf(reply), b"again")

    def test_cancelled(self) -> None:
        """A cancelled request is forgotten, with its timer."""
        reply, other = self.call(), self.call()
        reply.cancel()
        self.failureResultOf(reply, CancelledError)
        self.reply(0, b"late")
        self.assertNoResult(other)
        self.network.advance(2)
        self.failureResultOf(other, NoReply)

    def test_unencodable(self) -> None:
        """A queue name that cannot be encoded raises an error for the caller."""
        self.failureResultOf(self.client.call("q" * 256, b"", timeout_s=1), TypeError, ValueError)


class BytewiseRpcClientTests(RpcClientTests):
    bytewise = True


class ServeTests(AmqpTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.connection = self.connect()
        self.waiting: list[tuple[bytes, Deferred[bytes]]] = []
        self.tag = self.result(
            serve(self.channel(self.connection), "service", self.handle, prefetch=5)
        )

    async def handle(self, body: bytes) -> bytes:
        answer: Deferred[bytes] = Deferred()
        self.waiting.append((body, answer))
        return await answer

    def request(self, number: int, body: bytes, reply_to: str | None = "client") -> None:
        properties = Basic.Properties(correlation_id=f"request {number}", reply_to=reply_to)
        self.peer.deliver(1, self.tag, number, body, properties)
        self.network.settle()

    def replies(self) -> list[tuple[str, str | None, bytes]]:
        self.network.settle()
        return [
            (command.method.routing_key, command.properties.correlation_id, command.body)
            for command in self.peer.contents(Basic.Publish)
            if isinstance(command.method, Basic.Publish) and command.properties is not None
        ]

    def acked(self) -> list[int]:
        self.network.settle()
        return [ack.delivery_tag for ack in self.peer.commands(Basic.Ack)]

    def test_answers(self) -> None:
        """Each request is answered when its handler is done, in any order, and acknowledged after
        its answer.
        """
        self.request(1, b"one")
        self.request(2, b"two")
        self.assertEqual((self.replies(), self.acked()), ([], []))
        for body, answer in reversed(self.waiting):
            answer.callback(body.upper())
        self.assertEqual(
            self.replies(), [("client", "request 2", b"TWO"), ("client", "request 1", b"ONE")]
        )
        self.assertEqual(self.acked(), [2, 1])

    def test_handler_fails(self) -> None:
        """A handler's failure is logged. Its request is dropped, and the others continue."""
        self.request(1, b"one")
        self.request(2, b"two")
        self.waiting[0][1].errback(RuntimeError("bug"))
        self.waiting[1][1].callback(b"fine")
        self.assertEqual(self.replies(), [("client", "request 2", b"fine")])
        self.assertEqual(self.acked(), [1, 2])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_nowhere_to_reply(self) -> None:
        """A request without a reply queue is handled and not answered."""
        self.request(1, b"one", reply_to=None)
        self.waiting[0][1].callback(b"answer")
        self.assertEqual((self.replies(), self.acked()), ([], [1]))

    def test_unencodable_reply(self) -> None:
        """A reply that cannot be encoded is logged like a failure of the handler."""
        self.request(1, b"one")
        self.waiting[0][1].callback("text")  # type: ignore[arg-type] # text on purpose
        self.assertEqual((self.replies(), self.acked()), ([], [1]))
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_lost(self) -> None:
        """When the channel is lost, running handlers are cancelled, and nothing is logged."""
        self.request(1, b"one")
        self.connection.drop("over")
        self.network.settle()
        self.assertTrue(self.waiting[0][1].called)
        self.assertEqual(self.flushLoggedErrors(), [])


class BytewiseServeTests(ServeTests):
    bytewise = True
