"""A Hypothesis strategy for histories of a few tasks, with callers and keys."""

from __future__ import annotations

from attrs import evolve
from hypothesis import strategies as st

from rtprov.model import Requested, TaskEvent
from tests.support.journal_folds import task_id
from tests.support.strategies import task_events

DEVICES = ("ABC123456", "DEF456789")
_numbers = st.integers(min_value=0, max_value=5)


@st.composite
def events(draw: st.DrawFn) -> TaskEvent:
    """An event of one of six tasks of two devices."""
    number = draw(_numbers)
    event = draw(task_events(st.just(task_id(number)), st.just(DEVICES[number % 2])))
    if isinstance(event, Requested):
        event = evolve(
            event,
            caller=draw(st.sampled_from([None, "token:a", "token:b"])),
            fingerprint=draw(st.sampled_from([None, "f1"])),
        )
    return evolve(event, at=draw(st.integers(min_value=0, max_value=4000)) * 1.0)
