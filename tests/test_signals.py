"""SIGHUP: it asks for a reload, and never ends the process."""

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from btfeed.signals import HangUps
from tests.support.clock import settle
from tests.support.harness import DEADLINE


@pytest.fixture
def hang_ups() -> Iterator[HangUps]:
    before = signal.getsignal(signal.SIGHUP)
    found = HangUps()
    found.catch()
    yield found
    signal.signal(signal.SIGHUP, before)


def hang_up() -> None:
    os.kill(os.getpid(), signal.SIGHUP)


async def test_one_is_waited_for(hang_ups: HangUps) -> None:
    """It ends one wait, not the next."""
    for _ in range(2):
        waiting = asyncio.create_task(hang_ups.wait())
        await settle()
        assert not waiting.done()
        hang_up()
        await asyncio.wait_for(waiting, DEADLINE)


async def test_several_while_nobody_waits_count_as_one(hang_ups: HangUps) -> None:
    """A reload that is under way is followed by one more."""
    hang_up()
    hang_up()
    await asyncio.wait_for(hang_ups.wait(), DEADLINE)
    waiting = asyncio.create_task(hang_ups.wait())
    await settle()
    assert not waiting.done()
    waiting.cancel()


def test_one_before_the_event_loop_counts(hang_ups: HangUps) -> None:
    """And one after its end does no harm."""
    hang_up()
    asyncio.run(asyncio.wait_for(hang_ups.wait(), DEADLINE))
    hang_up()
