"""Bearer tokens (RFC 6750): the file that says whose are let in, and ``python -m rtprov.tokens new
NAME``, which makes one.

The file holds a token a line, as a name and the SHA-256 of the token; the token itself is only
shown when it is made. A third word is the token's `Role`, ``order`` without it; ``expires=`` with a
date behind it is the last day (UTC) on which it is valid. Lines that are empty or begin with ``#``
say nothing::

    # who       which                                      what
    billing     sha256:8a1f…64 hexadecimal digits…
    dashboard   sha256:03cd…                               read
    shift       sha256:5be0…                               operate expires=2027-01-31

A token is 32 random bytes, so a plain hash of it is as good as a slow one: there is nothing to
guess."""

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
    """What a caller may do; each may do all that those before it may."""

    READ = 1  # see everything that is told, of all callers
    ORDER = 2  # order tasks, and cancel its own
    OPERATE = 3  # everything, on all tasks

    def __str__(self) -> str:
        return self.name.lower()


ROLES = {str(role): role for role in Role}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_EXPIRES = "expires="


@attrs.frozen
class Token:
    """What the file tells of a token: whose it is, its SHA-256, what it may do, and the last day
    (UTC) on which it is valid.
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
        """Whether its last day is over at `now`, in seconds since the epoch."""
        return (
            self.expires is not None
            and datetime.fromtimestamp(now, timezone.utc).date() > self.expires
        )


def parse_tokens(text: str) -> tuple[Token, ...]:
    """The tokens of a file's text. There may be none: nobody is let in. Raises `ConfigurationError`
    that names the line, and no hash.
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
                f"line {number}: there is another token of the name {token.name}"
            )
        if token.digest in digests:
            raise ConfigurationError(f"line {number}: this token has another name already")
        tokens[token.name] = token
        digests.add(token.digest)
    if len(tokens) > MAX_TOKENS:
        raise ConfigurationError(f"holds more than {MAX_TOKENS} tokens")
    return tuple(tokens.values())


def _parse_line(words: Sequence[str], number: int) -> Token:
    name, hashed, *rest = (*words, "")[: max(2, len(words))]
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"line {number}: a name is 1 to 64 of A-Z a-z 0-9 . _ - and begins with a letter or"
            " digit"
        )
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
            f"line {number}: expected NAME sha256:HASH, with 64 lower-case hexadecimal digits, "
            f"and perhaps {', '.join(ROLES)}, and perhaps {_EXPIRES}DATE"
        )
    return Token(name, bytes.fromhex(match[1]), role, expires)


def parse_date(text: str) -> date:
    """A day such as 2027-01-31. Raises ValueError with a sentence."""
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError("expected a date such as 2027-01-31")


def load_tokens(path: Path) -> tuple[Token, ...]:
    """The file's tokens. Raises `ConfigurationError`."""
    text = read_text(path, "tokens")
    try:
        return parse_tokens(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def find_token(tokens: Iterable[Token], shown: bytes) -> Token | None:
    """The token that was shown, None where it is none of these.

    Each is compared, whole, whether or not an earlier one was it: how long it takes tells nothing
    of how near a guess came."""
    digest = hashlib.sha256(shown).digest()
    found = None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found


def new_token(
    name: str, *, role: Role = Role.ORDER, expires: date | None = None
) -> tuple[Token, str]:
    """A new token as the file knows it, and as its client does."""
    secret = secrets.token_urlsafe(32)
    return Token(name, hashlib.sha256(secret.encode()).digest(), role, expires), secret


class TokensFile(Files):
    """The file at `path`, which may change while a front end runs: `take` gets its tokens, at once
    and whenever they are loaded again.

    Raises `ConfigurationError` where the file is no good at first.
    """

    def __init__(self, path: Path, take: Callable[[tuple[Token, ...]], None]) -> None:
        super().__init__(path)
        self._path = path
        self._take = take
        self.load()

    def load(self) -> None:
        self._take(load_tokens(self._path))


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rtprov.tokens",
        description="Make bearer tokens for the front end's --tokens file.",
    )
    new = parser.add_subparsers(required=True, metavar="new").add_parser(
        "new", help="make a token and print it, this once"
    )
    new.add_argument(
        "name", metavar="NAME", help="whose it is: the name that audit lines and --rate go by"
    )
    roles = new.add_mutually_exclusive_group()
    roles.add_argument(
        "--role",
        choices=list(ROLES),
        default=str(Role.ORDER),
        help="what it may do [default: order]",
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
        help="the last day on which it is valid (UTC), such as 2027-01-31",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = _arguments().parse_args(arguments)
    try:
        if not _NAME.fullmatch(options.name):
            raise ValueError(
                "a name is 1 to 64 of A-Z a-z 0-9 . _ - and begins with a letter or digit"
            )
        expires = None if options.expires is None else parse_date(options.expires)
    except ValueError as error:
        print(f"rtprov.tokens: {error}", file=sys.stderr)  # noqa: T201
        return 1
    token, secret = new_token(options.name, role=ROLES[options.role], expires=expires)
    print(f"# for the --tokens file:\n{token.line}\n# for the client, shown this once:\n{secret}")  # noqa: T201 - the command's answer
    return 0
