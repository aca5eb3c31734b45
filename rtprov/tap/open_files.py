"""How many files, connections among them, this process may have open at once."""

from __future__ import annotations

import resource

# that are no calls and no clients' connections: the broker's, the log, certificates that are read
# again; a quarter of few
OWN = 200

_MOST = 1_048_576  # Linux takes no more (fs.nr_open), nor does it take "unlimited"


def open_files() -> int:
    """Have the limit raised as far as we may; return it."""
    soft, hard = (
        _MOST if limit == resource.RLIM_INFINITY else limit
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    wanted = min(hard, _MOST)
    if soft < wanted:
        try:
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            )
        except (ValueError, OSError):  # macOS has a limit of its own below that
            return soft
    return max(soft, wanted)


def room_for(connections: int) -> int:
    """How many of so many connections there may be, with what else is open; at least one."""
    files = open_files()
    return max(1, min(connections, files - min(OWN, files // 4)))
