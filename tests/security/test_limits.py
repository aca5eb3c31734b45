"""Limits on the rate of requests and on the number of connections."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtprov.errors import TooManyRequests
from rtprov.security.limits import Connections, Rate, network_of


def taken(rate: Rate, client: str, now: float) -> bool:
    try:
        rate.take(client, now)
    except TooManyRequests:
        return False
    return True


class Rates(SynchronousTestCase):
    def test_a_second_at_once(self) -> None:
        """A client that was idle may send the requests of one second at once, and then as many as
        the time allows.
        """
        rate = Rate(4)
        self.assertEqual([taken(rate, "a", 10.0) for _ in range(6)], [True] * 4 + [False] * 2)
        self.assertEqual([taken(rate, "a", 10.25) for _ in range(2)], [True, False])
        self.assertEqual([taken(rate, "a", 10.75) for _ in range(3)], [True, True, False])
        self.assertEqual([taken(rate, "a", 20.0) for _ in range(6)], [True] * 4 + [False] * 2)

    def test_less_than_one_a_second(self) -> None:
        """A rate below one per second allows one at a time."""
        rate = Rate(0.1)
        self.assertEqual(
            [taken(rate, "a", now) for now in (0.0, 0.0, 9.9, 10.0, 19.9)],
            [True, False, False, True, False],
        )

    def test_retry_after(self) -> None:
        """A refused client gets the whole number of seconds after which the next request is
        accepted.
        """
        for per_s, first in ((0.1, 10), (0.3, 4), (1, 1), (50, 1)):
            rate = Rate(per_s)
            for _ in range(max(1, int(per_s))):
                rate.take("a", 5.0)
            error = self.assertRaises(TooManyRequests, rate.take, "a", 5.0)
            self.assertEqual(error.retry_after_s, first)
            self.assertTrue(taken(rate, "a", 5.0 + first))

    def test_each_for_itself(self) -> None:
        """The requests of one client do not count for another."""
        rate = Rate(1)
        self.assertEqual(
            [taken(rate, client, 0.0) for client in ("a", "a", "b", "b")],
            [True, False, True, False],
        )

    def test_forgotten(self) -> None:
        """Clients that may again send all requests at once are forgotten, and the number of clients
        in memory is limited.
        """
        rate = Rate(2, max_remembered=100)
        for number in range(50):
            rate.take(f"once{number}", 0.0)
        self.assertEqual(len(rate), 50)
        for number in range(50):
            rate.take("a", 10.0 + number)
        self.assertEqual(len(rate), 1)
        for number in range(1000):
            rate.take(f"many{number}", 100.0)
        self.assertEqual(len(rate), 100)

    @given(st.floats(0.01, 1000), st.lists(st.floats(0, 5), max_size=60))
    def test_over_any_time(self, per_s: float, pauses: list[float]) -> None:
        """Whatever a client does, in no period more requests are accepted than its length allows,
        plus one burst.
        """
        rate, now, times = Rate(per_s), 0.0, []
        for pause in pauses:
            now += pause
            if taken(rate, "a", now):
                times.append(now)
        for first in range(len(times)):
            for last in range(first, len(times)):
                self.assertLessEqual(
                    last - first + 1, max(1.0, per_s) + per_s * (times[last] - times[first]) + 1e-3
                )


class ConnectionCounts(SynchronousTestCase):
    def test_counts(self) -> None:
        """There is room until either limit is reached, and again after a connection is closed."""
        connections = Connections(total=3, per_address=2)
        self.assertTrue(connections.room_for("a"))
        first = connections.opened("a")
        self.assertTrue(connections.room_for("a"))
        connections.opened("a")
        self.assertEqual([connections.room_for(address) for address in ("a", "b")], [False, True])
        connections.opened("b")
        self.assertEqual([connections.room_for(address) for address in ("a", "b")], [False, False])
        for _ in range(2):  # a second release has no effect
            first.release()
            self.assertEqual(
                [connections.room_for(address) for address in ("a", "b")], [True, True]
            )
            self.assertEqual(connections.open, 2)

    def test_known_later(self) -> None:
        """A connection with a still unknown address counts towards the total. Later it counts for
        its address too, if there is room.
        """
        connections = Connections(total=3, per_address=1)
        slots = [connections.opened(None) for _ in range(3)]
        self.assertEqual(
            (connections.room_for(None), connections.room_for("a"), connections.open),
            (False, False, 3),
        )
        self.assertEqual([slot.set_address("a") for slot in slots], [True, False, False])
        self.assertFalse(slots[0].set_address("b"))  # this one is from "a"
        slots[1].release()
        self.assertFalse(slots[1].set_address("b"))
        self.assertEqual(
            [connections.room_for(address) for address in (None, "a", "b")], [True, False, True]
        )
        for slot in slots:
            slot.release()
        self.assertEqual((connections.open, len(connections)), (0, 0))

    @given(
        st.lists(st.tuples(st.integers(0, 5), st.sampled_from([None, "a", "b", "c"])), max_size=60)
    )
    def test_always_given_back(self, steps: list[tuple[int, str | None]]) -> None:
        """Whatever connections come, get an address and go: at the end nothing is counted, and no
        limit was exceeded.
        """
        connections, slots = Connections(total=4, per_address=2), []
        for choice, address in steps:
            if choice < 3 and connections.room_for(address):
                slots.append(connections.opened(address))
            elif choice < 5 and slots and address is not None:
                slots[0].set_address(address)
            elif slots:
                slots.pop(0).release()
            self.assertEqual(connections.open, len(slots))
            self.assertLessEqual(max(connections._by_address.values(), default=0), 2)
        for slot in slots:
            slot.release()
        self.assertEqual((connections.open, len(connections)), (0, 0))

    def test_nothing_is_kept(self) -> None:
        """Nothing is kept for addresses without a connection, also if there was no room for one."""
        connections = Connections(total=1, per_address=1)
        slot = connections.opened("a")
        for number in range(10):
            connections.room_for(f"b{number}")
        slot.release()
        self.assertEqual(len(connections), 0)

    def test_networks(self) -> None:
        """An IPv4 address counts for itself, even written as IPv6. An IPv6 address counts for its
        /64.
        """
        for host, network in (
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::", "2001:db8:1:2::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("::1", "::/64"),
            ("a:b", "a:b"),
            (None, "local"),
        ):
            self.assertEqual(network_of(host), network)
