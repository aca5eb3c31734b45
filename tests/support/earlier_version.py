"""An earlier version of rtprov, from the project's history, for tests of upgrades.

    where = earlier_version()  # the folder with its packages, or SkipTest
    self.twistd("rtprov-worker", environment={"PYTHONPATH": str(where)})

A copy of the sources without their history, such as an sdist or a shallow clone, has no earlier
version. With ``RTPROV_REQUIRE_DEPLOY=1`` in the environment that fails the test instead.
"""

from __future__ import annotations

import ast
import atexit
import io
import shutil
import subprocess
import tarfile
import tempfile
from functools import cache
from pathlib import Path

from tests.support.deploy import missing, require

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0d50c900998f2531994f03150135d6e0387973c9"  # 0.1.0 in CHANGELOG.md
PARTS = ("rtprov", "twisted", "setup.py")


@cache
def earlier_version() -> Path:
    """Return the folder of the earlier version; it is removed with this process.

    Raises `SkipTest`, or `FailTest` if nothing may be missing.
    """
    git = require("git")
    archive = subprocess.run(
        # Another user may own the clone, for example where the tests run as root.
        [git, "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "archive", COMMIT, *PARTS],
        capture_output=True,
        check=False,
    )
    if archive.returncode:
        reason = archive.stderr.decode(errors="replace").strip()
        missing(f"the earlier version {COMMIT[:7]} is not in the history here: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="rtprov-earlier-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        if hasattr(tarfile, "data_filter"):  # Python 3.11.4 and later
            files.extractall(folder, filter="data")
        else:
            files.extractall(folder)  # noqa: S202 - it is our own
    return folder


def required_packages(folder: Path) -> list[str]:
    """Return the packages that the earlier version requires, as its setup.py names them."""
    call = next(
        node
        for node in ast.walk(ast.parse((folder / "setup.py").read_text()))
        if isinstance(node, ast.keyword) and node.arg == "install_requires"
    )
    return [str(each) for each in ast.literal_eval(call.value)]
