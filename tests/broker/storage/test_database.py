"""The broker's database file: which files are opened and which are refused, without a change to any
other file.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rtprov.broker.storage import database as module
from rtprov.broker.storage import database_file as opening
from rtprov.broker.storage.database import Batch, Database, row_of
from rtprov.broker.storage.database_file import FILE
from rtprov.errors import ConfigurationError
from tests.support.storage_cases import record


class WithoutWal(sqlite3.Connection):
    """A SQLite that cannot switch to a write-ahead log, for example for lack of space."""

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return super().execute(
            "SELECT 'delete'" if statement == "PRAGMA journal_mode = WAL" else statement, *values
        )


class DatabaseCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.path = self.directory / FILE

    def open(self) -> Database:
        return Database.open(self.directory)

    def assert_refused(self, text: str) -> None:
        """Check that opening fails with one line that contains `text` and names the place, and that
        the folder's files are unchanged.
        """
        before = {file.name: file.read_bytes() for file in self.directory.iterdir()}
        error = self.assertRaises(ConfigurationError, self.open)
        self.assertIn(text, str(error))
        self.assertIn(str(self.directory), str(error))
        self.assertNotIn("\n", str(error))
        after = {
            file.name: file.read_bytes() for file in self.directory.iterdir() if file.name in before
        }
        self.assertEqual(after, before)


class Opening(DatabaseCase):
    def test_fresh(self) -> None:
        """Folder and file are made if they are missing, with access only for their owner."""
        self.directory = self.directory / "deep" / "down"
        with closing(self.open()):
            self.assertEqual(self.directory.stat().st_mode & 0o777, 0o700)
            self.assertEqual((self.directory / FILE).stat().st_mode & 0o777, 0o600)

    def test_reopened(self) -> None:
        """A closed file can be opened again."""
        self.open().close()
        self.open().close()

    def test_second_process(self) -> None:
        """While one broker has the folder open, another one is refused."""
        with closing(self.open()):
            self.assert_refused("another broker is running on this state")
        self.open().close()

    def test_a_creation_that_was_interrupted(self) -> None:
        """A file that an interrupted first start left incomplete is made anew."""
        self.directory.mkdir()
        self.path.with_suffix(".new").write_bytes(b"half")
        self.open().close()
        self.assertFalse(self.path.with_suffix(".new").exists())

    def test_made_whole(self) -> None:
        """The file gets its name only when it is complete: after a first start that is killed it is
        complete or missing.
        """
        self.open().close()
        self.path.unlink()
        opening.create(self.path)
        self.assertEqual(self.path.read_bytes()[18:20], b"\2\2", "it is not in WAL mode")
        self.assertEqual({file.name for file in self.directory.iterdir()}, {FILE, opening.LOCK})

    def test_a_log_without_its_file(self) -> None:
        """If the file was removed and its write-ahead log was not, no new file is made, since the
        old log would become part of it.
        """
        self.open().close()
        self.path.unlink()
        for left in (f"{FILE}-wal", f"{FILE}-journal"):
            (self.directory / left).write_bytes(b"")
            self.assert_refused(f"its database {FILE} is missing; restore the database")
            self.assertFalse(self.path.exists())
            (self.directory / left).unlink()

    def test_a_link_that_leads_nowhere(self) -> None:
        """A dangling symbolic link, for example to a disk that is not mounted, is refused."""
        self.directory.mkdir()
        self.path.symlink_to(self.directory / "elsewhere" / FILE)
        error = self.assertRaises(ConfigurationError, self.open)
        self.assertIn("No such file", str(error))
        self.assertTrue(self.path.is_symlink())

    def test_a_journal(self) -> None:
        """A rollback journal beside the file, which a broker never leaves, is refused, and both are
        unchanged.
        """
        self.open().close()
        left, self.directory = self.directory, Path(self.mktemp())
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            for statement in ("PRAGMA journal_mode = DELETE", "PRAGMA cache_size = 1", "BEGIN"):
                connection.execute(statement)
            connection.executemany(
                "INSERT INTO message VALUES (?, 0, NULL, 0, '', '', x'', zeroblob(4000))",
                ((n,) for n in range(1, 101)),
            )
            shutil.copytree(left, self.directory)
        self.path = self.directory / FILE
        self.assertGreater((self.directory / f"{FILE}-journal").stat().st_size, 0)
        self.assert_refused("cannot be used as the broker's state")

    def test_no_log(self) -> None:
        """If there can be no write-ahead log, no file is made, and an existing one is not used."""
        self.directory.mkdir()
        for there in (False, True):
            if there:
                self.open().close()
            # Applies only to this opening. The one before made a good file.
            patch = self.patch(sqlite3, "connect", partial(sqlite3.connect, factory=WithoutWal))
            self.assert_refused("write-ahead logging cannot be used here")
            patch.restore()
            self.assertEqual(self.path.exists(), there)

    def test_no_tables(self) -> None:
        """A file with our application id and without our tables is refused."""
        self.open().close()
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("DROP TABLE binding")
        self.assert_refused("tables are missing")

    def test_no_folder(self) -> None:
        """A path that cannot be a folder is refused."""
        self.directory.parent.mkdir(exist_ok=True)
        self.directory.write_bytes(b"a file")
        error = self.assertRaises(ConfigurationError, self.open)
        self.assertIn("cannot keep the broker's state here", str(error))
        self.assertEqual(self.directory.read_bytes(), b"a file")

    def test_a_file_of_something_else(self) -> None:
        """A file that is not a SQLite database is refused."""
        self.directory.mkdir()
        for content in (b"", b"SQLite format 3\0", b"precious" * 1000):
            self.path.write_bytes(content)
            self.assert_refused("is not a database of rtprov's broker")

    def test_a_database_of_something_else(self) -> None:
        """Another program's SQLite database is refused."""
        self.directory.mkdir()
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("CREATE TABLE precious (id)")
        self.assert_refused("is not a database of rtprov's broker")

    def test_another_version(self) -> None:
        """A database of another version is refused, and the error names both versions."""
        self.open().close()
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("PRAGMA user_version = 99")
        self.assert_refused("format 99, not 1")

    def test_damage(self) -> None:
        """A damaged page in the middle is detected before anything is read from it."""
        with closing(self.open()) as database:
            database.write(Batch([("INSERT INTO queue VALUES (1, 'q', '{}', 0, -1)", ())]))
            database.write(
                Batch(
                    added={
                        row_of(1, each)[0]: row_of(1, each)
                        for each in (record(n, bytes(500)) for n in range(200))
                    }
                )
            )
        content = bytearray(self.path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 4096] = b"\xff" * 4096
        self.path.write_bytes(content)
        self.assert_refused("damaged")

    def test_a_full_disk(self) -> None:
        """The files of a killed process are opened without making further files, for which a full
        disk would have no room.
        """
        with closing(self.open()) as database:
            database.write(Batch([("INSERT INTO queue VALUES (1, 'q', '{}', 0, -1)", ())]))
            left, self.directory = self.directory, Path(self.mktemp())
            shutil.copytree(left, self.directory)
        before = {file.name for file in self.directory.iterdir()}
        with closing(self.open()) as database:
            self.assertEqual({file.name for file in self.directory.iterdir()}, before)
            self.assertEqual(database.queue_ids(), {"q": 1})

    def test_damage_beside_a_log(self) -> None:
        """A damaged file that a killed process left with its write-ahead log is refused, and both
        are unchanged.
        """
        with closing(self.open()) as database:
            database.write(
                Batch(
                    added={
                        row_of(1, each)[0]: row_of(1, each)
                        for each in (record(n, bytes(500)) for n in range(200))
                    }
                )
            )
            database._connection.execute("PRAGMA wal_checkpoint")
            database.write(
                Batch(
                    added={
                        row_of(1, each)[0]: row_of(1, each)
                        for each in (record(n) for n in range(200, 210))
                    }
                )
            )
            left, self.directory = self.directory, Path(self.mktemp())
            shutil.copytree(left, self.directory)
        self.path = self.directory / FILE
        self.assertGreater((self.directory / f"{FILE}-wal").stat().st_size, 0)
        content = bytearray(self.path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 4096] = b"\xff" * 4096
        self.path.write_bytes(content)
        self.assert_refused("damaged")

    def test_truncated(self) -> None:
        """A truncated file is refused."""
        self.open().close()
        self.path.write_bytes(self.path.read_bytes()[:5000])
        self.assert_refused(str(self.path))


class Space(DatabaseCase):
    def test_the_file_shrinks(self) -> None:
        """Most of the space of a long queue is given back, in steps, once the queue is empty."""
        with closing(self.open()) as database:
            database.write(Batch([("INSERT INTO queue VALUES (1, 'q', '{}', 0, -1)", ())]))
            rows = [
                row_of(1, record(position, bytes(4000)))
                for position in range(module.SPARE_PAGES + 3000)
            ]
            database.write(Batch(added={row[0]: row for row in rows}))
            database.write(Batch(removed=[row[0] for row in rows]))
            pieces = 1
            while database.give_back_space():
                pieces += 1
        self.assertEqual(pieces, 4)
        self.assertLess(self.path.stat().st_size // 4096, module.SPARE_PAGES + 100)

    def test_an_old_stream_is_trimmed_in_pieces(self) -> None:
        """One trim removes a limited number of messages, so that other calls do not wait long."""
        self.patch(module, "TRIM_ROWS", 10)
        with closing(self.open()) as database:
            database.write(Batch([("INSERT INTO queue VALUES (1, 'q', '{}', 0, -1)", ())]))
            rows = [row_of(1, record(position)) for position in range(25)]
            database.write(Batch(added={row[0]: row for row in rows}))
            self.assertEqual([database.trim(1, 1.0) for _ in range(3)], [10, 20, 24])


class Transactions(DatabaseCase):
    def test_all_or_nothing(self) -> None:
        """If one statement of a batch fails, nothing is changed, and the next batch is written."""
        with closing(self.open()) as database:
            good = ("INSERT INTO queue VALUES (1, 'q', '{}', 0, -1)", ())
            self.assertRaises(
                sqlite3.Error,
                database.write,
                Batch([good, ("INSERT INTO nonsense VALUES (1)", ())]),
            )
            self.assertEqual(database.queue_ids(), {})
            database.write(Batch([good]))
            self.assertEqual(database.queue_ids(), {"q": 1})

    def test_all_or_nothing_of_one_statement(self) -> None:
        """If a batch of a single statement fails at its last message, nothing is changed either."""
        with closing(self.open()) as database:
            rows = {position: row_of(1, record(position)) for position in range(3)}
            taken = {2: rows[2]}
            database.write(Batch(added=taken))
            self.assertRaises(sqlite3.Error, database.write, Batch(added=rows))
            self.assertEqual([each.position for each in database.load(1, -1, 9)], [2])

    def test_large_messages(self) -> None:
        """A statement inserts only a few large messages, since SQLite copies its parameters. All of
        them are written.
        """
        with closing(self.open()) as database:
            statements: list[str] = []
            database._connection.set_trace_callback(statements.append)
            size = module.STATEMENT_BYTES // 2 - 1000
            rows = [row_of(1, record(position, bytes(size))) for position in range(5)]
            database.write(Batch(added={row[0]: row for row in rows}))
            database._connection.set_trace_callback(None)
            self.assertEqual(sum(statement.startswith("INSERT") for statement in statements), 3)
            self.assertEqual([each.position for each in database.load(1, -1, 9)], [0, 1, 2, 3, 4])
