"""Hypothesis strategies for the values of `rtprov.model`."""

from __future__ import annotations

from hypothesis import strategies as st

from rtprov.model import (
    Cancelled,
    Event,
    Finished,
    Marker,
    Postponed,
    Requested,
    Started,
    State,
    Task,
    Withheld,
)

task_ids = st.text("0123456789abcdef", min_size=32, max_size=32)
equipment_ids = st.from_regex(r"[a-zA-Z0-9]{6,40}", fullmatch=True)
times = st.floats(min_value=0, max_value=4e9)
final_states = st.sampled_from(
    [state for state in State if state.final and state is not State.CANCELLED]
)
# All characters that UTF-8 can encode: all but lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)

fingerprints = st.none() | st.text("abcd", min_size=1, max_size=24)
key_ids = st.none() | st.text("0123456789abcdef", min_size=8, max_size=8)

tasks = st.builds(
    Task,
    task_id=task_ids,
    equipment_id=equipment_ids,
    timeout_s=st.integers(min_value=1, max_value=1500),
    accepted_at=times,
    sealed=texts,
    fingerprint=fingerprints,
    key=key_ids,
)


def task_events(
    task_id: st.SearchStrategy[str], equipment_id: st.SearchStrategy[str]
) -> st.SearchStrategy[Requested | Started | Postponed | Withheld | Cancelled | Finished]:
    """Events of the tasks that the two strategies generate, none with an ``Idempotency-Key``."""
    return st.one_of(
        st.builds(Requested, task_id, equipment_id, times, st.none(), key=key_ids),
        st.builds(Started, task_id, equipment_id, times, st.integers(min_value=1, max_value=1000)),
        st.builds(
            Postponed,
            task_id,
            equipment_id,
            times,
            st.integers(min_value=1, max_value=1000),
            texts,
            times,
        ),
        st.builds(Withheld, task_id, equipment_id, times, key_ids, st.booleans()),
        st.builds(Cancelled, task_id, equipment_id, times),
        st.builds(Finished, task_id, equipment_id, times, final_states, texts),
    )


_requested = st.builds(Requested, task_ids, equipment_ids, times, fingerprints, key=key_ids)
events: st.SearchStrategy[Event] = st.one_of(
    task_events(task_ids, equipment_ids), _requested, st.builds(Marker, texts)
)
