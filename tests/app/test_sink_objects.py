"""Which sink object a delivery gets, and what happens to what a lost partition left."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import cast

from structlog.testing import capture_logs

from btfeed.app.deliveries import Deliveries
from btfeed.app.sink_objects import LeftPartitions, SinkObjects
from btfeed.delivery.sink_config import CommonSettings, SinkConfig
from btfeed.journal.base import JournalUnavailable
from sinks.base import Sink, SinkContext, SinkType, Unavailable
from sinks.settings import Settings
from tests.support.clock import FakeClock
from tests.support.fakes import FakeSink, SerialFakeSink


class LeavingSink(SerialFakeSink):
    """left: the states with which it left. failing: what it raises then, once."""

    def __init__(self, failing: list[Exception]) -> None:
        super().__init__()
        self.left: list[str] = []
        self.failing = failing

    async def leave(self, state: str) -> None:
        if self.failing:
            raise self.failing.pop()
        self.left.append(state)


class Case:
    """Configured sinks. made: what they were made for, and the sinks."""

    def __init__(self, serial: bool) -> None:
        self.made: list[tuple[str, FakeSink]] = []
        self.failing: list[Exception] = []
        self.serial = serial
        self.config = SinkConfig(CommonSettings(type="fake"), SinkType(Settings, self._create, serial=serial), Settings())

    def _create(self, settings: Settings, context: SinkContext) -> Sink:
        sink = LeavingSink(self.failing) if self.serial else FakeSink()
        self.made.append((context.part, sink))
        return sink

    @property
    def left(self) -> list[tuple[str, str]]:
        """Parts and states that were left."""
        return [(part, state) for part, sink in self.made for state in cast("LeavingSink", sink).left]


class FakeDeliveries:
    """Which have lost these partitions."""

    def __init__(self, lost: Mapping[int, str]) -> None:
        self.lost = lost
        self.asked = 0
        self.error: Exception | None = None
        self.unknown = 0

    def is_running(self, name: str) -> bool:
        return True

    async def finish_left(self, name: str, finish: Callable[[int, str], Awaitable[None]]) -> bool:
        self.asked += 1
        if self.unknown:
            self.unknown -= 1
            return False
        if self.error:
            raise self.error
        for partition, state in self.lost.items():
            await finish(partition, state)
        return True


async def test_it_looks_soon_when_partitions_are_not_known_yet() -> None:
    """At a start, the group has not assigned them."""
    case, clock = Case(serial=True), FakeClock()
    deliveries = FakeDeliveries({1: "one"})
    deliveries.unknown = 3
    objects = SinkObjects("me", lambda name, sink: sink)
    left = LeftPartitions(cast("Deliveries", deliveries), lambda: {"files": case.config}, objects, clock)
    running = asyncio.create_task(left.run())
    await clock.advance(2.5)
    assert (deliveries.asked, case.left) == (3, [])
    await clock.advance(1)
    assert case.left == [("p1-me", "one")]
    running.cancel()


def test_a_process_alone_has_plain_sinks() -> None:
    """With a journal in SQLite, which has one partition."""
    for serial in (True, False):
        case = Case(serial)
        objects = SinkObjects("", lambda name, sink: sink)
        assert objects.create("a", case.config, 0).shared is None
        assert [part for part, _ in case.made] == [""]


def test_a_sink_with_a_state_has_an_object_for_each_partition() -> None:
    """Each knows what it has to keep apart."""
    case = Case(serial=True)
    objects = SinkObjects("one", lambda name, sink: sink)
    for partition in (0, 1, -1):
        assert objects.create("a", case.config, partition).shared is None
    assert [part for part, _ in case.made] == ["p0-one", "p1-one", "retries-one"]


def test_other_sinks_are_shared() -> None:
    """Those of one name."""
    case = Case(serial=False)
    objects = SinkObjects("one", lambda name, sink: sink)
    found = [objects.create(name, case.config, partition) for name in ("a", "b") for partition in range(3)]
    assert [part for part, _ in case.made] == ["", ""]
    assert len({id(each.shared) for each in found}) == 2
    assert len({id(each.sink) for each in found}) == 6


async def test_lost_partitions_are_left_each_minute() -> None:
    """With the state that was saved, once each. What fails is tried again, and the others go on."""
    case, clock = Case(serial=True), FakeClock()
    deliveries = FakeDeliveries({1: "one", 2: "two"})
    objects = SinkObjects("me", lambda name, sink: sink)
    sinks = {"files": case.config}
    left = LeftPartitions(cast("Deliveries", deliveries), lambda: sinks, objects, clock)
    case.failing.append(Unavailable("the disk is full"))
    with capture_logs() as logs:
        running = asyncio.create_task(left.run())
        await clock.advance(1)
        assert case.left == []
        await clock.advance(60)
        assert case.left == [("p1-me", "one"), ("p2-me", "two")]
        await clock.advance(60)
        deliveries.lost = {1: "one", 2: "later"}
        await clock.advance(60)
        assert case.left == [("p1-me", "one"), ("p2-me", "two"), ("p2-me", "later")]
        for error in (JournalUnavailable("no broker replies"), ZeroDivisionError("a bug")):
            deliveries.error = error
            await clock.advance(60)
        running.cancel()
    assert all(sink.closed == 1 for _, sink in case.made)
    assert deliveries.asked == 6
    assert [(entry["log_level"], entry.get("error")) for entry in logs] == [
        ("warning", "the disk is full"),
        ("warning", "no broker replies"),
        ("error", None),
    ]
