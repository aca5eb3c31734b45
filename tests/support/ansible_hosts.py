"""Machines that ansible reaches by ssh: two that have booted systemd, and one with RabbitMQ, as
Docker containers. `Playbooks` runs the playbooks in ``deploy/ansible`` on them.
"""

from __future__ import annotations

import json
import os
import re
import sys
import uuid
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.utils import getProcessOutputAndValue

from tests.support.deploy import DEPLOY
from tests.support.machine import BOOT, CommandFailed, output_of

ANSIBLE = DEPLOY / "ansible"
IMAGE = "rtprov-ansible-host"
RECAP = re.compile(r"^(\S+) +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.M)
READY = "chown -R root: /root/.ssh; until systemctl is-active ssh; do sleep 0.2; done"
RELEASES = ("wheels.tar.gz", "next.tar.gz")  # in the image


async def build_image(docker: str) -> None:
    """Build the hosts' image. Without a cache that takes a minute or more."""
    await output_of(
        *(docker, "build", "--quiet", f"--tag={IMAGE}"),
        *("--file=tests/deploy/ansible.Dockerfile", "."),
    )


@attrs.define
class Hosts:
    """The containers. Remove them at the end. `addresses` are those of the two machines."""

    docker: str
    folder: Path
    names: list[str] = attrs.Factory(list)
    addresses: list[str] = attrs.Factory(list)
    broker: str = ""

    async def start(self) -> None:
        """Start all. The folder gets an ssh key that opens the machines, and both releases."""
        mark = f"rtprov-ansible-{uuid.uuid4().hex[:8]}"
        await output_of("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{self.folder}/key")
        self.broker = await self._run(f"{mark}-broker", "rabbitmq:4-management")
        for number in (1, 2):
            name = f"{mark}-{number}"
            self.addresses.append(await self._run(name, IMAGE, *BOOT))
            await self.on(number, "mkdir -p -m 700 /root/.ssh")
            key = f"{self.folder}/key.pub"
            await output_of(self.docker, "cp", key, f"{name}:/root/.ssh/authorized_keys")
            await self.on(
                number,
                "chown -R root: /root/.ssh; until systemctl is-active ssh; do sleep 0.2; done",
            )
        for release in RELEASES:
            await output_of(self.docker, "cp", f"{self.names[1]}:/{release}", str(self.folder))

    async def _run(self, name: str, image: str, *options: str) -> str:
        """Start a container; return its address."""
        self.names.append(name)
        await output_of(self.docker, "run", "--detach", f"--name={name}", *options, image)
        address = "{{.NetworkSettings.IPAddress}}"
        found = await output_of(self.docker, "inspect", f"--format={address}", name)
        return found.strip()

    async def on(self, number: int, script: str) -> str:
        """Run a shell script on a machine, 1 or 2; return its standard output."""
        return await output_of(self.docker, "exec", self.names[number], "sh", "-ec", script)

    async def remove(self) -> None:
        """Remove the containers."""
        for name in self.names:
            await output_of(self.docker, "rm", "--force", "--volumes", name)


@attrs.define
class Playbooks:
    """Runs playbooks with `variables` on the hosts; `program` is ``ansible-playbook``."""

    program: str
    hosts: Hosts
    variables: dict[str, Any]

    def write_inventory(self) -> None:
        """Write the inventory with the current variables."""
        hosts = {f"host{n}": {"ansible_host": a} for n, a in enumerate(self.hosts.addresses, 1)}
        group = {"hosts": dict.fromkeys(hosts)}
        inventory = {
            "all": {
                "hosts": hosts,
                "vars": {
                    "ansible_user": "root",
                    "ansible_ssh_private_key_file": f"{self.hosts.folder}/key",
                    "ansible_ssh_common_args": "-o StrictHostKeyChecking=no"
                    " -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
                    "ansible_python_interpreter": "/usr/bin/python3",
                    **self.variables,
                },
                "children": {"workers": group, "frontends": group, "stubs": group},
            }
        }
        (self.hosts.folder / "inventory.json").write_text(json.dumps(inventory))

    async def run(self, playbook: str, **extra: object) -> dict[str, int]:
        """Run a playbook; return how much it has changed on each host. Raises `CommandFailed`."""
        self.write_inventory()
        folder = self.hosts.folder
        arguments = [f"--inventory={folder}/inventory.json", playbook]
        arguments += [f"--extra-vars={name}={value}" for name, value in extra.items()]
        environment = {
            **os.environ,
            "ANSIBLE_HOME": f"{folder}/ansible",
            "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "LC_ALL": "C.UTF-8",
        }
        out, errors, status = await getProcessOutputAndValue(
            self.program, arguments, env=environment, path=str(ANSIBLE)
        )
        text = (out + errors).decode(errors="replace")
        recap = {host: tuple(map(int, counts)) for host, *counts in RECAP.findall(text)}
        if status or not recap:
            raise CommandFailed(f"{playbook} ended with {status}: {text}")
        if os.environ.get("RTPROV_SHOW_ANSIBLE"):
            sys.stderr.write(text)
        return {host: changed for host, (changed, *_) in recap.items()}
