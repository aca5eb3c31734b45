"""The systemd units on a machine that has booted systemd.

One machine goes through the life of a service; booting one for each part would take minutes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.support.deploy import require_docker, require_image
from tests.support.machine import CommandFailed, Machine, build_image

CLIENT = Path(__file__).with_name("machine_client.py").read_text("utf-8")
COMPLETED = {"code": 200, "message": "Completed"}
UNITS = ("rtprov-broker", "rtprov-stub", "rtprov-worker@0", "rtprov-frontend")
CONNECTED = "connected to amqp://rtprov@127.0.0.1:5673/"
STATUS_SAYS = "systemctl show -P StatusText {unit} | grep -q '{text}'"
A_CALL = "calls to A under way: 1"
RESTARTS = 3
DELAY_S = 6  # of each call to A: long enough to do something meanwhile
WATCHDOG_S = 5
SETTINGS = f"""
RTPROV_FRONTEND_TOKENS=/etc/rtprov/tokens
RTPROV_BROKER_USER=rtprov
RTPROV_BROKER_PASSWORD=s3cr3t
RTPROV_STUB_DELAY={DELAY_S}
"""
# What an operator does after the installation.
CONFIGURE = f"""
cat >/etc/rtprov/rtprov.env <<END
{SETTINGS}
END
echo amqp://rtprov:s3cr3t@127.0.0.1:5673/ >/etc/rtprov/broker-url
/opt/rtprov/bin/python -m rtprov.tokens new trial >/root/new
grep ' *sha256:' /root/new >/etc/rtprov/tokens
tail -n 1 /root/new >/root/token
cp /etc/rtprov/certs/ca.pem /root/ca.pem
systemd-tmpfiles --create rtprov.conf
"""
# New certificates of a new CA; the sealing key stays.
RENEW = """
find /etc/rtprov/certs -type f ! -name seal.key -delete
/opt/rtprov/bin/python -m rtprov.certs /etc/rtprov/certs
"""
READ_IN_PLACE = """
mkdir -p /etc/systemd/system/rtprov-frontend.service.d
cp /usr/share/rtprov/watched-files.conf /etc/systemd/system/rtprov-frontend.service.d/
chgrp -R rtprov-config /etc/rtprov/certs /etc/rtprov/broker-url
chmod 2750 /etc/rtprov/certs
chmod 640 /etc/rtprov/certs/* /etc/rtprov/broker-url
systemctl daemon-reload
systemctl restart rtprov-frontend
"""


class Booted(TestCase):
    """The units, from their first start to a configuration that cannot work."""

    timeout = 1800.0  # ten minutes while twenty processes wait for a processor

    def setUp(self) -> None:
        self.docker = require_docker()
        require_image("python:3.13-slim")

    async def client(self, *arguments: str) -> Any:
        return await self.machine.python(CLIENT, *arguments)

    async def drop_in(self, unit: str, text: str) -> None:
        """Change settings of a unit until the next boot."""
        folder = f"/run/systemd/system/{unit}.d"
        await self.machine.shell(f"mkdir -p {folder}; printf '{text}' >{folder}/trial.conf")
        await self.machine.run("systemctl", "daemon-reload")

    async def during_a_call(self, unit: str, command: str) -> None:
        """Run a command as soon as a worker's status says that it calls A."""
        calling = STATUS_SAYS.format(unit=unit, text=A_CALL)
        await self.machine.until(f"{{ {calling} && {command}; }}")

    async def test_life(self) -> None:
        """The units start, restart, reload, stop and fail as documented."""
        await build_image(self.docker)
        self.machine = await Machine.boot(self.docker)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.machine.remove()))
        await self.machine.shell(CONFIGURE)
        for part in (
            self.first_start,
            self.restarts_under_load,
            self.removed_token,
            self.reload,
            self.replaced_certificate,
            self.drain,
            self.blocked_reactor,
            self.wrong_configuration,
            self.closed_port,
        ):
            try:
                await part()
            except CommandFailed as error:
                raise AssertionError(f"{part.__doc__}: {error}") from None

    async def first_start(self) -> None:
        """A unit is active when its role is connected; the status says so. Tasks complete."""
        await self.machine.run("systemctl", "start", *UNITS)
        shown = [await self.machine.show(unit, "ActiveState", "StatusText") for unit in UNITS]
        self.assertEqual({each["ActiveState"] for each in shown}, {"active"})
        self.assertEqual(
            [each["StatusText"] for each in shown],
            [
                "listening on 127.0.0.1:5673",
                "listening on 127.0.0.1:8444",
                f"{CONNECTED}; calls to A under way: 0",
                CONNECTED,
            ],
        )
        self.assertEqual(await self.client("orders", "2"), [COMPLETED] * 2)

    async def restarts_under_load(self) -> None:
        """While the front end restarts, no connection is refused and no order is lost."""
        stream = Deferred.fromCoroutine(self.client("stream"))
        for _ in range(RESTARTS):
            await self.machine.run("systemctl", "restart", "rtprov-frontend")
        await self.machine.shell("touch /run/enough")
        outcomes, messages = await stream
        accepted = outcomes["accepted"]
        self.assertEqual(outcomes, {"accepted": accepted})
        self.assertGreater(accepted, 10 * RESTARTS)
        self.assertEqual(messages, {"Completed": accepted})

    async def removed_token(self) -> None:
        """The tokens file is read in place: a removed token is refused without a restart."""
        self.assertEqual(await self.client("status", "404"), 404)
        await self.machine.shell("mv /etc/rtprov/tokens /root/tokens; cp /dev/null /root/none")
        await self.machine.shell("install -g rtprov-config -m 640 /root/none /etc/rtprov/tokens")
        self.assertEqual(await self.client("status", "401"), 401)
        await self.machine.shell("cp -p /root/tokens /etc/rtprov/tokens")
        await self.machine.run("systemctl", "reload", "rtprov-frontend")
        self.assertEqual(await self.client("status", "404"), 404)

    async def reload(self) -> None:
        """A reload loads the files again, and leaves the unit active."""
        for unit in UNITS[2:]:
            await self.machine.run("systemctl", "reload", unit)
            await self.machine.until(f"journalctl -u {unit} | grep -q 'sealing keys reloaded'")
            await self.machine.until(f"[ $(systemctl show -P SubState {unit}) = running ]")

    async def replaced_certificate(self) -> None:
        """Credentials are copies: a replaced certificate is used after a restart, which refuses no
        connection. With the drop-in for files that are read in place, it is used without one.
        """
        served = [await self.client("certificate")]
        await self.machine.shell(RENEW)
        await self.machine.run("systemctl", "restart", "rtprov-frontend")
        served.append(await self.client("certificate"))
        await self.machine.shell(READ_IN_PLACE)
        served.append(await self.client("certificate"))
        await self.machine.shell(f"{RENEW}\nchmod 640 /etc/rtprov/certs/*")
        served.append(await self.client("certificate", served[-1]))
        self.assertEqual([served.index(each) for each in served], [0, 1, 1, 3])
        await self.machine.shell("cp /etc/rtprov/certs/ca.pem /root/ca.pem")
        await self.machine.run("systemctl", "restart", *UNITS[1:3])

    async def drain(self) -> None:
        """A worker that is stopped finishes its call; its status says how many are left."""
        ordered = Deferred.fromCoroutine(self.client("orders", "1"))
        unit = "rtprov-worker@0"
        await self.during_a_call(unit, f"systemctl stop --no-block {unit}")
        await self.machine.until(STATUS_SAYS.format(unit=unit, text=f"stopping; {A_CALL}"))
        await self.machine.until(f"[ $(systemctl show -P ActiveState {unit}) = inactive ]")
        self.assertEqual((await self.machine.show(unit, "Result"))["Result"], "success")
        await self.machine.run("systemctl", "start", unit)
        self.assertEqual(await ordered, [COMPLETED])

    async def blocked_reactor(self) -> None:
        """A worker whose reactor is blocked is killed by the watchdog and started again. The task
        whose call it had begun is completed.
        """
        unit = "rtprov-worker@0"
        await self.drop_in(
            "rtprov-worker@.service",
            f"[Service]\\nWatchdogSec={WATCHDOG_S}\\nTimeoutAbortSec=1\\n",
        )
        await self.machine.run("systemctl", "restart", unit)
        ordered = Deferred.fromCoroutine(self.client("orders", "1"))
        await self.during_a_call(unit, f"systemctl kill --signal=STOP {unit}")
        await self.machine.until(f"[ $(systemctl show -P NRestarts {unit}) = 1 ]")
        self.assertEqual(await ordered, [COMPLETED])
        self.assertIn("Watchdog timeout", await self.machine.journal(f"--unit={unit}"))

    async def wrong_configuration(self) -> None:
        """A worker for a shard that does not exist ends with status 78, and is not restarted."""
        unit = "rtprov-worker@7"
        with self.assertRaises(CommandFailed):
            await self.machine.run("systemctl", "start", unit)
        self.assertEqual(
            await self.machine.show(unit, "ActiveState", "ExecMainStatus", "NRestarts"),
            {"ActiveState": "failed", "ExecMainStatus": "78", "NRestarts": "0"},
        )
        self.assertIn("there is no shard 7", await self.machine.journal(f"--unit={unit}"))

    async def closed_port(self) -> None:
        """A front end whose configuration cannot work closes its port. When that is corrected, it
        starts again.
        """
        await self.machine.shell("sed -i.good /TOKENS/d /etc/rtprov/rtprov.env")
        with self.assertRaises(CommandFailed):
            await self.machine.run("systemctl", "restart", "rtprov-frontend")
        await self.machine.until(
            "[ $(systemctl show -P ActiveState rtprov-frontend.socket) = inactive ]"
        )
        shown = await self.machine.show("rtprov-frontend", "ActiveState", "ExecMainStatus")
        self.assertEqual(shown, {"ActiveState": "failed", "ExecMainStatus": "78"})
        with self.assertRaisesRegex(CommandFailed, "ConnectionRefusedError"):
            await self.client("status", "404")
        await self.machine.shell("mv /etc/rtprov/rtprov.env.good /etc/rtprov/rtprov.env")
        await self.machine.run("systemctl", "start", "rtprov-frontend")
        self.assertEqual(await self.client("status", "404"), 404)
