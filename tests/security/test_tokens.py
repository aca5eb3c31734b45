"""Tokens: the file and its errors, matching of tokens, and the command that makes a token."""

from __future__ import annotations

import hashlib
import io
import sys
import tempfile
from datetime import date
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rtprov.errors import ConfigurationError
from rtprov.security.tokens import (
    MAX_TOKENS,
    Role,
    Token,
    find_token,
    load_tokens,
    main,
    new_token,
    parse_tokens,
)

NAME = (
    "line {}: a name has 1 to 64 characters from A-Z a-z 0-9 . _ - and begins with a letter or"
    " digit"
)
HASH = (
    "line {}: expected NAME sha256:HASH [read|order|operate] [expires=DATE], where HASH has 64"
    " lower-case hexadecimal digits"
)


def hashed(secret: str) -> str:
    return f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}"


class Files(SynchronousTestCase):
    def assert_refused(self, text: str, message: str) -> None:
        error = self.assertRaises(ConfigurationError, parse_tokens, text)
        self.assertEqual(str(error), message)

    def test_tokens(self) -> None:
        """A line has a name, a hash, and optionally ``read``. Empty lines and comments are
        ignored.
        """
        text = f"# ours\n\n billing\t{hashed('a')} \r\n  # theirs\ndash-2.x_y {hashed('b')} read\n"
        billing, dash = parse_tokens(text)
        self.assertEqual((billing.name, billing.role), ("billing", Role.ORDER))
        self.assertEqual((dash.name, dash.role), ("dash-2.x_y", Role.READ))
        self.assertEqual(parse_tokens(f"{billing.line}\n{dash.line}"), (billing, dash))

    def test_roles(self) -> None:
        """The third word is the role, by default ``order``. The last word may be the last day on
        which the token is valid.
        """
        for words, role, expires in (
            ("", Role.ORDER, None),
            ("read", Role.READ, None),
            ("order", Role.ORDER, None),
            ("operate", Role.OPERATE, None),
            ("expires=2028-02-29", Role.ORDER, date(2028, 2, 29)),
            ("operate expires=2027-01-31", Role.OPERATE, date(2027, 1, 31)),
        ):
            (token,) = parse_tokens(f"billing {hashed('a')} {words}")
            self.assertEqual((token.role, token.expires), (role, expires))
            self.assertEqual(parse_tokens(token.line), (token,))

    def test_dates(self) -> None:
        """A day that does not exist is an error that names it."""
        for text in ("", "2027-02-29", "2027-1-31", "31.01.2027", "20270131", "2027-01-31T00:00"):
            self.assert_refused(
                f"billing {hashed('a')} expires={text}",
                "line 1: expires=: expected a date such as 2027-01-31",
            )

    def test_no_tokens(self) -> None:
        """A file may have no tokens. Then no request is admitted."""
        self.assertEqual(parse_tokens("# none\n"), ())

    def test_mistakes(self) -> None:
        """An invalid line is named by its number, and nothing in it that may be a token
        is shown.
        """
        good = hashed("a")
        for line in (
            "billing",
            f"billing {good[:-1]}",
            f"billing {good.upper()}",
            "billing s3cr3t",
            f"billing {good} write",
            f"a {good} read x",
            f"a {good} READ",
            f"a {good} expires=2027-01-31 read",
            f"a {good} read expires=2027-01-31 x",
        ):
            self.assert_refused(f"# tokens\n{line}\n", HASH.format(2))
        for line in (good, f"-billing {good}", f"{'x' * 65} {good}", f"счёт {good}", f"a:b {good}"):
            self.assert_refused(line, NAME.format(1))

    def test_twice(self) -> None:
        """Each name has one token, and each token one name."""
        self.assert_refused(
            f"a {hashed('x')}\na {hashed('y')}",
            "line 2: the name a is already used by another token",
        )
        self.assert_refused(
            f"a {hashed('x')}\nb {hashed('x')}",
            "line 2: this token is already listed under another name",
        )

    def test_too_many(self) -> None:
        """The number of tokens is limited, because each request is compared with all of them."""
        lines = [f"name{number} {hashed(str(number))}" for number in range(MAX_TOKENS + 1)]
        self.assertEqual(len(parse_tokens("\n".join(lines[1:]))), MAX_TOKENS)
        self.assert_refused("\n".join(lines), f"contains more than {MAX_TOKENS} tokens")

    def test_files(self) -> None:
        """Errors in a file are reported with its path."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tokens"
            error = self.assertRaises(ConfigurationError, load_tokens, path)
            self.assertEqual(
                str(error), f"{path}: cannot read the tokens: No such file or directory"
            )
            path.write_bytes(b"billing \xff\n")
            error = self.assertRaises(ConfigurationError, load_tokens, path)
            self.assertEqual(str(error), f"{path}: {HASH.format(1)}")
            path.write_text(f"billing {hashed('a')}\n")
            self.assertEqual([token.name for token in load_tokens(path)], ["billing"])


class Comparing(SynchronousTestCase):
    def test_whole_token(self) -> None:
        """All bytes of a token must match, at any place in the file. Similar tokens, and hashes, do
        not match.
        """
        made = [new_token(f"name{number}") for number in range(3)]
        tokens = [token for token, _ in made]
        for token, secret in made:
            self.assertIs(find_token(tokens, secret.encode()), token)
            for wrong in (
                secret[:-1],
                secret + "x",
                secret.swapcase(),
                token.digest.hex(),
                token.line,
                "",
            ):
                self.assertIsNone(find_token(tokens, wrong.encode()))
        self.assertIsNone(find_token([], made[0][1].encode()))

    def test_every_token_is_compared(self) -> None:
        """Each token is compared, also those after the one that matches, so that the time reveals
        nothing.
        """
        compared: list[str] = []

        class Watched(Token):
            def __getattribute__(self, name: str) -> object:
                if name == "digest":
                    compared.append(object.__getattribute__(self, "name"))
                return object.__getattribute__(self, name)

        token, secret = new_token("a")
        found = find_token(
            [Watched("a", token.digest), Watched("b", b"x" * 32), Watched("c", b"y" * 32)],
            secret.encode(),
        )
        assert found is not None
        self.assertEqual((found.name, compared), ("a", ["a", "b", "c"]))

    def test_not_shown(self) -> None:
        """The repr of a token shows neither token nor hash."""
        token, secret = new_token("a")
        self.assertNotIn(secret, repr(token))
        self.assertNotIn(token.digest.hex(), repr(token))
        self.assertNotIn(repr(token.digest), repr(token))


class CommandLine(SynchronousTestCase):
    def run_command(self, *arguments: str) -> tuple[int, list[str], str]:
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        status = main(arguments)
        return status, out.getvalue().splitlines(), err.getvalue()

    def test_new(self) -> None:
        """``new NAME`` prints the line for the file, and the token with 32 random bytes, which
        differs each time.
        """
        secrets = set()
        kinds: dict[tuple[str, ...], tuple[Role, date | None]] = {
            (): (Role.ORDER, None),
            ("--read",): (Role.READ, None),
            ("--role", "operate", "--expires", "2027-01-31"): (Role.OPERATE, date(2027, 1, 31)),
        }
        for options, (role, expires) in kinds.items():
            arguments = ("new", "billing", *options)
            status, lines, errors = self.run_command(*arguments)
            self.assertEqual((status, len(lines), errors), (0, 4, ""))
            self.assertEqual([line[:1] for line in lines], ["#", "b", "#", lines[3][:1]])
            secrets.add(lines[3])
            self.assertEqual(len(lines[3]), 43)
            tokens = parse_tokens("\n".join(lines[:3]))
            self.assertEqual(find_token(tokens, lines[3].encode()), tokens[0])
            self.assertEqual(
                (tokens[0].name, tokens[0].role, tokens[0].expires), ("billing", role, expires)
            )
        self.assertEqual(len(secrets), 3)

    def test_wrong_date(self) -> None:
        """A date that does not exist is refused in one line."""
        status, lines, errors = self.run_command("new", "billing", "--expires", "tomorrow")
        self.assertEqual(
            (status, lines, errors), (1, [], "rtprov.tokens: expected a date such as 2027-01-31\n")
        )

    def test_wrong_name(self) -> None:
        """A name that is not valid in the file is refused in one line."""
        status, lines, errors = self.run_command("new", "two words")
        self.assertEqual((status, lines, len(errors.splitlines())), (1, [], 1))
