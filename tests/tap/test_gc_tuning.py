"""`rtprov.tap.gc_tuning`: what exists at the start, and after a replay, is not collected."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, cast

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rtprov.tap.gc_tuning import THRESHOLDS, freeze_once_connected, tune

if TYPE_CHECKING:
    from rtprov.amqp.client.service import BrokerConnection


@define
class Connection:
    """A `BrokerConnection` that is up when the test fires `up`."""

    up: Deferred[None] = field(factory=Deferred)

    def when_connected(self) -> Deferred[None]:
        return self.up


class Tuning(SynchronousTestCase):
    def setUp(self) -> None:
        self.addCleanup(gc.unfreeze)
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        self.connection = Connection()

    def connect(self) -> None:
        freeze_once_connected(cast("BrokerConnection", self.connection))
        self.connection.up.callback(None)

    def test_start(self) -> None:
        """`tune` sets the thresholds, and freezes what exists."""
        tune()
        self.assertEqual(gc.get_threshold(), THRESHOLDS)
        self.assertGreater(gc.get_freeze_count(), 10_000)

    def test_replay(self) -> None:
        """What exists after the replay is frozen too."""
        tune()
        before = gc.get_freeze_count()
        tasks = [[number] for number in range(1000)]
        self.connect()
        self.assertGreaterEqual(gc.get_freeze_count(), before + len(tasks))
