"""Listening addresses of front ends, and the ``try: curl`` line in the log."""

from __future__ import annotations

import re
import shlex
import shutil

from twisted.trial.unittest import SkipTest

from rtprov.security.development import make_development_set
from tests.support.processes import ANY_PORT, ProcessTestCase, Twistd

FREE_PORTS = ("--stub-port=0", "--broker-port=0", "--stub-delay=0")
ANYWHERE = "tcp:0:interface=0.0.0.0"


class FirstSteps(ProcessTestCase):
    async def try_it(self, process: Twistd) -> None:
        """Run the command line that the log suggests."""
        found = await process.logged(r"ready; try: (curl .*)\n")
        curl = self.spawn(
            [shutil.which("curl") or "curl", "--silent", "--show-error", *shlex.split(found[1])[1:]]
        )
        self.assertEqual(await curl.ended, 0, curl.errors)
        self.assertRegex(curl.log, r'\A\{"code":200,"taskId":"[0-9a-f]{32}"\}\Z')

    async def test_suggested_command(self) -> None:
        """The suggested line works for any address, a UNIX socket, and behind a proxy that uses the
        PROXY protocol.
        """
        if shutil.which("curl") is None:
            raise SkipTest("curl is not installed")
        make_development_set(self.folder / "certs")
        places = (
            ANY_PORT,
            ANYWHERE,
            "tcp:0:interface=127.0.0.2",
            f"unix:{self.folder}/b.sock",
            f"haproxy:{ANY_PORT}",
        )
        first, *others = places
        everything = self.twistd("rtprov", *FREE_PORTS, "--listen", first)
        url = f"amqp://guest:guest@127.0.0.1:{await everything.port('the AMQP broker')}/"
        await self.try_it(everything)
        for where in others:
            await self.try_it(
                self.twistd("rtprov-frontend", "--open", "--listen", where, "--broker", url)
            )


class Everything(ProcessTestCase):
    async def test_listen(self) -> None:
        """``twistd rtprov`` listens beyond this machine with ``--listen``, but as a front end only
        with access control.
        """
        (self.folder / "tokens").touch()
        refused = self.twistd("rtprov", "--listen", ANYWHERE, *FREE_PORTS)
        line = (
            r"rtprov: service B \(front end\) must not listen on 0\.0\.0\.0:\d+, which other"
            r" machines can reach: any client would be accepted; .*"
        )
        self.assertEqual(await refused.ended, 78)
        self.assertTrue(re.fullmatch(line, refused.errors.rstrip("\n")), refused.errors)
        for number, option in enumerate(("--open", "--tokens=tokens", "--client-ca=certs/ca.pem")):
            process = self.twistd(
                "rtprov", "--listen", ANYWHERE, *FREE_PORTS, option, "--state", f"state{number}"
            )
            port = int(
                (await process.logged(r"service B \(front end\) listens on 0\.0\.0\.0:(\d+)\n"))[1]
            )
            await process.logged(r"Z INFO \w+ ready")
            if option == "--tokens=tokens":
                client = self.client(port)
                self.assertEqual((await client.post("ABC123456")).status, 401)
                self.assertEqual((await client.request("GET", "/docs")).status, 200)
            await self.stop(process)
