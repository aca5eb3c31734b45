"""What a replica of the journal knows of one task, as a value for decisions about its message."""

from __future__ import annotations

import attrs


@attrs.frozen
class TaskView:
    """What a replica knows of a task and of one message for it. `Store.view` returns it.

    `needs_no_call` is True if no call is to be made for the message: the task has ended, or another
    message is its order. It is None if the journal does not show that yet. `attempts` is how many
    attempts have begun, `crash_count` how many of them ended with a crash of their worker,
    `first_started_at` when the first one began, in seconds since the epoch. `withheld` says that
    the task waits for its sealing key.
    """

    needs_no_call: bool | None
    attempts: int = 0
    crash_count: int = 0
    first_started_at: float | None = None
    withheld: bool = False
