"""Access control with real processes: tokens, SIGHUP, the audit log, addresses beyond this machine,
and the broker's user and TLS.
"""

from __future__ import annotations

import sys

from rtprov.security.development import make_development_set
from rtprov.security.tokens import Token, parse_tokens
from tests.support.front import BODY, ID, POST_PATH
from tests.support.processes import ANY_PORT, ProcessTestCase
from tests.support.raw_http import RawAnswer, request
from tests.support.sockets import Wire, context, message

ANYWHERE = "tcp:0"
COMPLETED = {"code": 200, "message": "Completed"}
SECRET = "sesame"


class AccessTestCase(ProcessTestCase):
    def setUp(self) -> None:
        super().setUp()
        make_development_set(self.folder / "certs")

    async def new_token(self, *arguments: str) -> tuple[Token, str]:
        """Return a token made by the command."""
        command = self.spawn([sys.executable, "-m", "rtprov.tokens", "new", *arguments])
        self.assertEqual((await command.ended, command.errors), (0, ""))
        lines = command.log.splitlines()
        return parse_tokens("\n".join(lines[:3]))[0], lines[3]

    def ask(
        self, port: int, method: str, path: str, body: bytes | None = None, token: str | None = None
    ) -> RawAnswer:
        """Send one request on a connection of its own; return the answer."""
        fields = [] if token is None else [f"Authorization: Bearer {token}"]
        with Wire(port, context(self.folder / "certs" / "ca.pem")) as wire:
            return wire.ask(request(method, path, body, fields))


class Tokens(AccessTestCase):
    async def test_tokens(self) -> None:
        """Valid tokens give access, and read-only tokens only for reading. A new token file is used
        after SIGHUP, or without it. Audit lines name the caller.
        """
        billing, secret = await self.new_token("billing")
        dash, reader = await self.new_token("dash", "--read")
        file = self.folder / "tokens"
        file.write_text(f"# ours\n{billing.line}\n{dash.line}\n")
        broker = self.twistd("rtprov-broker", "--listen", ANY_PORT)
        url = f"amqp://guest:guest@127.0.0.1:{await broker.port('the AMQP broker')}/"
        frontend = self.twistd(
            "rtprov-frontend", "--listen", ANY_PORT, "--broker", url, "--tokens", "tokens"
        )
        await frontend.logged("Z INFO frontend ready\n")
        port = await frontend.port("service B (front end)")

        self.assertEqual(message(self.ask(port, "POST", POST_PATH, BODY))[0], 401)
        self.assertEqual(message(self.ask(port, "POST", POST_PATH, BODY, "x"))[0], 401)
        self.assertEqual(message(self.ask(port, "POST", POST_PATH, BODY, reader))[0], 403)
        accepted = self.ask(port, "POST", POST_PATH, BODY, secret)
        self.assertEqual(accepted.status, 200)
        task_id = accepted.json["taskId"]
        line = (
            rf"accepted: task {task_id} for {ID} from token:billing at \d+-\d+-\d+T[\d:.]+\+00:00"
        )
        await frontend.logged(rf"Z INFO frontend {line}\n")
        self.assertEqual(frontend.log.count("accepted: "), 1)
        # There is no worker.
        self.assertEqual(
            self.ask(port, "GET", f"{POST_PATH}/task/{task_id}", None, reader).status, 503
        )

        file.write_text(f"{dash.line}\n")  # no signal: the file is watched
        await frontend.logged("tokens reloaded")
        self.assertEqual(message(self.ask(port, "POST", POST_PATH, BODY, secret))[0], 401)
        file.write_text(f"{billing.line}\nmistake\n")
        frontend.signal("HUP")
        await frontend.logged(
            "tokens not reloaded, the previous version stays in use: .*/tokens: line 2: "
        )
        self.assertEqual(message(self.ask(port, "POST", POST_PATH, BODY, secret))[0], 401)
        self.assertEqual(message(self.ask(port, "POST", POST_PATH, BODY, reader))[0], 403)
        for each in (secret, reader):
            self.assertNotIn(each, frontend.log)
        await self.stop(frontend)
        await self.stop(broker)

    async def test_mistake(self) -> None:
        """A token file with an error ends the command with one line that names the place."""
        (self.folder / "tokens").write_text("# ours\nbilling s3cr3t\n")
        process = self.twistd("rtprov-frontend", "--tokens", "tokens")
        await self.assert_refused(process, "rtprov-frontend: .*/tokens: line 2: expected NAME .*")


class BeyondThisMachine(AccessTestCase):
    async def test_front_end(self) -> None:
        """A front end without access control does not listen beyond this machine, unless --open is
        given.
        """
        line = (
            r"rtprov-frontend: service B \(front end\) must not listen on 0\.0\.0\.0:\d+, which"
            r" other machines can reach: any client would be accepted; "
            r"set --client-ca or --tokens, or --open if that is intended"
        )
        await self.assert_refused(self.twistd("rtprov-frontend", "--listen", ANYWHERE), line)
        (self.folder / "tokens").write_text("")
        guarded = (["--open"], ["--tokens", "tokens"], ["--client-ca", "certs/ca.pem"])
        processes = [
            self.twistd("rtprov-frontend", "--listen", ANYWHERE, *arguments)
            for arguments in guarded
        ]
        processes.append(
            self.twistd("rtprov-frontend", "--listen", ANYWHERE, environment={"RTPROV_OPEN": "yes"})
        )
        for process in processes:
            await process.logged(r"service B \(front end\) listens on 0\.0\.0\.0:\d+\n")
            await self.stop(process)

    async def test_broker(self) -> None:
        """With its default password, the broker does not listen beyond this machine."""
        line = (
            r"rtprov-broker: the AMQP broker must not listen on 0\.0\.0\.0:\d+, which other"
            r" machines can reach: the password is guest, the public default; "
            r"set --user and --password, or RTPROV_USER and RTPROV_PASSWORD"
        )
        await self.assert_refused(self.twistd("rtprov-broker", "--listen", ANYWHERE), line)
        await self.assert_refused(self.twistd("rtprov-broker", "--listen", ANYWHERE, "--tls"), line)
        for arguments, environment in (
            (["--user", "joe", "--password", SECRET], {}),
            ([], {"RTPROV_USER": "joe", "RTPROV_PASSWORD": SECRET}),
            ([], {"RTPROV_PASSWORD": SECRET}),
        ):
            process = self.twistd(
                "rtprov-broker", "--listen", ANYWHERE, *arguments, environment=environment
            )
            await process.logged(r"the AMQP broker listens on 0\.0\.0\.0:\d+\n")
            await self.stop(process)


class Broker(AccessTestCase):
    async def test_user_and_tls(self) -> None:
        """Front end and worker log in over amqps, and a task is completed. A client with another
        password, or without TLS, is refused.
        """
        environment = {"RTPROV_USER": "joe", "RTPROV_PASSWORD": SECRET}
        broker = self.twistd(
            "rtprov-broker", "--listen", ANY_PORT, "--tls", environment=environment
        )
        broker_port = await broker.port("the AMQP broker")
        url = {"RTPROV_BROKER": f"amqps://joe:{SECRET}@localhost:{broker_port}/"}
        stub = self.twistd("rtprov-stub", "--listen", ANY_PORT, "--delay", "0")
        where = f"https://localhost:{await stub.port('service A (stub)')}"
        frontend = self.twistd("rtprov-frontend", "--listen", ANY_PORT, environment=url)
        worker = self.twistd("rtprov-worker", "--equipment-url", where, environment=url)
        await worker.logged("worker: connected to amqps://joe@")
        await frontend.logged("ready; try: curl ")
        client = self.client(await frontend.port("service B (front end)"))
        self.assertEqual((await client.final(await client.accepted(ID))).json, COMPLETED)

        wrong = (
            ("amqps", "joe:wrong", "ACCESS_REFUSED"),
            ("amqps", "guest:guest", "ACCESS_REFUSED"),
            ("amqp", f"joe:{SECRET}", ""),
        )
        for scheme, user, reason in wrong:
            stranger = self.twistd(
                "rtprov-frontend",
                "--listen",
                ANY_PORT,
                "--broker",
                f"{scheme}://{user}@localhost:{broker_port}/",
            )
            await stranger.logged(f"frontend: not connected to {scheme}://.*{reason}")
            await self.stop(stranger)
        for process in (worker, frontend, stub, broker):
            await self.stop(process)

    async def test_single_files(self) -> None:
        """Given a certificate and a key, the broker uses them for TLS. A missing file is named."""
        certs = self.folder / "certs"
        files = ("--certificate", str(certs / "stub.pem"), "--private-key", str(certs / "stub.key"))
        broker = self.twistd("rtprov-broker", "--listen", ANY_PORT, *files)
        with Wire(await broker.port("the AMQP broker"), context(certs / "ca.pem")) as wire:
            wire.send(b"AMQP\x00\x00\x09\x01")
            self.assertEqual(wire.socket.recv(1), b"\x01")  # a method's frame: connection.start
        await self.stop(broker)
        (certs / "broker.pem").unlink()
        await self.assert_refused(
            self.twistd("rtprov-broker", "--tls"),
            "rtprov-broker: .*/certs/broker.pem is missing; .*",
        )
