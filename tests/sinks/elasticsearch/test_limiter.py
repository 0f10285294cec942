"""The limiter allows fewer writes at once when Elasticsearch pushes back, and more again when it recovers."""

import asyncio
import math

import pytest

from sinks.base import Unavailable
from sinks.elasticsearch.limiter import WriteLimiter
from tests.support.clock import FakeClock, settle


async def test_there_is_no_limit_at_first() -> None:
    """Any number of writes may be in flight."""
    limiter = WriteLimiter()
    async with limiter.slot(), limiter.slot(), limiter.slot():
        assert (limiter.in_flight, limiter.limit) == (3, math.inf)
        limiter.succeeded()
        assert limiter.limit == math.inf


async def test_pushing_back_halves_the_limit_down_to_one() -> None:
    """The number of writes in flight is halved, but never below one."""
    limiter = WriteLimiter()
    async with limiter.slot(), limiter.slot(), limiter.slot(), limiter.slot():
        limiter.pushed_back()
        assert limiter.limit == 2
        for _ in range(5):
            limiter.pushed_back()
        assert limiter.limit == 1


async def test_a_round_of_successful_writes_adds_a_slot() -> None:
    """From one slot, one successful write makes two, and two more make nearly three."""
    limiter = WriteLimiter()
    limiter.limit = 1
    async with limiter.slot():
        limiter.succeeded()
        assert limiter.limit == 2
        async with limiter.slot():
            limiter.succeeded()
            limiter.succeeded()
    assert 2.8 < limiter.limit < 3


async def test_the_limit_grows_only_when_it_is_reached() -> None:
    """Successful writes below the limit don't show that there could be more."""
    limiter = WriteLimiter()
    limiter.limit = 4
    async with limiter.slot():
        limiter.succeeded()
    assert limiter.limit == 4


async def test_a_write_waits_for_a_slot() -> None:
    """It gets a slot when another write ends, fails, or is cancelled while waiting."""
    limiter = WriteLimiter()
    limiter.limit = 1
    most, done = 0, 0

    async def write(fails: bool) -> None:
        nonlocal most, done
        async with limiter.slot():
            most = max(most, limiter.in_flight)
            await asyncio.sleep(0)
            done += 1
            if fails:
                raise ValueError

    writes = [asyncio.create_task(write(number == 1)) for number in range(6)]
    await asyncio.sleep(0)
    writes[3].cancel()
    ended = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(end) for end in ended if end is not None] == [ValueError, asyncio.CancelledError]
    assert (most, done, limiter.in_flight) == (1, 5, 0)


async def test_a_write_that_waits_for_a_slot_obeys_what_another_was_told() -> None:
    """It begins no earlier than Elasticsearch asked, also if its slot becomes free before that."""
    clock = FakeClock()
    limiter = WriteLimiter(clock)
    limiter.limit = 1
    began = []

    async def write() -> None:
        async with limiter.slot():
            began.append(clock.now)

    async with limiter.slot():
        waiting = [asyncio.create_task(write()) for _ in range(3)]
        await settle()
        limiter.pushed_back(retry_after=30)
    await clock.advance(10)
    for task in waiting:
        with pytest.raises(Unavailable) as raised:
            await task
        assert raised.value.retry_after == 30
    await clock.advance(20)
    await write()
    assert began == [30]
