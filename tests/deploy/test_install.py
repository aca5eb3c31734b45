"""The wheel and the sdist, installed as operators install them.

Each test makes a virtual environment and gets rtprov's dependencies from the package index, so it
takes a minute or more. Without an index it is skipped, or fails with ``RTPROV_REQUIRE_DEPLOY=1``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from shutil import copytree
from typing import Any

from rtprov import __version__
from rtprov.security.development import make_development_set
from tests.support.deploy import missing, takes_minutes
from tests.support.packaging import LITTER, ROOT, build, require_setuptools
from tests.support.processes import ProcessTestCase, Twistd

ROLES = ("rtprov", "rtprov-frontend", "rtprov-worker", "rtprov-broker", "rtprov-stub")
COMPLETED = {"code": 200, "message": "Completed"}


class Installed(ProcessTestCase):
    timeout = 900.0

    def setUp(self) -> Any:
        takes_minutes()
        require_setuptools()
        super().setUp()
        self.venv = self.folder / "venv"
        source = self.folder / "source"
        copytree(ROOT, source, ignore=LITTER)
        self.sdist = build("sdist", source, self.folder)
        self.wheel = build("wheel", source, self.folder)

    async def output_of(self, program: Path, *arguments: str, **variables: str) -> str:
        """Run a program, which must end with 0; return what it printed."""
        process = self.run_installed(program, *arguments, **variables)
        self.assertEqual(await process.ended, 0, f"{arguments} {process.log} {process.errors}")
        return process.log

    def run_installed(self, program: Path, *arguments: str, **variables: str) -> Twistd:
        """Start a program that finds rtprov where it is installed, and not in the sources."""
        return self.spawn([str(program), *arguments], {"PYTHONPATH": "", **variables})

    async def make_venv(self) -> Path:
        """Make a virtual environment, to which a package was installed; return its programs'
        folder. Raises `SkipTest`, or `FailTest` if it may not be missing.
        """
        await self.output_of(Path(sys.executable), "-m", "venv", str(self.venv))
        programs = self.venv / "bin"
        trying = self.run_installed(programs / "pip", "install", "--quiet", "attrs")
        if await trying.ended:
            missing(f"no package index can be reached: {trying.errors[-500:]}")
        return programs

    async def check(self, package: Path) -> None:
        """Check that the package installs, and that twistd has its commands."""
        programs = await self.make_venv()
        await self.output_of(programs / "pip", "install", "--quiet", str(package))
        for role in ROLES:
            helped = await self.output_of(programs / "twistd", role, "--help")
            self.assertIn(f"Usage: twistd [twistd options] {role} [options]", helped)
        version = f"rtprov {__version__}\n"
        self.assertEqual(await self.output_of(programs / "twistd", "rtprov", "--version"), version)
        self.assertEqual(await self.output_of(programs / "rtprov", "--version"), version)

    async def test_wheel(self) -> None:
        """The wheel brings all commands."""
        await self.check(self.wheel)

    async def test_sdist(self) -> None:
        """So does the sdist, which pip builds first."""
        await self.check(self.sdist)

    async def test_pipx(self) -> None:
        """``pipx install`` gives the command ``rtprov``, which runs a role that does a task."""
        programs = await self.make_venv()
        await self.output_of(programs / "pip", "install", "--quiet", "pipx")
        home = {"PIPX_HOME": str(self.folder / "pipx"), "PIPX_BIN_DIR": str(self.folder / "bin")}
        await self.output_of(programs / "pipx", "install", str(self.wheel), **home)
        rtprov = self.folder / "bin" / "rtprov"
        self.assertEqual(await self.output_of(rtprov, "--version"), f"rtprov {__version__}\n")
        make_development_set(self.folder / "certs")
        ports = ("--port", "0", "--stub-port", "0", "--broker-port", "0", "--stub-delay", "0")
        process = self.run_installed(rtprov, "run", "all-in-one", *ports)
        await process.logged("ready; try: curl ")
        client = self.client(await process.port("service B (front end)"))
        self.assertEqual((await client.final(await client.accepted("ABC123456"))).json, COMPLETED)
        await self.stop(process)
