"""`rtprov.model`: ids, shards, states, and the repr of a task."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtprov.model import (
    State,
    Task,
    is_equipment_id,
    is_task_id,
    keyed_task_id,
    may_be_reused,
    shard_of,
)
from tests.support.strategies import equipment_ids, task_ids

TASK_ID = "0123456789abcdef" * 2


class EquipmentIds(SynchronousTestCase):
    @given(equipment_ids)
    def test_letters_and_digits(self, text: str) -> None:
        """Six or more ASCII letters and digits are a valid equipment id."""
        self.assertTrue(is_equipment_id(text))

    def test_anything_else(self) -> None:
        """Ids that are too short, or have other characters, other alphabets' letters and digits, or
        a line end, are not valid.
        """
        for text in (
            "",
            "ABC12",
            "ABC 123",
            "ABC-123",
            "ABC123\n",
            "\nABC123",
            "АВС123456",
            "ABC12٣",
            "ABC123/",
            "ABC%20123",
            "ABC123\0",
        ):
            self.assertFalse(is_equipment_id(text), repr(text))


class KeyedTaskIds(SynchronousTestCase):
    def test_fixed(self) -> None:
        """The id made from a device and a key is the same in every version, is a valid task id, and
        shows that it was made from a key.
        """
        self.assertEqual(
            keyed_task_id("ABC123456", "order-4711"), "1de0911a74b7b37c4c3ab022ba279eae"
        )
        self.assertTrue(is_task_id(keyed_task_id("ABC123456", "!" * 255)))
        self.assertTrue(may_be_reused(keyed_task_id("ABC123456", "k")))
        self.assertFalse(may_be_reused("0" * 32))

    def test_distinct(self) -> None:
        """Different pairs of device and key have different ids, even if their concatenations are
        equal.
        """
        pairs = [
            ("ABC123", "456"),
            ("ABC1234", "56"),
            ("ABC123", "4567"),
            ("abc123", "456"),
            ("ABC123", "456!"),
        ]
        self.assertEqual(len({keyed_task_id(*pair) for pair in pairs}), len(pairs))


class TaskIds(SynchronousTestCase):
    @given(task_ids)
    def test_form(self, text: str) -> None:
        """32 lower-case hexadecimal digits are a valid task id."""
        self.assertTrue(is_task_id(text))

    def test_anything_else(self) -> None:
        """Ids of another length, with upper case, other characters or a line end are not valid."""
        for text in (
            "",
            TASK_ID[:-1],
            TASK_ID + "0",
            TASK_ID.upper(),
            TASK_ID + "\n",
            TASK_ID[:-1] + "g",
            TASK_ID[:-1] + "٣",
        ):
            self.assertFalse(is_task_id(text), repr(text))


class Shards(SynchronousTestCase):
    @given(equipment_ids, st.integers(min_value=1, max_value=64))
    def test_range(self, equipment_id: str, shards: int) -> None:
        """Every device has one of the shards."""
        self.assertIn(shard_of(equipment_id, shards), range(shards))

    def test_fixed(self) -> None:
        """The shard is the device's crc32 (0xCBF43926 for "123456789") modulo the number of shards.
        It never changes, because queues are named by it.
        """
        self.assertEqual(shard_of("123456789", 1), 0)
        self.assertEqual(shard_of("123456789", 8), 0xCBF43926 % 8)
        self.assertEqual(shard_of("123456789", 16), 0xCBF43926 % 16)

    def test_spread(self) -> None:
        """Consecutive serials are distributed evenly over all shards."""
        counts = [0] * 8
        for number in range(8000):
            counts[shard_of(f"SN{number:08d}", 8)] += 1
        self.assertTrue(all(900 < count < 1100 for count in counts), counts)


class States(SynchronousTestCase):
    def test_final(self) -> None:
        """All states except running are final."""
        self.assertEqual({state for state in State if not state.final}, {State.RUNNING})


class Tasks(SynchronousTestCase):
    def test_repr_shows_no_body(self) -> None:
        """A task's repr shows that there is a sealed body, but not the sealed body itself."""
        shown = repr(Task(TASK_ID, "ABC123456", 14, 1.5, "gAAAAAtoken"))
        self.assertIn("<sealed>", shown)
        self.assertNotIn("gAAAAAtoken", shown)
