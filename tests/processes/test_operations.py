"""The program printed in docs/operations.md for operators works as printed."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest

from rtprov.messaging.event_messages import encode_task
from rtprov.model import Task
from rtprov.security.development import SEAL_KEY, ensure_seal_key, make_development_set
from rtprov.security.sealer import FernetSealer, load_keys
from tests.support.processes import ANY_PORT, ProcessTestCase
from tests.support.system import REQUEST

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "operations.md"
DEVICE, TASK = "ABC123456", "ab" * 16
PARK = """
import pika, sys
channel = pika.BlockingConnection(pika.URLParameters(sys.argv[1])).channel()
channel.confirm_delivery()
death = {"reason": "delivery_limit", "queue": "rtprov.work.0of1", "count": 1}
properties = pika.BasicProperties(headers={"x-death": [death]})
for body in sys.argv[2:]:
    letter = body.encode()
    channel.basic_publish("rtprov.dead", "requested.0of1", letter, properties, mandatory=True)
"""


class ParkedLetters(ProcessTestCase):
    timeout = 300.0

    def setUp(self) -> None:
        if importlib.util.find_spec("pika") is None:
            raise SkipTest("pika is not installed")
        super().setUp()
        (self.script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)

    async def run_python(self, script: str, *arguments: str) -> str:
        process = self.spawn([sys.executable, "-c", script, *arguments])
        self.assertEqual(await process.ended, 0, process.errors)
        return process.log

    async def test_parked(self) -> None:
        """It lists parked messages, posts a parked task again, which is then completed under its
        new id, and deletes a message that is not a task.
        """
        make_development_set(self.folder / "certs")
        ensure_seal_key(self.folder / "certs" / SEAL_KEY)
        broker = self.twistd("rtprov-broker", "--listen", ANY_PORT)
        url = f"amqp://guest:guest@127.0.0.1:{await broker.port('the AMQP broker')}/"
        stub = self.twistd("rtprov-stub", "--listen", ANY_PORT, "--delay", "0")
        stub_port = await stub.port("service A (stub)")
        worker = self.twistd(
            "rtprov-worker", "--broker", url, "--equipment-url", f"https://localhost:{stub_port}"
        )
        await worker.logged("worker: connected to amqp://guest@")
        frontend = self.twistd("rtprov-frontend", "--listen", ANY_PORT, "--broker", url)
        client = self.client(await frontend.port("service B (front end)"))
        sealer = FernetSealer(load_keys((self.folder / "certs" / SEAL_KEY).read_text()))
        order = encode_task(
            Task(TASK, DEVICE, 14, 0.0, sealer.seal(json.dumps(REQUEST).encode()))
        ).decode()
        await self.run_python(PARK, url.removesuffix("/") + "/%2F", order, "not ours")
        await worker.logged("parking a message that is not a task")
        self.assertEqual(
            (await client.final(f"/api/v1/equipment/cpe/{DEVICE}/task/{TASK}")).status, 500
        )
        listed = await self.run_python(self.script, url)
        self.assertIn(f"{TASK} delivery_limit rtprov.work.0of1", listed)
        self.assertRegex(listed, r"(?m)^letter\d delivery_limit rtprov\.work\.0of1 .* 8 bytes$")
        again = await self.run_python(self.script, url, "again", TASK)
        fresh = again.partition("ordered again as ")[2].split()[0]
        self.assertEqual(
            (await client.final(f"/api/v1/equipment/cpe/{DEVICE}/task/{fresh}")).json["code"], 200
        )
        await self.run_python(self.script, url, "drop", "letter1")
        self.assertEqual(await self.run_python(self.script, url), "")
