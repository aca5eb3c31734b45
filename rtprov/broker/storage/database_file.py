"""Open, create and check the embedded broker's SQLite file (https://www.sqlite.org/wal.html).

Only one process at a time can open the file. A file that is damaged, of another program or of
another version is refused and not changed. The process can be killed at any moment, and the next
start opens the file.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from rtprov.errors import ConfigurationError, TemporarilyUnavailable, refusal

FILE = "broker.sqlite3"
LOCK = "lock"
APPLICATION_ID = 0x72747076  # "rtpv", in the header of the file
VERSION = 1
# Prepared statements that are cached. Few, because SQLite keeps the last values of each in memory.
PREPARED = 32

TABLES = ("exchange", "queue", "binding", "message")
_MAGIC = b"SQLite format 3\0"
SCHEMA = """
CREATE TABLE exchange (
    name TEXT PRIMARY KEY, kind TEXT NOT NULL, auto_delete INTEGER NOT NULL,
    internal INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE queue (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, arguments TEXT NOT NULL,
    auto_delete INTEGER NOT NULL, handed_out INTEGER NOT NULL
);
CREATE TABLE binding (
    queue INTEGER NOT NULL, exchange TEXT NOT NULL, routing_key TEXT NOT NULL,
    PRIMARY KEY (queue, exchange, routing_key)
) WITHOUT ROWID;
CREATE TABLE message (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, expires_at REAL, deliveries INTEGER NOT NULL,
    exchange TEXT NOT NULL, routing_key TEXT NOT NULL, header BLOB NOT NULL, body BLOB NOT NULL
);
"""


def open_file(directory: Path) -> tuple[sqlite3.Connection, int]:
    """Open the broker's file in `directory`. Create the file and the directory if missing.

    Return the connection and the file descriptor of the lock. Raises `ConfigurationError`, or
    `TemporarilyUnavailable` if another broker uses the directory or the disk is full. An existing
    file is not changed then.
    """
    path = directory / FILE
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise refusal(
            f"{directory}: cannot keep the broker's state here: {error.strerror}", error
        ) from None
    try:
        _lock(lock, directory)
        if not os.path.lexists(path):
            _refuse_leftovers(path)
            create(path)
        _check_header(path)
        _check(path)
        return _connect(path), lock
    except (sqlite3.Error, OSError) as error:
        os.close(lock)
        message = f"{path}: cannot be used as the broker's state: {error}; nothing was changed"
        if isinstance(error, sqlite3.Error) and "disk is full" in str(error):
            raise TemporarilyUnavailable(message) from None
        raise refusal(message, error) from None
    except BaseException:
        os.close(lock)
        raise


def _lock(lock: int, directory: Path) -> None:
    """Take the lock that makes this process the only user of `directory`.

    The kernel releases the lock when the process ends, even if it is killed.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TemporarilyUnavailable(
            f"{directory}: another broker is running on this state; give each broker its own"
            " --state"
        ) from None


def _refuse_leftovers(path: Path) -> None:
    """Refuse to create the database if a log file of an earlier one is left.

    SQLite would apply that log to the new database.
    """
    for left in (_companion(path, "wal"), _companion(path, "journal")):
        if os.path.lexists(left):
            raise ConfigurationError(
                f"{left}: this log file is there, but its database {FILE} is missing; restore the"
                " database, or remove the log file"
            )


def create(path: Path) -> None:
    """Create the database under another name, in WAL mode, and rename it when it is complete.

    So an incomplete database never has the name `FILE`.
    """
    fresh = path.with_suffix(".new")
    for left in (fresh, _companion(fresh, "journal"), _companion(fresh, "wal")):
        left.unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.executescript(
            f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; {SCHEMA}"
        )
        _use_wal(connection)
    fresh.rename(path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging. Raises `sqlite3.OperationalError` if that is not possible.

    SQLite itself only returns another mode then, and raises nothing.
    """
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise sqlite3.OperationalError("write-ahead logging cannot be used here")


def _companion(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}-{what}")


def _check_header(path: Path) -> None:
    """Check the file's header before SQLite opens the file.

    SQLite may change a file when it opens it, and the file may be another program's. See
    https://www.sqlite.org/fileformat2.html#the_database_header.
    """
    with path.open("rb") as file:
        header = file.read(100)
    if (
        len(header) < 100
        or not header.startswith(_MAGIC)
        or int.from_bytes(header[68:72], "big") != APPLICATION_ID
    ):
        raise ConfigurationError(
            f"{path}: is not a database of rtprov's broker; nothing was changed"
        )
    version = int.from_bytes(header[60:64], "big")
    if version != VERSION:
        raise ConfigurationError(
            f"{path}: was written by another version of rtprov (format {version}, not {VERSION});"
            " nothing was changed"
        )


def _check(path: Path) -> None:
    """Check the database for damage, read-only.

    Read-only, because closing a writable database would copy its log into it. Without SQLite's
    locks, because `_lock` has locked the directory, and in exclusive mode, so that SQLite needs no
    shared-memory file: a full disk has no room for one.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro&vfs=unix-none"
    with closing(sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        tables = {
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    if verdict != "ok":
        raise ConfigurationError(f"{path}: is damaged: {' '.join(verdict.split())}")
    if not tables.issuperset(TABLES):
        missing = ", ".join(sorted(set(TABLES) - tables))
        raise ConfigurationError(f"{path}: is damaged: tables are missing: {missing}")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=PREPARED
    )
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        # An empty transaction takes the file's lock now, and not with the first write.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection
