"""Spans of a task, exported to a collector."""

from __future__ import annotations

from twisted.internet.endpoints import serverFromString
from twisted.web.server import Site

from tests.support.otlp import Receiver
from tests.support.processes import ANY_PORT, ProcessTestCase, reactor
from tests.support.system import REQUEST

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PORTS = ("--port=0", "--stub-port=0", "--broker-port=0", "--stub-delay=0.1")


class Spans(ProcessTestCase):
    async def test_chain(self) -> None:
        """POST, publish, queue and call are one chain below the client's span. No name of a device
        and no parameter is in them.
        """
        receiver = Receiver()
        port = await serverFromString(reactor, ANY_PORT).listen(Site(receiver))
        self.addCleanup(port.stopListening)
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port.getHost().port}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        everything = self.twistd("rtprov", *PORTS, environment=environment)
        client = self.client(await everything.port("service B (front end)"))
        await everything.logged("ready; try")
        answer = await client.request(
            "POST",
            "/api/v1/equipment/cpe/ABC123456",
            REQUEST,
            traceparent=f"00-{TRACE}-{CALLER}-01",
        )
        self.assertEqual(answer.status, 200)
        await receiver.has(4)
        chain, parent = ("POST", "publish", "queue", "call"), bytes.fromhex(CALLER)
        for name in chain:
            span = receiver.spans[name]
            self.assertEqual((span.trace_id.hex(), span.parent_span_id), (TRACE, parent), name)
            self.assertLess(span.start_time_unix_nano, span.end_time_unix_nano)
            self.assertEqual(
                [(each.key, each.value.string_value) for each in span.attributes],
                [("rtprov.task", answer.json["taskId"])],
            )
            parent = span.span_id
        self.assertEqual(receiver.services, {"rtprov"})
        await self.stop(everything)

    async def test_no_collector(self) -> None:
        """Without a collector that answers, tasks are carried out, and the log says why."""
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        }
        everything = self.twistd("rtprov", *PORTS, environment=environment)
        client = self.client(await everything.port("service B (front end)"))
        await everything.logged("ready; try")
        self.assertEqual((await client.final(await client.accepted("ABC123456"))).status, 200)
        await everything.logged("WARN rtprov OpenTelemetry: ")
        await self.stop(everything)
