"""The header ``Priority``: what is understood, and what is ignored."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtprov.frontend.priority import MAX_LENGTH, urgency


class Priority(SynchronousTestCase):
    def test_understood(self) -> None:
        """The urgency is an integer from 0 to 7, among other members of the dictionary."""
        for values, expected in (
            (["u=0"], 0),
            (["u=7"], 7),
            (["u=5, i"], 5),
            (["i, u=5"], 5),
            (["i=?0;x=1 , u=2"], 2),
            (["u=1;p=2"], 1),
            (["u=1, u=6"], 6),
            (["i", "u=4"], 4),
            (['a="x,u=1", u=2'], 2),
            (["a=(1 2;b),u=2"], 2),
            (["a=:AAE=:,b=tok/en,c=-1.5,d=@12,u=2"], 2),
            (["  u=2  "], 2),
            (["u=-0"], 0),
            (["u=007"], 7),
        ):
            self.assertEqual(urgency(values), expected, values)

    def test_ignored(self) -> None:
        """Without a valid urgency it is 3. A field that does not parse is ignored as a whole."""
        for values in (
            [],
            [""],
            ["i"],
            ["u"],
            ["u=8"],
            ["u=-1"],
            ["u=1.0"],
            ["u=?1"],
            ['u="1"'],
            ["u=one"],
            ["u=(1)"],
            ["u=@1"],
            ["u=1, u=9"],
            ["u=1,"],
            [",u=1"],
            ["u=1 i"],
            ["U=1"],
            ["u =1"],
            ["u= 1"],
            ["u=1, b="],
            ['u=1, b="x'],
            ["u=1; "],
            ["u=1234567890123456"],
            ["u=1, " + "a" * MAX_LENGTH],
            ["u=1", ""],
            ["u=1, é"],
        ):
            self.assertEqual(urgency(values), 3, values)

    @given(
        st.lists(st.text(st.sampled_from('ui=,;()"\\?:%@ 0123789.-a*'), max_size=40), max_size=3)
    )
    def test_anything(self, values: list[str]) -> None:
        """Any text has an urgency."""
        self.assertIn(urgency(values), range(8))
