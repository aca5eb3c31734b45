"""A Sphinx extension for what Sphinx does not look at: links of Markdown files outside docs/, links
from docs/ to files outside of it, and the modules and tests that pages name.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

ROOT = Path(__file__).resolve().parents[2]
OTHERS = (
    "README.md",
    "README.ru.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "bench/README.md",
    "certs/README.md",
    "changelog.d/README.md",
)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)
_FENCE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
_MODULE = re.compile(r"`(rtprov(?:\.[a-z_0-9]+)+)[^`]*`")
_TEST = re.compile(r"`((?:[a-z_]+/)*(?:test_[a-z_0-9]+\.py|[a-z_]+/))`")
_log = logging.getLogger(__name__)


def anchors(text: str) -> set[str]:
    """The anchors that a site such as GitHub makes of a page's headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(_FENCE.sub("", text))
    }


def broken_links(page: Path, *, outside_docs_only: bool) -> Iterator[str]:
    """The links of a page that lead to no file, or to no heading of it."""
    text = _FENCE.sub("", page.read_text("utf-8"))
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if outside_docs_only and target.is_relative_to(ROOT / "docs"):
            continue
        if not target.exists():
            yield f"{link}: there is no such file"
        elif anchor and anchor not in anchors(target.read_text("utf-8")):
            yield f"{link}: there is no such heading"


def unknown_modules(text: str) -> Iterator[str]:
    """The modules that a page names and that do not exist.

    Names of an exchange or queue (`rtprov.tasks`) and of classes in a module are left out.
    """
    for name in set(_MODULE.findall(text)):
        parts = name.split(".")
        if len(parts) > 2 and (ROOT / "rtprov" / parts[1]).is_dir():
            path = ROOT.joinpath(*parts)
            if not (path.is_dir() or path.with_suffix(".py").exists()):
                yield name


def unknown_tests(text: str) -> Iterator[str]:
    """The files and folders of tests that the page of guarantees names and that do not exist."""
    for name in set(_TEST.findall(text)):
        if not (ROOT / "tests" / name).exists():
            yield name


def check(app: Sphinx) -> None:
    for name in OTHERS:
        for trouble in broken_links(ROOT / name, outside_docs_only=False):
            _log.warning("%s: %s", name, trouble)
    for page in sorted((ROOT / "docs").rglob("*.md")):
        name, text = str(page.relative_to(ROOT)), page.read_text("utf-8")
        for trouble in broken_links(page, outside_docs_only=True):
            _log.warning("%s: %s", name, trouble)
        for module in unknown_modules(text):
            _log.warning("%s: there is no module %s", name, module)
        if page.name == "guarantees.md":
            for test in unknown_tests(text):
                _log.warning("%s: there is no test %s", name, test)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", check)
    return {"parallel_read_safe": True}
