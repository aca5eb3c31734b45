"""Rules that import-linter cannot check: which modules may import the reactor, txamqp, and test
modules.

The source is parsed, not imported.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent
TAP = "rtprov/tap/"


def imported(tree: ast.AST) -> Iterator[str]:
    """Return the dotted names that a module imports, at any place in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(name: str, sources: dict[str, str]) -> list[str]:
    """Return the files that import `name`, or something in it."""
    found = set()
    for path, text in sources.items():
        if any(f"{each}.".startswith(f"{name}.") for each in imported(ast.parse(text, path))):
            found.add(path)
    return sorted(found)


def sources(folder: str) -> dict[str, str]:
    """Return the text of all Python files below a folder of the project, by path."""
    files = (ROOT / folder).rglob("*.py")
    return {file.relative_to(ROOT).as_posix(): file.read_text("utf-8") for file in files}


class Layering(SynchronousTestCase):
    def test_reactor(self) -> None:
        """Only the commands import the reactor. All other modules get a clock as an argument."""
        found = importers("twisted.internet.reactor", sources("rtprov"))
        self.assertTrue(found)
        self.assertEqual([path for path in found if not path.startswith(TAP)], [])

    def test_clock(self) -> None:
        """Only the commands import the process's clock; other modules get it as an argument."""
        found = importers("rtprov.tap.process.clock", sources("rtprov"))
        commands = ("all_in_one", "broker", "broker_command", "frontend", "stub", "worker")
        self.assertEqual(found, [f"{TAP}{name}.py" for name in commands])

    def test_txamqp(self) -> None:
        """Only one module imports the untyped package txamqp."""
        found = importers("txamqp", sources("rtprov"))
        self.assertEqual([Path(path).name for path in found], ["_txamqp.py"])

    def test_what_mypy_is_told_to_ignore(self) -> None:
        """Each line that mypy ignores gives a reason."""
        silent = [
            f"{path}:{number}"
            for path, text in (sources("rtprov") | sources("tests")).items()
            for number, line in enumerate(text.splitlines(), 1)
            if re.search(r"#\stype: ignore(?!\[[a-z,-]+\] # \w)", line)
        ]
        self.assertEqual(silent, [])

    def test_tests(self) -> None:
        """No test module imports another one, since tests/support has what they share.

        Each test module has a unique name.
        """
        tests = sources("tests")
        found = {
            path: [name for name in imported(ast.parse(text, path)) if ".test_" in name]
            for path, text in tests.items()
        }
        self.assertEqual({path: names for path, names in found.items() if names}, {})
        names = Counter(Path(path).name for path in tests)
        self.assertEqual(
            [name for name in names if name.startswith("test_") and names[name] > 1], []
        )

    def test_groups(self) -> None:
        """Each test is in one of the two groups of tox.ini, so that none is left out."""
        tox = ConfigParser()
        tox.read(ROOT / "tox.ini", "utf-8")
        groups = [
            name for group in tox["groups"].values() for name in re.findall(r"tests\.\w+", group)
        ]
        tests = {
            ".".join(Path(path).with_suffix("").parts[:2])
            for path in sources("tests")
            if Path(path).name.startswith("test_")
        }
        self.assertEqual(sorted(groups), sorted(tests))

    def test_importers(self) -> None:
        """The check finds every form of import."""
        for statement in (
            "from twisted.internet import reactor",
            "import twisted.internet.reactor",
            "def run():\n    from twisted.internet.reactor import run",
            "if TYPE_CHECKING:\n    from twisted.internet import reactor",
        ):
            self.assertEqual(importers("twisted.internet.reactor", {"a.py": statement}), ["a.py"])
        self.assertEqual(importers("txamqp", {"a.py": "import txamqpx"}), [])
