"""Where a setting comes from."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rtprov.cli.failures import VerbFailed
from rtprov.cli.profile import Profile, find_profile

FILE = """
default = "office"

[profiles.office]
url = "https://office:8443/"
ca = "~/office.pem"
token_file = "/etc/token"

[profiles.lab]
url = "https://lab"
"""


class Profiles(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Path(self.mktemp())
        (self.home / ".config").mkdir(parents=True)

    def write(self, text: str) -> None:
        (self.home / ".config" / "rtprov.toml").write_text(text)

    def find(self, name: str | None = None, url: str | None = None, **environ: str) -> Profile:
        return find_profile({"url": url}, name, environ, self.home)

    def refused(self, **options: str) -> str:
        with self.assertRaises(VerbFailed) as caught:
            self.find(**options)
        self.assertEqual(caught.exception.status, 2)
        return str(caught.exception)

    def test_development(self) -> None:
        """Without any setting it is the development set-up of the current folder."""
        self.assertEqual(self.find(), Profile("https://localhost:8443", Path("certs/ca.pem")))

    def test_mark(self) -> None:
        """The file may begin with a byte order mark."""
        self.write(f"\ufeff{FILE}")
        self.assertEqual(self.find("lab").url, "https://lab")

    def test_order(self) -> None:
        """An option beats a variable, and that beats the profile."""
        self.write(FILE)
        office = Profile("https://office:8443", self.home / "office.pem", Path("/etc/token"))
        self.assertEqual(self.find(), office)
        self.assertEqual(self.find("lab").url, "https://lab")
        self.assertEqual(self.find(RTPROV_API_PROFILE="lab").url, "https://lab")
        self.assertEqual(self.find(RTPROV_API_URL="https://env").url, "https://env")
        self.assertEqual(self.find(url="https://o", RTPROV_API_URL="https://env").url, "https://o")
        self.assertEqual(self.find(RTPROV_API_URL="https://env").ca, self.home / "office.pem")

    def test_refused(self) -> None:
        """What is wrong is named, with the file, the variable or the option."""
        self.assertIn("there is no profile x", self.refused(name="x"))
        self.assertIn("RTPROV_API_URL: expected an https", self.refused(RTPROV_API_URL="b"))
        self.assertIn("RTPROV_API_CERT: a certificate", self.refused(RTPROV_API_CERT="a.pem"))
        for text, words in (
            ("default = 5", "expected default, a name"),
            ("colour = 1", "colour: expected default"),
            ("[profiles]\na = 1", "profiles.a: expected a table"),
            ("[profiles.a]\ntoken = 'x'", "profiles.a.token: expected"),
            ("[", "rtprov.toml: "),
        ):
            self.write(text)
            self.assertIn(words, self.refused())
