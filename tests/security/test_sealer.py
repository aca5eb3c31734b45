"""Sealing and key files, neither of which shows a secret."""

from __future__ import annotations

import traceback
from base64 import urlsafe_b64decode
from hashlib import sha256

from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtprov.errors import ConfigurationError, KeyMissing, NotReady, SealError
from rtprov.interfaces import Sealer
from rtprov.security.sealer import FernetSealer, key_id, load_keys, new_key
from tests.support.strategies import texts

OLD, NEW = (new_key().encode() for _ in range(2))
BODY = '{"timeoutInSeconds": 14, "parameters": {"password": "s3cr3t-пароль"}}'.encode()


class Sealing(SynchronousTestCase):
    def setUp(self) -> None:
        self.sealer: Sealer = FernetSealer([NEW])

    @given(st.binary(max_size=300))
    def test_round_trip(self, body: bytes) -> None:
        """A body opens to the same bytes that were sealed. The sealed form is ASCII."""
        sealed = self.sealer.seal(body)
        self.assertTrue(sealed.isascii())
        self.assertEqual(self.sealer.open(sealed, self.sealer.key_id), body)

    def test_full_size(self) -> None:
        """A body of 64 KiB is sealed like any other."""
        self.assertEqual(self.sealer.open(self.sealer.seal(bytes(65536)), None), bytes(65536))

    def test_sealed_twice(self) -> None:
        """The same body has a different sealed form each time, which hides that two devices have
        the same password.
        """
        self.assertNotEqual(self.sealer.seal(BODY), self.sealer.seal(BODY))

    def test_fingerprint(self) -> None:
        """The fingerprint is the same for the same body of the same task, and different for all
        others. It contains nothing of the body.
        """
        fingerprint = self.sealer.fingerprint("t1", BODY)
        self.assertEqual(self.sealer.fingerprint("t1", BODY), fingerprint)
        self.assertTrue(self.sealer.matches(fingerprint, "t1", BODY))
        for task_id, body in (("t2", BODY), ("t1", BODY + b" "), ("t1\0", BODY), ("t1", b"")):
            self.assertFalse(self.sealer.matches(fingerprint, task_id, body))
            self.assertNotEqual(self.sealer.fingerprint(task_id, body), fingerprint)
        for other in ("", "x", "\u0436", fingerprint[:-1]):
            self.assertFalse(self.sealer.matches(other, "t1", BODY))
        self.assertRegex(fingerprint, "^[A-Za-z0-9_-]{24}$")

    def test_fingerprint_and_other_keys(self) -> None:
        """During a key rotation each side accepts the other's fingerprints. Without either key a
        fingerprint can be neither made nor checked.
        """
        old, first, last = FernetSealer([OLD]), FernetSealer([OLD, NEW]), FernetSealer([NEW, OLD])
        for maker in (old, first, last):
            self.assertTrue(first.matches(maker.fingerprint("t1", BODY), "t1", BODY))
            self.assertTrue(last.matches(maker.fingerprint("t1", BODY), "t1", BODY))
        self.assertFalse(old.matches(last.fingerprint("t1", BODY), "t1", BODY))

    def test_tampered_with(self) -> None:
        """A sealed body that was changed anywhere does not open."""
        sealed = self.sealer.seal(BODY)
        # the last characters may hold unused bits
        for place in range(0, len(sealed) - 4, 7):
            changed = sealed[:place] + ("A" if sealed[place] != "A" else "B") + sealed[place + 1 :]
            self.assert_damaged(changed)
        self.assert_damaged(sealed[:-4])

    def assert_damaged(self, sealed: str) -> None:
        """Check that this is reported as damage with the key's id. Without the id it could also be
        a missing key.
        """
        error = self.assertRaises(SealError, self.sealer.open, sealed, self.sealer.key_id)
        self.assertNotIsInstance(error, KeyMissing)
        self.assertRaises(KeyMissing, self.sealer.open, sealed, None)

    @given(texts | st.just("\ud800") | st.just("пароль"))
    def test_no_token(self, text: str) -> None:
        """Anything that was never sealed raises `SealError`."""
        self.assert_damaged(text)

    def test_foreign_key(self) -> None:
        """Without the key a body cannot be opened, and the error contains nothing of body, sealed
        form or key.
        """
        sealed = FernetSealer([OLD]).seal(BODY)
        errors = [
            self.assertRaises(KeyMissing, self.sealer.open, sealed, key)
            for key in (key_id(OLD), None)
        ]
        self.assertEqual([error.key for error in errors], [key_id(OLD), None])
        error = errors[0]
        shown = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        for secret in ("s3cr3t", sealed, OLD.decode(), NEW.decode()):
            self.assertNotIn(secret, shown)

    def test_repr(self) -> None:
        """The repr of a sealer shows no key."""
        self.assertEqual(repr(self.sealer), "<FernetSealer>")


class Rotation(SynchronousTestCase):
    def test_first_key_encrypts(self) -> None:
        """The first of several keys seals."""
        sealed = FernetSealer([NEW, OLD]).seal(BODY)
        self.assertEqual(FernetSealer([NEW]).open(sealed, key_id(NEW)), BODY)
        self.assertRaises(KeyMissing, FernetSealer([OLD]).open, sealed, key_id(NEW))
        self.assertEqual(
            (FernetSealer([NEW, OLD]).key_id, FernetSealer([NEW, OLD]).key_ids),
            (key_id(NEW), (key_id(NEW), key_id(OLD))),
        )

    def test_every_key_decrypts(self) -> None:
        """What an older key has sealed can be opened while that key is kept."""
        sealed = FernetSealer([OLD]).seal(BODY)
        for keys in ([NEW, OLD], [OLD, NEW]):
            for key in (key_id(OLD), None):
                self.assertEqual(FernetSealer(keys).open(sealed, key), BODY)

    def test_no_key(self) -> None:
        """A sealer without keys cannot seal, open or make a fingerprint until it gets keys."""
        sealer, sealed = FernetSealer([]), FernetSealer([NEW]).seal(BODY)
        self.assertEqual((sealer.key_id, sealer.key_ids), (None, ()))
        self.assertRaises(NotReady, sealer.seal, BODY)
        self.assertRaises(NotReady, sealer.fingerprint, "t1", BODY)
        for key in (key_id(NEW), None):
            self.assertRaises(KeyMissing, sealer.open, sealed, key)
        self.assertFalse(sealer.matches("x", "t1", BODY))
        sealer.replace([NEW])
        self.assertEqual(sealer.open(sealed, key_id(NEW)), BODY)

    def test_replaced(self) -> None:
        """Keys can be replaced while a process runs. Watchers are notified if the keys differ."""
        sealer, seen = FernetSealer([OLD]), list[tuple[str, ...]]()
        sealer.watch(lambda: seen.append(sealer.key_ids))
        for keys in ([OLD], [OLD, NEW], [OLD, NEW], [NEW, OLD], [NEW]):
            sealer.replace(keys)
        old, new = key_id(OLD), key_id(NEW)
        self.assertEqual(seen, [(old, new), (new, old), (new,)])


class KeyIds(SynchronousTestCase):
    def test_the_id(self) -> None:
        """The id of a key is always the same, and different for other keys."""
        self.assertEqual(key_id(b"A" * 43 + b"="), "c8861677")
        self.assertEqual(len({key_id(new_key().encode()) for _ in range(100)}), 100)

    def test_it_reveals_nothing(self) -> None:
        """The id is not a prefix of the key, of a plain hash of it, or of the key for
        fingerprints.
        """
        raw = urlsafe_b64decode(NEW)
        for text in (NEW.decode(), raw.hex(), sha256(raw).hexdigest(), sha256(NEW).hexdigest()):
            self.assertNotIn(key_id(NEW), text)


class KeyFiles(SynchronousTestCase):
    def test_new_key(self) -> None:
        """A new key is a valid line of a key file, and different each time."""
        one, other = new_key(), new_key()
        self.assertNotEqual(one, other)
        self.assertEqual(load_keys(f"{one}\n{other}\n"), [one.encode(), other.encode()])
        self.assertEqual(Fernet(one).decrypt(FernetSealer([one.encode()]).seal(BODY)), BODY)

    def test_comments_and_blank_lines(self) -> None:
        """Blank lines, lines that begin with "#", spaces around a key and Windows line ends are
        ignored. The order of keys counts.
        """
        text = (
            f"# since May\r\n{NEW.decode()}\r\n\r\n   \r\n  # the one before\r\n  {OLD.decode()}  "
        )
        self.assertEqual(load_keys(text), [NEW, OLD])

    def test_no_key(self) -> None:
        """A file without a key is an error that says so."""
        for text in ("", "\n\n", "# only a comment\n"):
            error = self.assertRaises(ConfigurationError, load_keys, text)
            self.assertEqual(str(error), "the file holds no key")

    def test_damaged_key(self) -> None:
        """An invalid line is named by its number, from 1, and never shown."""
        damaged = NEW.decode()[:-2]
        for line in (
            damaged,
            damaged + "пароль",
            "s3cr3t",
            NEW.decode() + OLD.decode(),
            f'"{NEW.decode()}"',
            NEW.decode() + " # ours",
        ):
            error = self.assertRaises(
                ConfigurationError, load_keys, f"# a comment\x0b\u2028\n{OLD.decode()}\n\n{line}\n"
            )
            shown = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            self.assertEqual(str(error), "line 4 is not a Fernet key (32 bytes in URL-safe base64)")
            self.assertNotIn(line, shown)
