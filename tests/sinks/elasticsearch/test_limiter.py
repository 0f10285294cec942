"""The limiter: fewer writes at once when the far end pushes back, and more again when it recovers."""

import asyncio
import math

from sinks.elasticsearch.limiter import WriteLimiter


async def test_there_is_no_limit_until_somebody_pushes_back() -> None:
    """As many as come."""
    limiter = WriteLimiter()
    async with limiter.slot(), limiter.slot(), limiter.slot():
        assert (limiter.in_flight, limiter.limit) == (3, math.inf)
        limiter.succeeded()
        assert limiter.limit == math.inf


async def test_pushing_back_halves_and_one_is_left() -> None:
    """Of what is under way, and never below one."""
    limiter = WriteLimiter()
    async with limiter.slot(), limiter.slot(), limiter.slot(), limiter.slot():
        limiter.pushed_back()
        assert limiter.limit == 2
        for _ in range(5):
            limiter.pushed_back()
        assert limiter.limit == 1


async def test_a_round_of_good_writes_adds_one_place() -> None:
    """From one place: one good write makes two, two more make nearly three."""
    limiter = WriteLimiter()
    limiter.limit = 1
    async with limiter.slot():
        limiter.succeeded()
        assert limiter.limit == 2
        async with limiter.slot():
            limiter.succeeded()
            limiter.succeeded()
    assert 2.8 < limiter.limit < 3


async def test_nothing_is_added_while_there_is_room() -> None:
    """Good writes that no limit held back prove nothing."""
    limiter = WriteLimiter()
    limiter.limit = 4
    async with limiter.slot():
        limiter.succeeded()
    assert limiter.limit == 4


async def test_who_finds_no_place_waits_for_one() -> None:
    """And gets it when another ends, fails, or is cancelled while it waits."""
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
