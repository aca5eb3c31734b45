"""The systemd units: systemd reads them without a complaint, and finds them well confined."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.deploy import DEPLOY, require

UNITS = DEPLOY / "systemd"
SYSTEM_UNITS = Path("/usr/lib/systemd/system")
MOST_EXPOSED = 15  # 1.5 of 10
KINDS = ("service", "socket", "target")
PROGRAMS = ("/opt/rtprov/bin/twistd", "/bin/kill")
ROLES = {
    "rtprov-frontend.service": "rtprov-frontend",
    "rtprov-worker@0.service": "rtprov-worker",
    "rtprov-broker.service": "rtprov-broker",
    "rtprov-stub.service": "rtprov-stub",
    "rtprov.service": "rtprov",
}


class Units(SynchronousTestCase):
    """A folder that looks to systemd-analyze like a machine with the units."""

    def setUp(self) -> None:
        self.analyze = require("systemd-analyze")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        shutil.copytree(SYSTEM_UNITS, self.root / "usr/lib/systemd/system", symlinks=True)
        for program in PROGRAMS:
            path = self.root / program[1:]
            path.parent.mkdir(parents=True)
            path.touch(0o755)
        self.units = self.root / "etc/systemd/system"
        self.units.mkdir(parents=True)
        for unit in (each for kind in KINDS for each in UNITS.glob(f"*.{kind}")):
            shutil.copy(unit, self.units)

    def run_analyze(self, *arguments: str) -> tuple[int, str]:
        """Run systemd-analyze; return its exit status and what it writes."""
        done = subprocess.run(
            [self.analyze, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def verify(self) -> str:
        """Return what systemd-analyze says against the units; an empty text if nothing."""
        status, said = self.run_analyze(
            "verify",
            "--man=no",
            f"--root={self.root}",
            "rtprov-frontend.socket",
            "rtprov-frontend-closed.target",
            *ROLES,
        )
        about_them = "".join(line for line in said.splitlines(True) if "rtprov" in line)
        return about_them or ("" if status == 0 else said)

    def add_drop_in(self, unit: str, text: str) -> None:
        folder = self.units / f"{unit}.d"
        folder.mkdir()
        (folder / "more.conf").write_text(text)

    def test_verify(self) -> None:
        """No unit has an unknown setting, a wrong value or a program that does not exist."""
        self.assertEqual(self.verify(), "")

    def test_watched_files(self) -> None:
        """The same holds with the drop-in for files that are read in place."""
        for unit in ("rtprov-frontend.service", "rtprov-worker@.service"):
            self.add_drop_in(unit, (UNITS / "watched-files.conf").read_text())
        self.assertEqual(self.verify(), "")

    def test_verify_finds_mistakes(self) -> None:
        """A misspelt setting is found: the test above can fail."""
        self.add_drop_in("rtprov-stub.service", "[Service]\nRestartSecs=1\n")
        self.assertIn("RestartSecs", self.verify())

    def test_security(self) -> None:
        """systemd's assessment of each service is at most 1.5 of 10; 10 is unconfined."""
        for unit in ROLES:
            status, said = self.run_analyze(
                *("security", "--offline=true", f"--root={self.root}"),
                *(f"--threshold={MOST_EXPOSED}", "--no-pager", unit),
            )
            self.assertEqual(status, 0, said)
            self.assertIn("exposure level", said)

    def test_commands(self) -> None:
        """Each unit starts its role in the foreground, without a pid file, and ends what waits for
        ever by its watchdog.
        """
        for unit, command in ROLES.items():
            lines = (self.units / unit.replace("@0", "@")).read_text().splitlines()
            self.assertIn(f"ExecStart=/opt/rtprov/bin/twistd --pidfile= -n {command}", lines)
            for line in ("Type=notify", "WatchdogSec=30", "RestartPreventExitStatus=78 243"):
                self.assertIn(line, lines, unit)

    def test_logrotate(self) -> None:
        """logrotate reads the configuration for logs in files."""
        logrotate = require("logrotate")
        file = self.root / "rtprov"
        shutil.copyfile(UNITS / "rtprov.logrotate", file)
        file.chmod(0o644)
        done = subprocess.run(
            [logrotate, "--debug", f"--state={self.root}/status", file],
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual((done.returncode, "error:" in done.stderr), (0, False), done.stderr)
