"""Third-party HTTP clients: each posts a task, waits for its end, and gets its final status."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path

from twisted.internet.threads import deferToThread

from tests.support.front import BODY, CPE
from tests.support.proxies import ProxyTestCase, find_program
from tests.support.sockets import PATIENCE_S

COMPLETED = {"code": 200, "message": "Completed"}
PROGRAMS = Path(__file__).parent / "clients"


class Clients(ProxyTestCase):
    async def start(self) -> int:
        """Start all of rtprov, with an A that answers at once; return its port."""
        ports = ("--port", "0", "--stub-port", "0", "--broker-port", "0")
        self.everything = self.twistd("rtprov", *ports, "--stub-delay", "0")
        await self.everything.logged("ready; try")
        return await self.everything.port("service B (front end)")

    async def output_of(self, program: str, *arguments: str) -> str:
        """Return what a program prints; it must succeed."""
        process = self.spawn([program, *arguments])
        self.assertEqual((await process.ended, process.errors), (0, ""), process.log)
        return process.log

    async def test_curl(self) -> None:
        """curl with each HTTP version that it can be told to use, with and without ALPN."""
        curl, port = find_program("curl"), await self.start()
        common = (
            "-sS",
            "--cacert",
            str(self.certs / "ca.pem"),
            "-H",
            "Content-Type: application/json",
            "--max-time",
            "20",
        )
        url = f"https://localhost:{port}{CPE}"
        for number, (option, version) in enumerate(
            (
                ("--http1.0", "1"),
                ("--http1.1", "1.1"),
                ("--http2", "1.1"),
                ("--no-alpn", "1.1"),
                ("--compressed", "1.1"),
            )
        ):
            order = (
                option,
                *common,
                "--data-binary",
                "@-",
                "-w",
                "\n%{http_version} %{http_code}",
                f"{url}CURL{number:04}",
            )
            process = self.spawn([curl, *order])
            process.say(BODY)
            self.assertEqual((await process.ended, process.errors), (0, ""))
            answer, told = process.log.split("\n")
            self.assertEqual(told, f"{version} 200")
            status = f"{url}CURL{number:04}/task/{json.loads(answer)['taskId']}"
            told = await self.output_of(
                curl, option, *common, "-H", "Prefer: wait=20", "-w", "\n%{http_version}", status
            )
            self.assertEqual(
                told.split("\n"), [json.dumps(COMPLETED, separators=(",", ":")), version]
            )
        await self.stop(self.everything)

    async def test_node(self) -> None:
        """node with an agent that keeps connections open, chunked bodies, and Expect."""
        node, port = find_program("node"), await self.start()
        told = json.loads(
            await self.output_of(
                node, str(PROGRAMS / "orders.js"), str(self.certs / "ca.pem"), str(port)
            )
        )
        self.assertEqual(
            told["results"], [{"posted": 200, "told": [200, COMPLETED], "reused": True}] * 7
        )
        self.assertEqual(
            told["missing"], [404, {"code": 404, "message": "There is nothing at this path"}]
        )
        await self.stop(self.everything)

    async def test_java(self) -> None:
        """Java's HttpClient, which prefers HTTP/2."""
        java, port = find_program("java", required=False), await self.start()
        told = await self.output_of(
            java, str(PROGRAMS / "Orders.java"), str(self.certs / "ca.pem"), str(port)
        )
        self.assertEqual(
            told.splitlines(), ['200 HTTP_1_1 200 {"code":200,"message":"Completed"}'] * 5
        )
        await self.stop(self.everything)

    async def test_python(self) -> None:
        """Python's http.client, on one connection."""
        port = await self.start()

        def use() -> list[tuple[int, object]]:
            connection = http.client.HTTPSConnection(
                "localhost",
                port,
                timeout=PATIENCE_S,
                context=ssl.create_default_context(cafile=str(self.certs / "ca.pem")),
            )
            answers = []
            for body in (BODY, iter([BODY[:10], BODY[10:]])):  # with a length, and in chunks
                connection.request(
                    "POST", CPE + "PYTHON1", body, {"Content-Type": "application/json"}
                )
                answer = connection.getresponse()
                answer.read()
                connection.request(
                    "GET", str(answer.headers["Location"]), headers={"Prefer": "wait=10"}
                )
                answer = connection.getresponse()
                answers.append((answer.status, json.load(answer)))
            connection.close()
            return answers

        self.assertEqual(await deferToThread(use), [(200, COMPLETED)] * 2)
        await self.stop(self.everything)
