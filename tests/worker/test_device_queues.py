"""Queues of devices: examples, and a comparison with a list for each device."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtprov.worker.device_queues import DeviceQueues

DEVICES = ["ABC123", "DEF456", "GHI789"]


class Examples(SynchronousTestCase):
    def setUp(self) -> None:
        self.lanes: DeviceQueues[int] = DeviceQueues()

    def counts(self) -> tuple[int, int, int]:
        return self.lanes.active, self.lanes.waiting, len(self.lanes)

    def test_one_at_a_time(self) -> None:
        """The first item of a device is its head at once. The next ones become the head in
        order.
        """
        self.assertEqual(
            [self.lanes.enter("ABC123", item) for item in (1, 2, 3)], [True, False, False]
        )
        self.assertEqual(self.counts(), (1, 2, 3))
        self.assertEqual([self.lanes.leave("ABC123") for _ in range(3)], [2, 3, None])
        self.assertEqual(self.counts(), (0, 0, 0))

    def test_devices_do_not_wait_for_one_another(self) -> None:
        """Each device has a head of its own."""
        self.assertTrue(self.lanes.enter("ABC123", 1))
        self.assertTrue(self.lanes.enter("DEF456", 2))
        self.assertEqual(self.counts(), (2, 0, 2))

    def test_head_after_an_empty_queue(self) -> None:
        """A device whose queue was empty starts with a new head."""
        self.lanes.enter("ABC123", 1)
        self.lanes.leave("ABC123")
        self.assertTrue(self.lanes.enter("ABC123", 2))

    def test_leave_without_a_head(self) -> None:
        """`leave` raises `KeyError` if the device has no head."""
        self.assertRaises(KeyError, self.lanes.leave, "ABC123")
        self.assertEqual(self.counts(), (0, 0, 0))

    def test_drop_waiting(self) -> None:
        """`drop_waiting` removes all waiting items and keeps the heads."""
        for device, item in (
            ("ABC123", 1),
            ("DEF456", 2),
            ("ABC123", 3),
            ("DEF456", 4),
            ("ABC123", 5),
        ):
            self.lanes.enter(device, item)
        self.assertEqual(sorted(self.lanes.drop_waiting()), [3, 4, 5])
        self.assertEqual(self.counts(), (2, 0, 2))
        self.assertEqual(self.lanes.drop_waiting(), [])
        self.assertEqual([self.lanes.leave("ABC123"), self.lanes.leave("DEF456")], [None, None])


# "enter" and "leave" are more likely than "drop", so that queues grow long and empty again.
actions = st.lists(
    st.tuples(
        st.sampled_from(["enter", "enter", "enter", "leave", "leave", "drop"]),
        st.sampled_from(DEVICES),
    ),
    max_size=60,
)


class AgainstLists(SynchronousTestCase):
    @given(actions)
    def test_any_sequence(self, sequence: list[tuple[str, str]]) -> None:
        """After any sequence of calls there is one head for each device, items leave in order, none
        is lost, the counters are right, and no empty queue is kept.
        """
        lanes: DeviceQueues[int] = DeviceQueues()
        model: dict[str, list[int]] = {device: [] for device in DEVICES}
        for item, (action, device) in enumerate(sequence):
            expected = model[device]
            if action == "enter":
                expected.append(item)
                self.assertEqual(lanes.enter(device, item), expected == [item])
            elif action == "leave" and expected:
                del expected[0]
                self.assertEqual(lanes.leave(device), expected[0] if expected else None)
            elif action == "leave":
                self.assertRaises(KeyError, lanes.leave, device)
            else:
                self.assertEqual(
                    sorted(lanes.drop_waiting()),
                    sorted(item for lane in model.values() for item in lane[1:]),
                )
                for lane in model.values():
                    del lane[1:]
            self.assertEqual(len(lanes), sum(map(len, model.values())))
            self.assertEqual(lanes.active, sum(map(bool, model.values())))
            self.assertEqual(lanes.waiting, len(lanes) - lanes.active)
        self.assertEqual(lanes._lanes.keys(), {device for device, lane in model.items() if lane})

    @given(st.lists(st.sampled_from(DEVICES), max_size=40))
    def test_drop_all_keeps_each_device_in_order(self, devices: list[str]) -> None:
        """`drop_waiting` returns the items of each device in their order."""
        lanes: DeviceQueues[tuple[str, int]] = DeviceQueues()
        behind = [
            item
            for item in [(device, number) for number, device in enumerate(devices)]
            if not lanes.enter(item[0], item)
        ]
        dropped = lanes.drop_waiting()
        for device in DEVICES:
            self.assertEqual(
                [item for item in dropped if item[0] == device],
                [item for item in behind if item[0] == device],
            )
