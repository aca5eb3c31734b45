"""Which errors of the operating system say that this machine has run out of something, and in
words, of what.

They say nothing about the server that was to be called: the call waits and is tried again.
"""

from __future__ import annotations

import errno

_SHORTAGES = {
    errno.EMFILE: "this process has no open file left (ulimit -n, LimitNOFILE)",
    errno.ENFILE: "this machine has no open file left (fs.file-max)",
    errno.ENOBUFS: "this machine has no memory left for sockets (ENOBUFS)",
    errno.ENOMEM: "this machine has no memory left (ENOMEM)",
}
NO_PORT = "this machine has no local port left for that address (net.ipv4.ip_local_port_range)"


def shortage_of(number: int | None) -> str | None:
    """What was missing, for an `errno`; None if it tells of no shortage.

    EADDRNOTAVAIL is not among them: it also says that an address cannot be reached from here at
    all."""
    return None if number is None else _SHORTAGES.get(number)
