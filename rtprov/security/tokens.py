"""Bearer tokens (RFC 6750): the file that lists them, and ``python -m rtprov.tokens new NAME``.

Each line of the file has the caller's name and the SHA-256 of its token. The token itself is shown
only once, when it is made. A third word is the token's `Role`; the default is ``order``. A word
``expires=DATE`` names the last day (UTC) on which the token is valid. Empty lines and lines that
begin with ``#`` are ignored::

    # name      token                                      role
    billing     sha256:8a1f…64 hexadecimal digits…
    dashboard   sha256:03cd…                               read
    shift       sha256:5be0…                               operate expires=2027-01-31

A token consists of 32 random bytes and cannot be guessed, so a slow hash would add nothing.
"""

from __future__ import annotations

import argparse
import enum
import hashlib
import hmac
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timezone
from pathlib import Path

import attrs

from rtprov.errors import ConfigurationError
from rtprov.security.files import Files, read_text

MAX_TOKENS = 1000


class Role(enum.IntEnum):
    """What a caller may do. Each role includes the ones before it."""

    READ = 1  # read everything, of all callers
    ORDER = 2  # submit tasks, and cancel its own
    OPERATE = 3  # do everything, on all tasks

    def __str__(self) -> str:
        return self.name.lower()


ROLES = {str(role): role for role in Role}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME_RULE = (
    "a name has 1 to 64 characters from A-Z a-z 0-9 . _ - and begins with a letter or digit"
)
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_EXPIRES = "expires="


@attrs.frozen
class Token:
    """One line of the tokens file.

    `name` is the caller, `digest` the SHA-256 of the token, `role` what the caller may do, and
    `expires` the last day (UTC) on which the token is valid.
    """

    name: str
    digest: bytes = attrs.field(repr=False)
    role: Role = Role.ORDER
    expires: date | None = None

    @property
    def line(self) -> str:
        """The token's line in the file."""
        words = [self.name, f"sha256:{self.digest.hex()}"]
        if self.role is not Role.ORDER:
            words.append(str(self.role))
        if self.expires is not None:
            words.append(f"{_EXPIRES}{self.expires.isoformat()}")
        return " ".join(words)

    def expired(self, now: float) -> bool:
        """Return whether the last day is over at `now`, in seconds since the epoch."""
        return (
            self.expires is not None
            and datetime.fromtimestamp(now, timezone.utc).date() > self.expires
        )


def parse_tokens(text: str) -> tuple[Token, ...]:
    """Return the tokens of a file's text. If there are none, no request is accepted.

    Raises `ConfigurationError` that names the line, and no hash.
    """
    tokens: dict[str, Token] = {}
    digests: set[bytes] = set()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        token = _parse_line(words, number)
        if token.name in tokens:
            raise ConfigurationError(
                f"line {number}: the name {token.name} is already used by another token"
            )
        if token.digest in digests:
            raise ConfigurationError(
                f"line {number}: this token is already listed under another name"
            )
        tokens[token.name] = token
        digests.add(token.digest)
    if len(tokens) > MAX_TOKENS:
        raise ConfigurationError(f"contains more than {MAX_TOKENS} tokens")
    return tuple(tokens.values())


def _parse_line(words: Sequence[str], number: int) -> Token:
    name, hashed, *rest = (*words, "")[: max(2, len(words))]
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"line {number}: {_NAME_RULE}")
    match = _HASH.fullmatch(hashed)
    role, expires = Role.ORDER, None
    if rest and rest[0] in ROLES:
        role = ROLES[rest.pop(0)]
    if match is not None and rest and rest[0].startswith(_EXPIRES):
        try:
            expires = parse_date(rest.pop(0).removeprefix(_EXPIRES))
        except ValueError as error:
            raise ConfigurationError(f"line {number}: {_EXPIRES}: {error}") from None
    if match is None or rest:
        raise ConfigurationError(
            f"line {number}: expected NAME sha256:HASH [{'|'.join(ROLES)}] [{_EXPIRES}DATE], where"
            " HASH has 64 lower-case hexadecimal digits"
        )
    return Token(name, bytes.fromhex(match[1]), role, expires)


def parse_date(text: str) -> date:
    """Parse a day such as 2027-01-31. Raises ValueError with a message for the operator."""
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError("expected a date such as 2027-01-31")


def load_tokens(path: Path) -> tuple[Token, ...]:
    """Return the tokens of a file. Raises `ConfigurationError`."""
    return _parse_file(path, read_text(path, "tokens"))


def _parse_file(path: Path, text: str) -> tuple[Token, ...]:
    try:
        return parse_tokens(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def find_token(tokens: Iterable[Token], shown: bytes) -> Token | None:
    """Return the token whose digest matches `shown`, the token of a request; None if none does.

    Every digest is compared completely, even after a match, so that the time taken reveals nothing
    about the digests.
    """
    digest = hashlib.sha256(shown).digest()
    found = None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found


def new_token(
    name: str, *, role: Role = Role.ORDER, expires: date | None = None
) -> tuple[Token, str]:
    """Make a token; return its entry for the file, and the secret for the client.

    Raises ValueError, with a message for the operator, if `name` cannot be a caller's name.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(_NAME_RULE)
    secret = secrets.token_urlsafe(32)
    return Token(name, hashlib.sha256(secret.encode()).digest(), role, expires), secret


class TokensFile(Files):
    """The tokens file at `path`, which may change while a front end runs.

    `take` is called with the tokens at once, and each time they are loaded again. Raises
    `ConfigurationError` if the file is invalid at the start.

    A file that becomes empty, with 0 bytes, may be in the middle of being written: it is refused
    once. If it is still empty at the next attempt, there are no tokens.
    """

    def __init__(self, path: Path, take: Callable[[tuple[Token, ...]], None]) -> None:
        super().__init__(path)
        self._path = path
        self._take = take
        self._was_empty = False
        self._take(load_tokens(path))

    def load(self) -> None:
        text = read_text(self._path, "tokens")
        was_empty, self._was_empty = self._was_empty, not text
        if not text and not was_empty:
            raise ConfigurationError(
                f"{self._path}: is empty, as if it is just being written; if it stays empty, all"
                " tokens will be refused in a moment"
            )
        self._take(_parse_file(self._path, text))


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rtprov.tokens",
        description="Make bearer tokens for the front end's --tokens file.",
    )
    new = parser.add_subparsers(required=True, metavar="new").add_parser(
        "new", help="make a token and print it, only once"
    )
    new.add_argument(
        "name", metavar="NAME", help="the caller's name, used in audit lines and by --rate"
    )
    roles = new.add_mutually_exclusive_group()
    roles.add_argument(
        "--role",
        choices=list(ROLES),
        default=str(Role.ORDER),
        help="what the caller may do [default: order]",
    )
    roles.add_argument(
        "--read",
        action="store_const",
        dest="role",
        const=str(Role.READ),
        help="the same as --role read",
    )
    new.add_argument(
        "--expires",
        metavar="DATE",
        help="the last day (UTC) on which the token is valid, such as 2027-01-31",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = _arguments().parse_args(arguments)
    try:
        expires = None if options.expires is None else parse_date(options.expires)
        token, secret = new_token(options.name, role=ROLES[options.role], expires=expires)
    except ValueError as error:
        print(f"rtprov.tokens: {error}", file=sys.stderr)  # noqa: T201 - a command's answer
        return 1
    print(f"# for the --tokens file:\n{token.line}\n# for the client, shown only once:\n{secret}")  # noqa: T201 - the command's output
    return 0
