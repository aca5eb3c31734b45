"""The distributions: the sdist can build the wheel, and the wheel contains the package and twistd's
plugin, and nothing else.
"""

from __future__ import annotations

import tarfile
import tempfile
import zipfile
from email.parser import Parser
from pathlib import Path
from shutil import copytree

from twisted.trial.unittest import SynchronousTestCase

from rtprov import __version__
from tests.support.packaging import LITTER, ROOT, build, require_setuptools

PLUGIN = "twisted/plugins/rtprov_plugin.py"
SECRETS = (
    "certs/stub.key",
    "certs/ca.pem",
    "rtprov/stub.key",
    "rtprov/tap/seal.key",
    "tests/stub.key",
    "docs/stub.pem",
    "state/broker.sqlite3",
)


class Packaging(SynchronousTestCase):
    def setUp(self) -> None:
        require_setuptools()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.source = self.folder / "source"
        copytree(ROOT, self.source, ignore=LITTER)
        for name in SECRETS:
            (self.source / name).parent.mkdir(exist_ok=True)
            (self.source / name).write_bytes(b"secret")

    def sources(self, folder: str, pattern: str = "*.py") -> set[str]:
        return {
            str(path.relative_to(self.source)) for path in (self.source / folder).rglob(pattern)
        }

    def static_files(self) -> set[str]:
        """The files for browsers, which are part of the package."""
        folder = self.source / "rtprov" / "frontend" / "static"
        return {str(path.relative_to(self.source)) for path in folder.rglob("*") if path.is_file()}

    def test_built(self) -> None:
        """The sdist has all sources, stubs, tests and documents. The wheel made from it has the
        package with its types, and the plugin. Neither has keys.
        """
        sdist = build("sdist", self.source, self.folder)
        with tarfile.open(sdist) as archive:
            inside = {name.partition("/")[2] for name in archive.getnames()}
            if hasattr(tarfile, "data_filter"):  # Python 3.11.4 and later
                archive.extractall(self.folder, filter="data")
            else:
                archive.extractall(self.folder)  # noqa: S202 - it is our own
        wanted = (
            self.sources("rtprov")
            | self.sources("tests")
            | self.sources("stubs", "*.pyi")
            | self.sources("deploy", "*.service")
            | self.static_files()
            | {PLUGIN, "rtprov/py.typed", "setup.py", "pyproject.toml", "LICENSE"}
        )
        self.assertEqual(wanted - inside, set())
        self.assertEqual(inside & set(SECRETS), set())

        wheel = build("wheel", self.folder / sdist.name.removesuffix(".tar.gz"), self.folder)
        with zipfile.ZipFile(wheel) as archive:
            metadata = f"rtprov-{__version__}.dist-info"
            inside = {name for name in archive.namelist() if not name.startswith(f"{metadata}/")}
            fields = Parser().parsestr(archive.read(f"{metadata}/METADATA").decode())
        # Neither twisted/__init__.py nor twisted/plugins/__init__.py, which would replace Twisted's
        # own files.
        self.assertEqual(
            inside, self.sources("rtprov") | self.static_files() | {PLUGIN, "rtprov/py.typed"}
        )
        self.assertEqual((fields["Name"], fields["Version"]), ("rtprov", __version__))
        self.assertEqual(wheel.name, f"rtprov-{__version__}-py3-none-any.whl")
