"""``--broker-file`` with real processes: they connect to another broker without a restart, and log
no password.
"""

from __future__ import annotations

from rtprov.security.development import make_development_set
from tests.support.processes import ANY_PORT, ProcessTestCase


class BrokerFile(ProcessTestCase):
    timeout = 300.0

    async def test_changed(self) -> None:
        """A front end and a worker connect to the broker that the file names now."""
        make_development_set(self.folder / "certs")
        file = self.folder / "url"
        brokers = [
            self.twistd(
                "rtprov-broker",
                "--listen",
                ANY_PORT,
                "--state",
                f"state{n}",
                environment={"RTPROV_PASSWORD": "s3cr3t"},
            )
            for n in range(2)
        ]
        urls = [
            f"amqp://guest:s3cr3t@127.0.0.1:{await broker.port('the AMQP broker')}/"
            for broker in brokers
        ]
        file.write_text(f"\ufeff{urls[0]}\r\n")
        roles = [
            self.twistd("rtprov-frontend", "--listen", ANY_PORT, "--broker-file", "url"),
            self.twistd("rtprov-worker", environment={"RTPROV_BROKER_FILE": "url"}),
        ]
        for url in urls:
            file.write_text(url)
            place = url.rpartition("@")[2]
            for role in roles:
                await role.logged(f": connected to amqp://guest@{place}")
        for process in (*roles, *brokers):
            await self.stop(process)
