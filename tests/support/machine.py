"""A machine that has booted systemd, with rtprov's units: a Docker container.

    machine = await Machine.boot(docker)
    await machine.run("systemctl", "start", "rtprov-frontend")
    await machine.remove()

The image is built from `deploy/Dockerfile` and `tests/deploy/systemd.Dockerfile`, and is kept in
Docker's cache. Nothing in it is reached from outside: programs run in the container.
"""

from __future__ import annotations

import json
import os
import uuid
from typing import Any

import attrs
from twisted.internet.utils import getProcessOutputAndValue

from tests.support.deploy import DEPLOY

ROOT = DEPLOY.parent
IMAGE, BUILD_IMAGE = "rtprov-machine", "rtprov-machine-build"
PYTHON = "/opt/rtprov/bin/python"
# systemd needs SYS_ADMIN for mounts, NET_ADMIN for sockets, SYS_PTRACE to look at its services. It
# stops on machines with the first version of cgroups unless it is told otherwise.
BOOT = (
    *("--cap-add=SYS_ADMIN", "--cap-add=NET_ADMIN", "--cap-add=SYS_PTRACE"),
    *("--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined"),
    *("--tmpfs=/run", "--tmpfs=/run/lock", "--tmpfs=/tmp:exec"),
    *("--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw", "--cgroupns=host"),
    "--env=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1",
)


class CommandFailed(Exception):
    """A program did not end with status 0. The text has its status and output."""


async def output_of(*command: str) -> str:
    """Run a program in the repository's folder; return what it writes to standard output.

    Raises `CommandFailed`.
    """
    out, errors, status = await getProcessOutputAndValue(
        command[0], command[1:], env=os.environ, path=str(ROOT)
    )
    if status:
        text = (out + errors).decode(errors="replace")
        raise CommandFailed(f"{' '.join(command)} ended with {status}: {text}")
    return bytes(out).decode(errors="replace")


async def build_image(docker: str) -> None:
    """Build the machine's image. Without a cache that takes a minute or more."""
    await output_of(
        *(docker, "build", "--quiet", "--target=build", f"--tag={BUILD_IMAGE}"),
        *("--file=deploy/Dockerfile", "."),
    )
    await output_of(
        *(docker, "build", "--quiet", f"--tag={IMAGE}", f"--build-arg=RTPROV={BUILD_IMAGE}"),
        *("--file=tests/deploy/systemd.Dockerfile", "deploy/systemd"),
    )


@attrs.frozen
class Machine:
    """A booted container. Remove it at the end."""

    docker: str
    name: str

    @classmethod
    async def boot(cls, docker: str) -> Machine:
        """Boot a new machine; return it when systemd has started everything."""
        machine = cls(docker, f"rtprov-machine-{uuid.uuid4().hex[:8]}")
        await output_of(docker, "run", "--detach", f"--name={machine.name}", *BOOT, IMAGE)
        await machine.until("systemctl is-system-running 2>/dev/null | grep -q running")
        return machine

    async def run(self, *command: str) -> str:
        """Run a program on the machine; return its standard output. Raises `CommandFailed`."""
        return await output_of(self.docker, "exec", self.name, *command)

    async def shell(self, script: str) -> str:
        """Run a shell script on the machine; return its standard output."""
        return await self.run("sh", "-ec", script)

    async def until(self, condition: str, seconds: int = 60) -> None:
        """Return when a shell condition has become true. Raises `CommandFailed`, with the end of
        the journal, if it does not.
        """
        try:
            await self.run(
                "timeout", str(seconds), "sh", "-c", f"until {condition}; do sleep 0.1; done"
            )
        except CommandFailed as error:
            raise CommandFailed(f"{error}\n{await self.journal()}") from None

    async def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Return properties of a unit, as ``systemctl show`` prints them."""
        text = await self.run("systemctl", "show", f"--property={','.join(properties)}", unit)
        return dict(line.split("=", 1) for line in text.splitlines())

    async def journal(self, *arguments: str) -> str:
        """Return the end of the journal."""
        return await self.run("journalctl", "--no-pager", "--lines=60", "--output=cat", *arguments)

    async def python(self, script: str, *arguments: str) -> Any:
        """Run a Python script on the machine; return the JSON that it prints."""
        return json.loads(await self.run(PYTHON, "-c", script, *arguments))

    async def remove(self) -> None:
        """Remove the container."""
        await output_of(self.docker, "rm", "--force", "--volumes", self.name)
