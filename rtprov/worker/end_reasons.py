"""Why tasks end, as a closed list of words for metrics. The journal has the full reasons."""

from __future__ import annotations

from rtprov.model import State

OTHER = "other"

# The beginnings of the reasons of failed tasks. The first matching row counts.
_FAILED = (
    ("A answered 500", "answered_500"),
    ("A gave no answer", "no_answer"),
    ("out of patience", "out_of_patience"),
    ("A answered", "broken_answer"),
    ("A's answer", "broken_answer"),
    ("The body cannot be opened", "damaged_order"),
    ("dead-lettered", "dead_lettered"),
    ("the broker has lost", "lost_order"),
)
_OTHERS = {
    State.COMPLETED: "answered_200",
    State.NOT_FOUND: "answered_404",
    State.CANCELLED: "cancelled",
}
END_REASONS = frozenset({OTHER, *_OTHERS.values(), *(word for _, word in _FAILED)})
"""All words that `end_reason` returns."""


def end_reason(state: State, reason: str) -> str:
    """Return the word for the end of a task; `reason` is the text in the journal."""
    word = _OTHERS.get(state)
    if word is not None:
        return word
    return next((word for text, word in _FAILED if reason.startswith(text)), OTHER)
