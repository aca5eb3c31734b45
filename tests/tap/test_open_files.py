"""The limit on open files."""

from __future__ import annotations

import resource

from twisted.trial.unittest import SynchronousTestCase

from rtprov.tap.open_files import OWN, open_files, room_for


class OpenFiles(SynchronousTestCase):
    def limit(self, soft: int, hard: int, most: int = 1 << 20) -> None:
        """Set the limits of this process, on a system that allows at most `most`."""
        self.limits = (soft, hard)
        self.patch(resource, "getrlimit", lambda _: self.limits)

        def set_limit(_: int, limits: tuple[int, int]) -> None:
            if not 0 <= limits[0] <= most:
                raise ValueError("current limit exceeds maximum limit")
            self.limits = limits

        self.patch(resource, "setrlimit", set_limit)

    def test_raised(self) -> None:
        """The soft limit is raised to the hard limit, and no higher than the system allows. The
        hard limit stays.
        """
        unlimited = resource.RLIM_INFINITY
        for soft, hard, raised in (
            (1024, 524288, 524288),
            (1024, 1024, 1024),
            (256, unlimited, 1 << 20),
            (unlimited, unlimited, 1 << 20),
        ):
            self.limit(soft, hard)
            self.assertEqual(open_files(), raised)
            self.assertEqual(self.limits, (raised if soft != unlimited else unlimited, hard))

    def test_not_raised(self) -> None:
        """If the system refuses the new limit, the old one stays."""
        self.limit(256, resource.RLIM_INFINITY, most=10240)
        self.assertEqual((open_files(), self.limits), (256, (256, resource.RLIM_INFINITY)))

    def test_room(self) -> None:
        """Connections get what other files leave, and at least one."""
        self.limit(1024, 4096)
        self.assertEqual([room_for(wanted) for wanted in (100, 10_000)], [100, 4096 - OWN])
        self.limit(100, 100)
        self.assertEqual(room_for(10_000), 75)
        self.limit(1, 1)
        self.assertEqual(room_for(10_000), 1)
