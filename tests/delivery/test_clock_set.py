"""The system's clock is set back or forward while records are delivered: nothing waits longer, and nothing sooner."""

from pathlib import Path

import pytest

from sinks.base import Unavailable
from tests.sinks.drivers.file import file_sink, only_file, read_records
from tests.support.clock import FakeClock, settle
from tests.support.fakes import FakeSink, Rig
from tests.support.harness import until_async

DAY = 86_400.0
each_way = pytest.mark.parametrize("change", [-DAY, -1.0, 1.0, DAY])


@each_way
async def test_a_batch_lingers_no_longer(change: float) -> None:
    """Set when a post has just been received, or while it lingers: it is delivered when its linger is over."""
    clock, sink = FakeClock(), FakeSink()
    async with Rig(sink, clock=clock, linger="200ms") as rig:
        bodies: list[bytes] = []
        for seed in range(4):
            bodies += await rig.post(2, seed)
            clock.epoch += change if seed % 2 else 0
            await settle()
            clock.epoch += 0 if seed % 2 else change
            await clock.advance(0.2)
            await until_async(lambda: sink.bodies == bodies, "delivered after 0.2 s")  # noqa: B023 - called in this round


@each_way
async def test_a_pause_before_a_retry_keeps_its_length(change: float) -> None:
    """What a destination asked for, neither shorter nor longer."""
    clock, sink = FakeClock(), FakeSink(Unavailable("busy", retry_after=30))
    async with Rig(sink, clock=clock, linger="0s") as rig:
        bodies = await rig.post(3)
        await until_async(lambda: sink.writes, "refused")
        clock.epoch += change
        await clock.advance(29)
        assert sink.bodies == []
        await clock.advance(1)
        await until_async(lambda: sink.bodies == bodies, "delivered after 30 s")


@each_way
async def test_files_are_written_and_finished_in_time(tmp_path: Path, change: float) -> None:
    """A file sink's delivery, with the clock set after each post."""
    clock = FakeClock()
    async with Rig(file_sink(tmp_path, clock=clock), serial=True, clock=clock, linger="0s") as rig:
        bodies: list[bytes] = []
        for seed in range(3):
            bodies += await rig.post(2, seed)
            await rig.saved(seed + 2)
            clock.epoch += change
        assert only_file(tmp_path).suffix == ".open"
        await clock.advance(3600)
        await until_async(lambda: only_file(tmp_path).suffix == ".ndjson", "finished after an hour")
    assert read_records(only_file(tmp_path)) == bodies
