"""A folder with a set-up in which nothing is wrong, for tests that make one mistake in it."""

from __future__ import annotations

import json
import time
from typing import Any

from rtprov.security.development import SEAL_KEY, ensure_seal_key
from rtprov.security.tokens import new_token
from tests.support.certificates import DAY, Authority, dns
from tests.support.cli_case import MemoryProcess, VerbTestCase


class RealTime(MemoryProcess):
    """A process in memory that knows the time of day: certificates are valid by the real clock."""

    def now(self) -> float:
        return time.time()


class DoctorTestCase(VerbTestCase):
    """Runs ``rtprov doctor`` on `folder`."""

    def setUp(self) -> None:
        super().setUp()
        self.process = RealTime(self.network, self.clock, self.folder)
        self.certs = self.folder / "certs"
        self.certs.mkdir()
        self.authority = Authority(begins_in=-60 * DAY, ends_in=900 * DAY)
        (self.certs / "ca.pem").write_bytes(self.authority.pem)
        for role in ("frontend", "worker"):
            self.authority.issue(dns("b", "localhost"), ends_in=90 * DAY).write(self.certs, role)
            (self.certs / f"{role}.key").chmod(0o600)
        ensure_seal_key(self.certs / SEAL_KEY)
        self.tokens = self.folder / "tokens"
        self.tokens.write_text(new_token("billing")[0].line + "\n")

    def diagnose(self, *options: str, status: int = 1, **environ: str) -> list[dict[str, Any]]:
        """Return the findings that are not ``ok``."""
        self.process.environ = environ
        printed = self.verb(
            "doctor",
            *("--certs", str(self.certs)),
            *("--tokens", str(self.tokens)),
            *("--state", str(self.folder / "state")),
            *("--pidfile", str(self.folder / "twistd.pid")),
            *("--ca", str(self.certs / "ca.pem")),
            *("-o", "json"),
            *options,
            status=status,
        )
        found = json.loads(printed)
        for each in found:
            self.assertEqual(bool(each["advice"]), each["level"] != "ok", each)
        return [each for each in found if each["level"] != "ok"]

    def assert_finds(
        self, check: str, words: str, *options: str, level: str = "error", **environ: str
    ) -> None:
        """Check that there is one finding, of this check, with these words in its message."""
        status = 1 if level == "error" else 0
        found = self.diagnose("--local", *options, status=status, **environ)
        self.assertEqual([each["check"] for each in found], [check], found)
        self.assertIn(words, found[0]["message"])
        self.assertEqual(found[0]["level"], level)
