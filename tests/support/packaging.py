"""Wheels and sdists of the project, built as pip builds them."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import ignore_patterns

from twisted.trial.unittest import SkipTest

ROOT = Path(__file__).resolve().parents[2]
SETUPTOOLS = 77
# These must not be among the project's files, in any folder.
LITTER = ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "_trial_temp*", "venv", "state"
)
BUILD = (
    "import sys, setuptools.build_meta as meta; print(getattr(meta, 'build_' +"
    " sys.argv[1])(sys.argv[2]))"
)


def require_setuptools() -> None:
    """Raise `SkipTest` if no package can be built. setuptools reads the licence in the form that
    the project uses from version 77 on.
    """
    try:
        installed = version("setuptools")
    except PackageNotFoundError:
        raise SkipTest("setuptools is not installed") from None
    if int(installed.partition(".")[0]) < SETUPTOOLS:
        raise SkipTest(f"setuptools {SETUPTOOLS} or later is not installed")


def build(kind: str, source: Path, target: Path) -> Path:
    """Build a wheel or an sdist as pip does (PEP 517), with the installed setuptools."""
    arguments = [sys.executable, "-c", BUILD, kind, str(target)]
    done = subprocess.run(arguments, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]
