"""The worker for `front.py`. Environment: BROKER, A_URL, CA (a file) and CONCURRENCY."""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import Any

import aio_pika
import aiohttp
import uvloop

CONCURRENCY = int(os.environ["CONCURRENCY"])
PATIENCE_S = 600.0


class Worker:
    """Calls service A for each task, and sends the outcome before it acknowledges the task."""

    def __init__(self, session: aiohttp.ClientSession, exchange: Any) -> None:
        self._session = session
        self._exchange = exchange

    async def on_task(self, message: Any) -> None:
        outcome = await self._call(message.headers["equipment"], message.body)
        result = aio_pika.Message(
            outcome.encode(),
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=message.message_id,
        )
        await self._exchange.publish(result, routing_key="results", mandatory=True)
        await message.ack()

    async def _call(self, equipment_id: str, body: bytes) -> str:
        """Return the task's outcome. Tries again while A cannot be reached."""
        url = f"{os.environ['A_URL']}/api/v1/equipment/cpe/{equipment_id}"
        headers = {"Content-Type": "application/json"}
        until, pause_s = asyncio.get_running_loop().time() + PATIENCE_S, 1.0
        while asyncio.get_running_loop().time() < until:
            try:
                async with self._session.post(url, data=body, headers=headers) as answer:
                    if answer.status not in (502, 503, 504):
                        code = (await answer.json())["code"]
                        return {200: "completed", 404: "not found"}.get(code, "failed")
            except aiohttp.ClientConnectionError:
                pass
            except (TimeoutError, ValueError, KeyError):
                return "failed"
            await asyncio.sleep(pause_s)
            pause_s = min(60.0, 2 * pause_s)
        return "failed"


async def main() -> None:
    connection = await aio_pika.connect_robust(os.environ["BROKER"])
    tls = ssl.create_default_context(cafile=os.environ["CA"])
    connector = aiohttp.TCPConnector(limit=CONCURRENCY, ssl=tls, keepalive_timeout=60)
    timeout = aiohttp.ClientTimeout(total=None, sock_read=90)
    async with connection, aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        channel = await connection.channel(publisher_confirms=True)
        await channel.set_qos(prefetch_count=CONCURRENCY)
        quorum = {"x-queue-type": "quorum"}
        tasks = await channel.declare_queue("tasks", durable=True, arguments=quorum)
        await channel.declare_queue("results", durable=True, arguments=quorum)
        await tasks.consume(Worker(session, channel.default_exchange).on_task)
        await asyncio.Event().wait()


uvloop.run(main())
