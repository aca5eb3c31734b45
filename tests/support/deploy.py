"""Programs that the tests of deployment need: Docker, systemd-analyze, ansible and others.

    analyze = require("systemd-analyze")  # its path, or SkipTest
    require_docker()  # Docker's engine answers, or SkipTest

With ``RTPROV_REQUIRE_DEPLOY=1`` in the environment, what is missing fails the test instead.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

from twisted.trial.unittest import FailTest, SkipTest

from tests.support.scale import QUICK

REQUIRE = "RTPROV_REQUIRE_DEPLOY"
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # not in every user's PATH
ANSWER_DEADLINE_S = 20.0


def missing(what: str) -> NoReturn:
    """Skip the test because of `what`, or fail it if nothing may be missing."""
    raise (FailTest if os.environ.get(REQUIRE) == "1" else SkipTest)(what)


def require(program: str) -> str:
    """Return the program's path. Raises `SkipTest` if it is not installed, or `FailTest` if it must
    be. Raises `SkipTest` in the quick tests.
    """
    if QUICK:
        raise SkipTest("the quick tests start no other programs")
    found = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:{SBIN}")
    return missing(f"{program} is not installed") if found is None else found


def takes_minutes() -> None:
    """Raise `SkipTest` where `require_docker` does, and in the quick tests: this test takes as long
    as those that need Docker.
    """
    if QUICK or os.environ.get("RTPROV_NO_DOCKER") == "1":
        raise SkipTest("the long tests of deployment are run by tox -e deploy")


def require_docker() -> str:
    """Return the path of ``docker``, whose engine answers. Raises as `require` does.

    Raises `SkipTest` if the environment has ``RTPROV_NO_DOCKER=1``: such tests take minutes.
    """
    if os.environ.get("RTPROV_NO_DOCKER") == "1":
        raise SkipTest("the tests that need Docker's engine are run by tox -e deploy")
    docker = require("docker")
    try:
        subprocess.run([docker, "info"], capture_output=True, check=True, timeout=ANSWER_DEADLINE_S)
    except (subprocess.SubprocessError, OSError):
        missing("Docker's engine does not run, or this user may not use it")
    return docker


def require_image(name: str) -> str:
    """Return the name of an image that Docker has. Raises as `require` does: no test downloads."""
    docker = require_docker()
    found = subprocess.run([docker, "image", "inspect", name], capture_output=True, check=False)
    return missing(f"Docker has no image {name}") if found.returncode else name
