"""The memory that bodies may occupy: first come, first served, and all of it is released again."""

import asyncio

import pytest

from btfeed.receiving.memory import MemoryLimiter, Overloaded
from btfeed.telemetry.metrics import Metrics
from tests.support.clock import FakeClock

TIMEOUT = 5.0
LARGE = MemoryLimiter.FREE_BYTES + 1
"""Bytes from which on a body needs its reservation."""


def _limiter(total: int) -> tuple[MemoryLimiter, FakeClock]:
    clock = FakeClock()
    return MemoryLimiter(total, TIMEOUT, Metrics(), clock=clock), clock


async def test_a_small_body_reserves_nothing() -> None:
    """Even if it announced more, so that slow senders do not keep others out."""
    limiter, _ = _limiter(100)
    with limiter.reservation(100) as reservation:
        await reservation.ensure(MemoryLimiter.FREE_BYTES)
        assert limiter._available == 100
        await reservation.ensure(LARGE)
        await reservation.ensure(LARGE + 1)
        assert limiter._available == 0
    assert limiter._available == 100


async def test_a_body_larger_than_all_memory_gets_all_of_it() -> None:
    """It does not wait forever."""
    limiter, _ = _limiter(100)
    with limiter.reservation(1_000) as reservation:
        await reservation.ensure(LARGE)
        assert limiter._available == 0


async def test_a_body_that_gets_no_memory_in_time_is_rejected() -> None:
    """After the timeout, not before."""
    limiter, clock = _limiter(100)
    await limiter.acquire(100)
    waiting = asyncio.create_task(limiter.acquire(1))
    await clock.advance(TIMEOUT - 0.1)
    assert not waiting.done()
    await clock.advance(0.2)
    with pytest.raises(Overloaded):
        await waiting
    limiter.release(100)
    assert limiter._available == 100


async def test_the_next_in_line_follows_one_that_gives_up() -> None:
    """Memory is handed out in order, and a body that has given up is skipped."""
    limiter, _ = _limiter(100)
    await limiter.acquire(60)
    first = asyncio.create_task(limiter.acquire(50))
    second = asyncio.create_task(limiter.acquire(40))
    await asyncio.sleep(0)
    assert not second.done()
    first.cancel()
    await second
    assert limiter._available == 0


async def test_memory_granted_at_the_last_moment_is_released() -> None:
    """A body that gives up just when it is granted its memory does not keep it."""
    limiter, _ = _limiter(100)
    await limiter.acquire(100)
    waiting = asyncio.create_task(limiter.acquire(100))
    await asyncio.sleep(0)
    limiter.release(100)
    waiting.cancel()  # after the grant, before the task has noticed
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert limiter._available == 100


async def test_less_memory_is_handed_out_once_enough_came_back() -> None:
    """A body that asked for more than there is from then on gets all of it, as one that asks later does."""
    limiter, _ = _limiter(100)
    await limiter.acquire(60)
    waiting = asyncio.create_task(limiter.acquire(100))
    await asyncio.sleep(0)
    limiter.resize(50, TIMEOUT)
    later = asyncio.create_task(limiter.acquire(10))
    await asyncio.sleep(0)
    limiter.release(60)
    await waiting
    assert not later.done()
    limiter.release(100)
    await later
    limiter.release(10)
    assert limiter._available == 50


async def test_more_memory_goes_to_those_that_wait() -> None:
    """At once."""
    limiter, _ = _limiter(100)
    await limiter.acquire(100)
    waiting = asyncio.create_task(limiter.acquire(50))
    await asyncio.sleep(0)
    limiter.resize(150, TIMEOUT)
    await waiting
    assert limiter._available == 0
