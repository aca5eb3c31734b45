"""The static files: which are served, with which headers, and that no path leads out of them."""

from __future__ import annotations

import re
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import rtprov.frontend
from rtprov.frontend.static_files import names
from tests.support.front import NO_ROUTE, FrontendTestCase

STATIC = Path(rtprov.frontend.__file__).parent / "static"
VENDOR = STATIC / "ui" / "vendor"


class References(HTMLParser):
    """Collects the URLs that a page loads, and its scripts and styles inside HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        for name in ("src", "href"):
            if tag != "a" and given.get(name) is not None:
                self.loaded.append(str(given[name]))
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)


class StaticFiles(FrontendTestCase):
    def test_every_file(self) -> None:
        """Each file below ``/ui/`` is served as it is, with its media type and a strict policy."""
        found = {
            file.relative_to(STATIC).as_posix(): file
            for file in STATIC.rglob("*")
            if file.is_file()
        }
        self.assertEqual(names(), set(found))
        media_types = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
        for name, file in found.items():
            if not name.startswith("ui/") or file.name == "index.html":
                continue
            answer = self.ask("GET", f"/{name}")
            self.assertEqual((answer.status, answer.body), (200, file.read_bytes()), name)
            media_type = str(answer.header("Content-Type")).partition(";")[0]
            self.assertEqual(media_type, media_types.get(file.suffix, "text/plain"), name)
            self.assertEqual(answer.header("X-Content-Type-Options"), "nosniff")

    def test_policy(self) -> None:
        """The pages may load only files of this host, and run no script in HTML."""
        answer = self.ask("GET", "/docs")
        self.assertEqual(
            (answer.status, answer.header("Content-Type")), (200, "text/html; charset=utf-8")
        )
        policy = answer.header("Content-Security-Policy")
        assert policy is not None
        self.assertIn("default-src 'none'", policy)
        self.assertNotIn("unsafe", policy)
        self.assertNotRegex(policy, r"https?:|\*")
        self.assertEqual(answer.header("Referrer-Policy"), "no-referrer")

    def test_pages(self) -> None:
        """Every file that a page names is served, and no page has scripts or styles in it."""
        for page in STATIC.rglob("*.html"):
            references = References()
            references.feed(page.read_text("utf-8"))
            self.assertEqual(references.inline, [], page)
            self.assertTrue(references.loaded)
            for url in references.loaded:
                self.assertEqual(self.ask("GET", url).status, 200, url)

    def test_copies(self) -> None:
        """A client that has a copy gets a 304 without a body. Another copy gets the file."""
        first = self.ask("GET", "/ui/docs.js")
        etag = first.header("ETag")
        self.assertEqual(first.header("Cache-Control"), "no-cache")
        again = self.ask("GET", "/ui/docs.js", None, [f"If-None-Match: {etag}"])
        self.assertEqual((again.status, again.body, again.header("ETag")), (304, b"", etag))
        other = self.ask("GET", "/ui/docs.js", None, ['If-None-Match: "x"'])
        self.assertEqual((other.status, other.body), (200, first.body))

    def test_head(self) -> None:
        """HEAD is answered with the file's length, and without the file."""
        answer = self.ask("HEAD", "/ui/docs.js")
        length = len((STATIC / "ui" / "docs.js").read_bytes())
        self.assertEqual((answer.status, answer.header("Content-Length")), (200, str(length)))

    def test_nothing_else(self) -> None:
        """Other paths below ``/ui/`` are a 404: folders, and paths that lead out of the folder."""
        for path in (
            "/ui/nothing",
            "/ui/vendor",
            "/ui/vendor/",
            "/ui/../docs.html",
            "/ui/%2e%2e/docs.html",
            "/ui/..%2fdocs.html",
            "/ui//docs.js",
            "/ui/./docs.js",
            "/ui/docs.js/",
            "/ui/docs.js%00",
            "/ui/DOCS.js",
            f"/ui/{STATIC}/docs.html",
        ):
            self.assertError(self.ask("GET", path), 404, NO_ROUTE)
        self.assertEqual(self.ask("POST", "/ui/docs.js", b"{}").status, 405)

    def test_vendored(self) -> None:
        """The files of other projects are unmodified, and each project's licence is with them."""
        listed = dict(
            reversed(line.split())
            for line in re.findall(
                r"^[0-9a-f]{64}  \S+$", (VENDOR / "README.md").read_text("utf-8"), re.MULTILINE
            )
        )
        found = {
            file.relative_to(VENDOR).as_posix(): sha256(file.read_bytes()).hexdigest()
            for file in VENDOR.rglob("*/*")
        }
        self.assertEqual(found, listed)
        for folder in {name.partition("/")[0] for name in found}:
            self.assertIn(f"{folder}/LICENSE", found)
