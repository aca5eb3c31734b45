"""The commands under ``twist``, Twisted's other launcher."""

from __future__ import annotations

from rtprov.security.development import make_development_set
from tests.support.processes import ANY_PORT, ProcessTestCase

FREE_PORTS = ("--port=0", "--stub-port=0", "--broker-port=0")


class Twist(ProcessTestCase):
    async def test_everything(self) -> None:
        """``twist rtprov`` accepts a task and completes it."""
        process = self.twist("rtprov", *FREE_PORTS, "--stub-delay=0")
        await process.logged("ready; try: curl ")
        client = self.client(await process.port("service B (front end)"))
        location = await client.accepted("ABC123456")
        self.assertEqual((await client.final(location)).json, {"code": 200, "message": "Completed"})
        await self.stop(process)

    async def test_front_end(self) -> None:
        """A service that logs that it listens does so."""
        make_development_set(self.folder / "certs")
        process = self.twist("rtprov-frontend", "--listen", ANY_PORT)
        client = self.client(await process.port("service B (front end)"))
        self.assertEqual((await client.request("GET", "/livez")).status, 200)
        await self.stop(process)

    async def test_refused(self) -> None:
        """A mistake gives one line, as under twistd."""
        await self.assert_refused(
            self.twist("rtprov-stub"), "rtprov-stub: .*/certs/stub.pem is missing; .*"
        )
        await self.assert_refused(
            self.twist("rtprov-stub", "--frob"), "rtprov-stub: option --frob not recognized", 1
        )
        process = self.twist("rtprov-broker", "--listen", "tcp:0:interface=192.0.2.1")
        await self.assert_refused(
            process,
            "rtprov-broker: the AMQP broker cannot listen on .*: Cannot assign requested"
            " address; .*",
        )
