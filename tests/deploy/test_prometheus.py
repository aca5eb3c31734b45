"""Alert rules under promtool, and a real Prometheus that scrapes every command."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Agent, readBody

from rtprov.security.development import make_development_set
from tests.support.compose import config, require_compose
from tests.support.deploy import DEPLOY, require
from tests.support.ports import free_port
from tests.support.processes import ANY_PORT, POLL_EVERY_S, ProcessTestCase, reactor

RULES = DEPLOY / "prometheus" / "rtprov.rules.yml"
COMMANDS = ("frontend", "worker", "broker", "stub")
FAST = "global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}\n"


class Rules(SynchronousTestCase):
    def promtool(self, *arguments: str) -> None:
        """Run promtool in the folder of the rules. Fail with its output if it fails."""
        done = subprocess.run(
            [require("promtool"), *arguments],
            cwd=RULES.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_valid(self) -> None:
        """Prometheus accepts its configuration and the rules."""
        self.promtool("check", "config", "prometheus.yml")

    def test_alerts(self) -> None:
        """Each alert fires in its case, and stays quiet in a similar one."""
        self.promtool("test", "rules", "rtprov.rules.test.yml")


class Compose(SynchronousTestCase):
    def test_profile(self) -> None:
        """The profile ``monitoring`` adds Prometheus and Grafana, on this machine only. They read
        the files of the repository, and Prometheus scrapes each role by its name.
        """
        docker = require_compose()
        before, services = (
            config(docker, *options)["services"] for options in ((), ("--profile", "monitoring"))
        )
        self.assertEqual(set(services) - set(before), {"prometheus", "grafana"})
        for name in ("prometheus", "grafana"):
            self.assertEqual([port["host_ip"] for port in services[name]["ports"]], ["127.0.0.1"])
            for volume in services[name]["volumes"]:
                if volume["type"] == "bind":
                    self.assertTrue(Path(volume["source"]).exists(), volume)
        scraped = re.findall(r"names: \[(.*?)\]", (RULES.parent / "prometheus.yml").read_text())
        names = {name for names in scraped for name in names.split(", ")}
        self.assertEqual(names, {"frontend", "worker", "standby", "stub"})
        for name in names:
            self.assertEqual(services[name]["environment"]["RTPROV_HEALTH_LISTEN"], "tcp:8080")


class Real(ProcessTestCase):
    async def ask(self, path: str) -> Any:
        """Return the data that Prometheus answers; None before it is ready."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}".encode()
        try:
            response = await Agent(reactor).request(b"GET", url)
        except ConnectionRefusedError:
            return None
        body = await readBody(response)
        return json.loads(body)["data"] if response.code == 200 else None

    async def until(self, path: str, holds: Any) -> None:
        """Ask Prometheus until `holds` is true of the answer."""
        while True:
            answer = await self.ask(path)
            if answer is not None and holds(answer):
                return
            await deferLater(reactor, POLL_EVERY_S)

    def start_prometheus(self, targets: dict[str, int]) -> None:
        """Start Prometheus with the real rules, but with short times; `targets` are the health
        ports by command.
        """
        prometheus = require("prometheus")
        self.port = free_port()
        rules = re.sub(r"for: \d+m", "for: 1s", RULES.read_text("utf-8"))
        (self.folder / "rules.yml").write_text(rules)
        jobs = "".join(
            f"  - job_name: rtprov-{name}\n"
            f'    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]\n'
            for name, port in targets.items()
        )
        (self.folder / "prometheus.yml").write_text(
            f"{FAST}rule_files: [rules.yml]\nscrape_configs:\n{jobs}"
        )
        self.spawn(
            [
                prometheus,
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=data",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ]
        )

    async def test_alert(self) -> None:
        """Prometheus scrapes every command and sees a task end. When the only worker is stopped,
        the alert for it fires.
        """
        require("prometheus")
        make_development_set(self.folder / "certs")
        where = ("--health-listen", ANY_PORT)
        listen = ("--listen", ANY_PORT, *where)
        broker = self.twistd("rtprov-broker", *listen)
        url = f"amqp://guest:guest@127.0.0.1:{await broker.port('the AMQP broker')}/"
        stub = self.twistd("rtprov-stub", *listen, "--delay=0.1")
        equipment = f"https://localhost:{await stub.port('service A (stub)')}"
        worker = self.twistd("rtprov-worker", "--broker", url, "--equipment-url", equipment, *where)
        frontend = self.twistd("rtprov-frontend", *listen, "--broker", url)
        processes = dict(zip(COMMANDS, (frontend, worker, broker, stub), strict=True))
        targets = {name: await each.port("health") for name, each in processes.items()}
        self.start_prometheus(targets)
        await self.until(
            "targets",
            lambda data: [each["health"] for each in data["activeTargets"]] == ["up"] * 4,
        )
        client = self.client(await frontend.port("service B (front end)"))
        while (await client.request("GET", "/readyz")).status != 200:
            await deferLater(reactor, POLL_EVERY_S)
        await client.final(await client.accepted("ABC123456"))
        ended = 'rtprov_tasks_ended_total{state="completed",reason="answered_200"}==1'
        await self.until(f"query?query={ended}", lambda data: bool(data["result"]))
        await self.until("query?query=rtprov_worker_active==1", lambda data: bool(data["result"]))
        self.assertNotIn("RtprovNoActiveWorker", self.firing(await self.ask("alerts")))
        await self.stop(worker)
        await self.until("alerts", lambda data: "RtprovNoActiveWorker" in self.firing(data))
        for process in (frontend, stub, broker):
            await self.stop(process)

    def firing(self, data: Any) -> set[str]:
        """Return the names of the alerts that fire."""
        return {each["labels"]["alertname"] for each in data["alerts"] if each["state"] == "firing"}
