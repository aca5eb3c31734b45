"""The limit of open files, which also limits connections."""

from __future__ import annotations

import resource

# Files reserved for other things than calls and client connections: the broker's connection, the
# log, certificates that are read again. With a low limit, a quarter of it is reserved.
OWN = 200

_MOST = 1_048_576  # Linux accepts no more (fs.nr_open), and no "unlimited" either


def open_files() -> int:
    """Raise the soft limit to the hard limit; return the limit that applies."""
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
        except (ValueError, OSError):  # macOS has a lower limit of its own
            return soft
    return max(soft, wanted)


def room_for(connections: int) -> int:
    """Return how many of `connections` the limit of open files allows; at least one."""
    files = open_files()
    return max(1, min(connections, files - min(OWN, files // 4)))
