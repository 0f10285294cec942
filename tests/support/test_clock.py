"""The clock that tests move by hand behaves as the real one does."""

import asyncio

import pytest

from tests.support.clock import FakeClock, settle


async def test_a_sleep_ends_when_its_time_has_come() -> None:
    """Not before, and in the order of the deadlines."""
    clock = FakeClock()
    ended: list[float] = []

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        ended.append(seconds)

    tasks = [asyncio.create_task(sleep(seconds)) for seconds in (3.0, 1.0)]
    await clock.advance(0.9)
    assert (ended, clock.waiting) == ([], 2)
    await clock.advance(2.1)
    assert ended == [1.0, 3.0]
    await asyncio.gather(*tasks)


async def test_a_timeout_ends_a_block() -> None:
    """With TimeoutError, when its time has come."""
    clock = FakeClock()

    async def wait() -> None:
        async with clock.timeout(5):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await clock.advance(4.9)
    assert not task.done()
    await clock.advance(0.1)
    with pytest.raises(TimeoutError):
        await task


async def test_a_block_that_ended_in_time_is_left_alone() -> None:
    """Its deadline passes without effect."""
    clock = FakeClock()
    async with clock.timeout(1):
        await settle()
    async with clock.timeout(None):
        await clock.advance(2)


async def test_the_time_of_day_may_be_set() -> None:
    """Without moving the monotonic clock."""
    clock = FakeClock(epoch=1_000.0)
    await clock.advance(10)
    clock.epoch -= 500
    assert (clock.time(), clock.monotonic()) == (510.0, 10.0)
