"""A running compose.yaml, for the tests of deployment.

    stack = Stack(folder)
    await stack.run("up", "--build", "-d", "--wait")
    await stack.run("kill", "worker")
    stack.port                      # of the front end, on 127.0.0.1
    await stack.calls()             # of the stub of A, by equipment id
    await stack.remove()

The project, the image and the port have names and a number of their own, so a stack that already
runs on this machine is not touched.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor as _reactor
from twisted.internet.utils import getProcessOutputAndValue

from tests.support.deploy import ANSWER_DEADLINE_S, missing, require, require_docker, require_image
from tests.support.ports import free_port

reactor = cast("Any", _reactor)

ROOT = Path(__file__).resolve().parents[2]
OTHERS = ("stub", "worker", "standby")  # rtprov's services but for the front end
BASES = ("python:3.13-slim", "rabbitmq:4-management")
STUB_DELAY_S = 2
_CALL = re.compile(r" call \d+: (\w+)$", re.MULTILINE)


def require_compose() -> str:
    """Return the path of ``docker``, which has the command ``docker compose``. Raises as `require`
    does.
    """
    docker = require("docker")
    command = [docker, "compose", "version"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=ANSWER_DEADLINE_S)
    return missing("Docker has no command compose") if done.returncode else docker


def require_stack() -> str:
    """Return the path of ``docker``, which can run the stack. Raises as `require` does."""
    require_docker()
    for base in BASES:
        require_image(base)
    return require_compose()


def config(docker: str, *options: str) -> Any:
    """Return what ``docker compose OPTIONS config`` makes of compose.yaml. No engine is needed."""
    done = subprocess.run(
        [docker, "compose", *options, "config", "--format", "json"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")},
        capture_output=True,
        text=True,
        check=False,
        timeout=ANSWER_DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return json.loads(done.stdout)


class Stack:
    """compose.yaml under a project name of its own. Its override file is in `folder`.

    Raises `SkipTest` or `FailTest` if Docker cannot run it.
    """

    def __init__(self, folder: Path) -> None:
        self.docker = require_stack()
        self.port = free_port()
        self.project = self.image = f"rtprov-test-{os.getpid()}"
        override = folder / "override.yaml"
        images = "".join(f"  {name}: {{image: {self.image}}}\n" for name in (*OTHERS, "certs"))
        override.write_text(
            f"services:\n{images}  frontend:\n    image: {self.image}\n"
            f"    ports: !override ['127.0.0.1:{self.port}:8443']\n"
        )
        self.environment = os.environ | {
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_FILE": os.pathsep.join([str(ROOT / "compose.yaml"), str(override)]),
            "STUB_DELAY": str(STUB_DELAY_S),
        }

    async def shell(self, command: str, folder: Path) -> str:
        """Run a command line in `folder`, as a user of this stack; return its output. Raises
        AssertionError if it fails.
        """
        out, error, status = await getProcessOutputAndValue(
            "/bin/sh", ["-c", command], env=self.environment, path=str(folder), reactor=reactor
        )
        text, errors = out.decode(), error.decode("utf-8", "replace")
        assert status == 0, f"{command}: exit status {status}\n{text[-4000:]}\n{errors[-4000:]}"
        return cast("str", text)

    async def run(self, *arguments: str) -> str:
        """Run ``docker compose ARGUMENTS``; return its output. Raises as `shell` does."""
        return await self.shell(shlex.join([self.docker, "compose", *arguments]), ROOT)

    async def inspect(self, kind: str, *names: str) -> list[Any]:
        """Return what ``docker inspect`` says about containers or images."""
        command = [self.docker, "inspect", "--type", kind, *names]
        return cast("list[Any]", json.loads(await self.shell(shlex.join(command), ROOT)))

    async def containers(self, *services: str) -> list[Any]:
        """Return what ``docker inspect`` says about the containers of these services."""
        names = (await self.run("ps", "--all", "--quiet", *services)).split()
        return await self.inspect("container", *names)

    async def logs(self, service: str) -> str:
        return await self.run("logs", "--no-color", "--no-log-prefix", service)

    async def calls(self) -> Counter[str]:
        """Return how many calls of each equipment id the stub of A has logged."""
        return Counter(_CALL.findall(await self.logs("stub")))

    async def remove(self) -> None:
        """Remove all that the stack has left: containers, volumes, network and image."""
        await self.run("down", "--volumes", "--timeout", "1", "--remove-orphans")
        await self.shell(shlex.join([self.docker, "image", "rm", "--force", self.image]), ROOT)
