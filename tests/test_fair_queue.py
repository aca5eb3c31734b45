"""Which task gets the next slot: by examples, and for any sequence of operations."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtprov.fair_queue import FairQueue

Item = tuple[str | None, int]


class Order(SynchronousTestCase):
    def setUp(self) -> None:
        self.queue: FairQueue[Item] = FairQueue()

    def add(self, caller: str | None, *numbers: int, urgency: int = 3) -> None:
        for number in numbers:
            self.queue.add(caller, (caller, number), urgency, number)

    def pop(self, count: int) -> list[Item]:
        return [self.queue.pop() for _ in range(count)]

    def test_one_caller(self) -> None:
        """The items of one caller are served by turn. No caller is a caller, too."""
        self.add(None, 2, 1, 3)
        self.assertEqual(self.pop(3), [(None, 1), (None, 2), (None, 3)])
        self.assertRaises(IndexError, self.queue.pop)

    def test_urgency(self) -> None:
        """The more urgent ones come first, but only among those of their caller."""
        self.add("a", 1, 2)
        self.add("a", 3, urgency=0)
        self.add("b", 4, 5, urgency=7)
        self.assertEqual(self.pop(5), [("a", 3), ("b", 4), ("a", 1), ("b", 5), ("a", 2)])

    def test_fewest_calls(self) -> None:
        """The caller with the fewest running calls is next."""
        self.add("a", *range(10))
        self.pop(4)
        self.add("b", *range(10))
        self.assertEqual({caller for caller, _ in self.pop(4)}, {"b"})
        self.queue.ended("a")
        self.queue.ended("a")
        self.assertEqual({caller for caller, _ in self.pop(2)}, {"a"})

    def test_one_slot(self) -> None:
        """With one slot, callers take turns; one that comes waits for its turn, too."""
        self.add("a", 1, 2, 3)
        self.add("b", 1, 2)
        served = []
        for caller in ("c", "d", None, None, None, None, None):
            served.append(self.queue.pop()[0])
            self.queue.ended(served[-1])
            if caller is not None:
                self.add(caller, 1)
        self.assertEqual(served, ["a", "b", "a", "c", "b", "d", "a"])

    def test_removed(self) -> None:
        """A removed item is not served. Its caller is forgotten with its last item and call."""
        self.add("a", 1, 2)
        self.assertTrue(self.queue.remove("a", ("a", 1)))
        self.assertFalse(self.queue.remove("a", ("a", 1)))
        self.assertFalse(self.queue.remove("b", ("b", 1)))
        self.assertEqual((self.pop(1), len(self.queue)), ([("a", 2)], 0))
        self.queue.ended("a")
        self.assertEqual(self.queue._shares, {})

    def test_old_entries(self) -> None:
        """What has gone does not fill the memory."""
        for number in range(20_000):
            self.add("a", number, number + 100_000)
            self.queue.remove("a", ("a", number))
            self.add("b", number)
            for _ in range(2):
                self.queue.ended(self.queue.pop()[0])
        self.assertEqual((len(self.queue), self.queue._shares), (0, {}))
        self.assertLess(len(self.queue._heap), 2000)

    @given(
        st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 7)), max_size=60),
        st.integers(1, 5),
    )
    def test_fair(self, items: list[tuple[str, int]], slots: int) -> None:
        """All items are served once. No caller gets a slot while another one with fewer calls has
        an item.
        """
        queue: FairQueue[Item] = FairQueue()
        for number, (caller, urgency) in enumerate(items):
            queue.add(caller, (caller, number), urgency, number)
        running: list[str | None] = []
        served: list[Item] = []
        while len(queue):
            if len(running) == slots:
                queue.ended(running.pop(0))
            item = queue.pop()
            running.append(item[0])
            served.append(item)
            calls = [running.count(each) for each in "abc" if queue.waiting(each)]
            self.assertLessEqual(running.count(item[0]) - 1, min(calls, default=slots))
        self.assertEqual(sorted(number for _, number in served), list(range(len(items))))
