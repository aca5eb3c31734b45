"""``rtprov token`` and ``rtprov key``: they change files that running processes watch."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from rtprov.cli.main import main
from rtprov.security.sealer import key_id, load_keys, new_key
from rtprov.security.tokens import find_token, parse_tokens


class LocalTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def verb(self, *arguments: str, status: int = 0) -> str:
        done = CliRunner().invoke(main, arguments)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        self.assertEqual(done.exit_code, status, done.output)
        self.errors = done.stderr
        return done.stdout


class Tokens(LocalTestCase):
    def test_life(self) -> None:
        """A token is added, listed and revoked; comments and other tokens stay."""
        file = self.folder / "tokens"
        options = ("--file", str(file))
        secret = self.verb("token", "add", "billing", *options).strip()
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)
        file.write_text("# ours\n" + file.read_text())
        file.chmod(0o640)
        self.verb("token", "add", "shift", "--role", "operate", "--expires", "2027-01-31", *options)
        found = find_token(parse_tokens(file.read_text()), secret.encode())
        assert found is not None
        self.assertEqual(found.name, "billing")
        rows = json.loads(self.verb("token", "list", "-o", "json", *options))
        self.assertEqual(
            [(row["name"], row["role"], row["expires"]) for row in rows],
            [("billing", "order", None), ("shift", "operate", "2027-01-31")],
        )
        self.assertNotIn(secret, self.verb("token", "list", *options))
        self.verb("token", "revoke", "billing", *options)
        self.assertEqual([each.name for each in parse_tokens(file.read_text())], ["shift"])
        self.assertTrue(file.read_text().startswith("# ours\n"))
        self.assertEqual(file.stat().st_mode & 0o777, 0o640)
        self.assertEqual([each.name for each in self.folder.iterdir()], ["tokens"])

    def test_refused(self) -> None:
        """A name that has a token, or is none, changes nothing."""
        file = self.folder / "tokens"
        options = ("--file", str(file))
        self.verb("token", "add", "-", *options, status=2)
        self.verb("token", "add", "a", "--expires", "soon", *options, status=2)
        self.assertFalse(file.exists())
        self.verb("token", "add", "a", *options)
        file.write_text(f"\ufeff{file.read_text()}")
        before = file.read_text()
        self.verb("token", "add", "a", *options, status=2)
        self.verb("token", "revoke", "b", *options, status=4)
        self.assertEqual(file.read_text(), before)
        self.verb("token", "list", "--file", str(self.folder / "none"), status=2)

    def test_no_name(self) -> None:
        """A name that is none, such as the beginning of a comment, is refused as by ``new``."""
        file = self.folder / "tokens"
        for name in ("#x", "", "a b", "-", "x" * 65):
            self.verb("token", "add", "--file", str(file), "--", name, status=2)
            self.assertIn("a name has 1 to 64 characters", self.errors)
            self.verb("token", "new", "--", name, status=2)
            self.assertIn("a name has 1 to 64 characters", self.errors)
        self.assertFalse(file.exists())

    def test_no_access(self) -> None:
        """A file that the system does not let look at is refused with one line."""
        for name in ("x" * 300, "tokens/tokens"):
            (self.folder / "tokens").touch()
            self.verb("token", "add", "x", "--file", str(self.folder / name), status=2)
            self.assertRegex(self.errors, r"^rtprov: .*: cannot read the tokens: [^\n]*\n$")

    def test_byte_order_mark(self) -> None:
        """A byte order mark is read over, as front ends do."""
        file = self.folder / "tokens"
        options = ("--file", str(file))
        self.verb("token", "add", "a", *options)
        file.write_text(file.read_text(), encoding="utf-8-sig")
        self.assertIn('"a"', self.verb("-o", "json", "token", "list", *options))
        self.verb("token", "add", "b", *options)
        file.write_text(file.read_text(), encoding="utf-8-sig")
        self.verb("token", "revoke", "a", *options)
        self.assertEqual([each.name for each in parse_tokens(file.read_text())], ["b"])


class Keys(LocalTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.file = self.folder / "seal.key"
        self.file.write_text(f"# ours\n{new_key()}\n")
        self.file.chmod(0o600)
        self.options = ("--file", str(self.file))

    def ids(self) -> list[str]:
        return [key_id(each) for each in load_keys(self.file.read_text())]

    def test_rotation(self) -> None:
        """A key is added as the last one, and then made the first one; all keys stay."""
        (old,) = self.ids()
        self.assertIn(f"{old} still seals", self.verb("key", "add", *self.options))
        (first, new) = self.ids()
        self.assertEqual(first, old)
        self.assertIn(f"{new} seals now", self.verb("key", "promote", *self.options))
        self.assertEqual(self.ids(), [new, old])
        self.verb("key", "promote", old, *self.options)
        self.assertEqual(self.ids(), [old, new])
        self.verb("key", "promote", "00000000", *self.options, status=4)
        self.assertTrue(self.file.read_text().startswith("# ours\n"))
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o600)

    def test_byte_order_mark(self) -> None:
        """A byte order mark is read over, as front ends and workers do."""
        (old,) = self.ids()
        for verb in ("check", "add", "promote"):
            self.file.write_text(self.file.read_text("utf-8-sig"), encoding="utf-8-sig")
            self.assertIn(old, self.verb("key", verb, *self.options))
        self.assertEqual(self.ids()[1:], [old])

    def test_format(self) -> None:
        """-o may come before the verb or after it."""
        for words in (("-o", "csv", "key", "check"), ("-o", "json", "key", "check", "-o", "csv")):
            written = self.verb(*words, *self.options)
            self.assertEqual(written.splitlines()[0], "key,use,file")

    def test_check(self) -> None:
        """Copies of the file are compared, and only ids are shown."""
        key = self.file.read_text().split()[-1]
        copy = self.folder / "copy.key"
        copy.write_text(self.file.read_text())
        copy.chmod(0o600)
        shown = self.verb("key", "check", str(copy), *self.options)
        self.assertEqual((shown.count(self.ids()[0]), key in shown), (2, False))
        self.verb("key", "add", *self.options)
        self.verb("key", "check", str(copy), *self.options, status=2)
        self.assertIn("differs from", self.errors)
        copy.write_text(self.file.read_text())
        self.verb("key", "promote", "--file", str(copy))
        self.verb("key", "check", str(copy), *self.options, status=2)
        self.assertIn("its first key, which seals, is not", self.errors)
        self.file.chmod(0o644)
        self.verb("key", "check", *self.options, status=2)
        self.assertIn("other users can read it", self.errors)
        self.file.write_text("no key\n")
        self.verb("key", "check", *self.options, status=2)
