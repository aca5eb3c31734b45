"""The file with the sealing keys, which a process watches and reloads."""

from __future__ import annotations

from typing import cast

from twisted.internet.interfaces import IReactorTime
from twisted.logger import capturedLogs, formatEvent

from rtprov.security.development import SEAL_KEY
from rtprov.security.key_file import KeyFile
from rtprov.security.sealer import key_id, new_key
from rtprov.tap.reloading import LOOK_EVERY_S, Renewal
from tests.support.renewal_case import RenewalTestCase


class Watched(RenewalTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.file = self.certs / SEAL_KEY
        self.one, self.other = new_key(), new_key()
        self.changes = 0

    def watch(self) -> KeyFile:
        self.keys = KeyFile(self.file)
        self.keys.sealer.watch(self.count)
        self.renewal = Renewal(
            self.keys, clock=cast("IReactorTime", self.clock), what="sealing keys"
        )
        self.renewal.startService()
        self.addCleanup(self.renewal.stopService)
        return self.keys

    def count(self) -> None:
        self.changes += 1

    def ids(self, *keys: str) -> tuple[str, ...]:
        return tuple(key_id(key.encode()) for key in keys)

    def replace(self, text: str) -> None:
        """Replace the file by another one, as editors and Kubernetes do."""
        temporary = self.certs / "new"
        temporary.write_text(text)
        temporary.replace(self.file)

    def test_replaced(self) -> None:
        """A replaced file is noticed within five seconds, and the watchers of the keys are
        notified.
        """
        self.replace(self.one)
        keys = self.watch()
        for text, ids in (
            (f"{self.one}\n{self.other}\n", self.ids(self.one, self.other)),
            (self.other, self.ids(self.other)),
        ):
            self.replace(text)
            self.clock.advance(LOOK_EVERY_S)
            self.assertEqual(keys.sealer.key_ids, ids)
        self.assertEqual((self.changes, self.lines), (2, ["sealing keys reloaded"] * 2))

    def test_written_in_place(self) -> None:
        """A file that is overwritten in place is noticed too. If the keys are the same, that is not
        a change.
        """
        self.replace(self.one)
        keys = self.watch()
        self.file.write_text(f"# May\n{self.other}")
        self.clock.advance(LOOK_EVERY_S)
        self.file.write_text(f"# June\n{self.other}\n")
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual((keys.sealer.key_ids, self.changes), (self.ids(self.other), 1))

    def test_damaged(self) -> None:
        """A file that is damaged, empty, unreadable or missing changes nothing, and is logged once.
        The next valid file is used.
        """
        self.replace(self.one)
        keys = self.watch()
        for spoil, why in (
            (
                lambda: self.replace("s3cr3t\n"),
                "line 1 is not a Fernet key (32 bytes in URL-safe base64)",
            ),
            (lambda: self.replace("# nothing\n"), "the file holds no key"),
            (self.file.unlink, "cannot read the sealing keys: No such file or directory"),
            (self.file.mkdir, "cannot read the sealing keys: Is a directory"),
        ):
            spoil()
            self.clock.pump([LOOK_EVERY_S] * 10)
            self.assertEqual((keys.sealer.key_ids, self.changes), (self.ids(self.one), 0))
            line = "sealing keys not reloaded, the previous version stays in use: "
            self.assertEqual(self.lines, [f"{line}{self.file}: {why}"])
            self.lines.clear()
        self.file.rmdir()
        self.replace(self.other)
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual(keys.sealer.key_ids, self.ids(self.other))

    def test_access_rights(self) -> None:
        """If only the access rights of a file change, it is read again, because it may have been
        unreadable before.
        """
        self.replace(self.one)
        keys = self.watch()
        self.file.chmod(0o640)
        self.assertTrue(keys.changed)

    def test_comes_later(self) -> None:
        """A file that is missing at first is noticed when it appears. Until then nothing is logged
        about it.
        """
        keys = self.watch()
        self.clock.pump([LOOK_EVERY_S] * 3)
        self.assertEqual((keys.sealer.key_ids, self.lines), ((), []))
        self.replace(self.one)
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual((keys.sealer.key_ids, self.changes), (self.ids(self.one), 1))

    def test_told_to(self) -> None:
        """SIGHUP loads the file at once."""
        self.replace(self.one)
        keys = self.watch()
        self.replace(self.other)
        self.renewal.reload()
        self.assertEqual(keys.sealer.key_ids, self.ids(self.other))

    def test_log_names_key_ids(self) -> None:
        """The log names the loaded keys by their ids."""
        self.replace(f"{self.one}\n{self.other}\n")
        with capturedLogs() as events:
            KeyFile(self.file)
        one, other = self.ids(self.one, self.other)
        self.assertEqual(
            [formatEvent(event) for event in events],
            [f"sealing keys in {self.file}: {one}, {other}; the first one seals"],
        )
