"""Commands in pages of the documentation, which tests run as they are written.

blocks = shell_blocks(DOCS / "deployment" / "move.md", "The steps")
await run_block(case, blocks[0], environment)
"""

from __future__ import annotations

import re
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.processes import TWISTD, ProcessTestCase

DOCS = Path(__file__).resolve().parents[2] / "docs"
_BLOCK = re.compile(r"^( *)```sh\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def shell_blocks(page: Path, heading: str) -> list[str]:
    """Return the blocks of shell commands under a heading of a page, in order."""
    _, _, section = page.read_text("utf-8").partition(f"\n## {heading}\n")
    assert section, f"{page} has no heading {heading}"
    section = section.partition("\n## ")[0]
    return [textwrap.dedent(block) for _, block in _BLOCK.findall(section)]


def install_programs(folder: Path) -> str:
    """Write ``python`` and ``twistd`` into a folder; return the PATH with it.

    They are those of the test, also if its virtual environment is not active.
    """
    folder.mkdir()
    install_program(folder / "python", [sys.executable])
    install_program(folder / "twistd", TWISTD)
    return f"{folder}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def install_program(
    file: Path, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> None:
    """Write a program that runs a command, with these variables in its environment."""
    variables = [f"{name}={value}" for name, value in (environment or {}).items()]
    file.write_text(f'#!/bin/sh\nexec env {shlex.join([*variables, *command])} "$@"\n')
    file.chmod(0o755)


async def run_block(case: ProcessTestCase, block: str, environment: dict[str, str]) -> str:
    """Run the commands in the test's folder, as a shell does; return their output.

    Fails if one of them fails.
    """
    process = case.spawn(["sh", "-euc", block], environment)
    status = await process.ended
    case.assertEqual(status, 0, f"{block}\n{process.log}\n{process.errors}")
    return process.log
