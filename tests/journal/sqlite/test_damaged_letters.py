"""Dead letters that are damaged in the journal keep no others from being delivered."""

import asyncio
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from btfeed.delivery.loop import Delivery
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.delivery.settings import DeliverySettings, FilterSettings
from btfeed.journal.base import Commit, Cursor, DeadLetter, Selection
from btfeed.journal.sqlite.database import FILE, JournalDatabase
from btfeed.journal.sqlite.dead_letters import open_dead_letters
from btfeed.journal.sqlite.layout import PAGE_SIZE
from btfeed.journal.sqlite.settings import Tuning
from tests.journal.journals import Journal, dead_letter, dead_letters, journal, wanting
from tests.support.clock import FastClock
from tests.support.fakes import FakeSink, mapper
from tests.support.harness import DEADLINE, until_async

BLOCKS, LETTERS = 3, 4


async def _kept(home: Path, destination: str) -> None:
    """A closed journal with BLOCKS blocks of LETTERS dead letters of sink a, all of them marked for retry or waiting."""
    async with journal(home) as opened:
        for block in range(BLOCKS):
            numbers = range(block * LETTERS, (block + 1) * LETTERS)
            letters = [replace(dead_letter(number), destination=destination) for number in numbers]
            await opened.outlet("a").commit(Commit(Cursor(1), None, letters))
    if not destination:
        with open_dead_letters(home) as kept:
            assert kept.retry(Selection("a"), wanting("a")) == BLOCKS * LETTERS


def _flip(home: Path, block: int) -> None:
    """Flip a bit in the content of a block wherever it is in the file: pages also have remains of what was moved. block:
    the id of the first letter in it."""
    database = JournalDatabase.open(home)
    content: bytes = database.db.execute("SELECT content FROM dead_letter_blocks WHERE id = ?", (block,)).get
    database.close()
    whole = (home / FILE).read_bytes()
    assert content in whole
    middle = len(content) // 2
    changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    (home / FILE).write_bytes(whole.replace(content, changed))


@asynccontextmanager
async def _damaged(home: Path, destination: str, *blocks: int) -> AsyncIterator[Journal]:
    """An open journal in which these blocks are damaged."""
    await _kept(home, destination)
    for block in blocks:
        _flip(home, block * LETTERS + 1)
    async with journal(home) as opened:
        yield opened


async def _given(opened: Journal, destination: str, limit: int) -> list[str | None]:
    """The event ids of what waits, or is marked if there is no destination."""
    outlet = opened.outlet("a")
    found = await (outlet.waiting(destination, limit) if destination else outlet.retries(limit))
    assert all(each.body for each in found)
    return [each.event_id for each in found]


def _ids(*numbers: int) -> list[str]:
    return [f"id-{number}" for number in numbers]


@pytest.mark.parametrize("destination", ["topic", ""], ids=["waiting", "marked"])
@pytest.mark.parametrize("limit", [1, 3, 6])
async def test_sound_letters_behind_damaged_ones_are_given(tmp_path: Path, destination: str, limit: int) -> None:
    """As many as were asked for, in order. The damaged ones are kept, neither waiting nor marked, and counted once."""
    with capture_logs() as logs:
        async with _damaged(tmp_path, destination, 0) as opened:
            assert await _given(opened, destination, limit) == _ids(4, 5, 6, 7, 8, 9)[:limit]
            assert await _given(opened, destination, 100) == _ids(4, 5, 6, 7, 8, 9, 10, 11)
            assert await opened.outlet("a").destinations() == ({destination: 8} if destination else {})
            assert opened.count("dead_letters", sink="a", reason="damaged") == LETTERS
            assert {(each.cause, each.letters) for each in await opened.kept()} == {("damaged", 4), ("refused", 8)}
    told = [line for line in logs if line["event"] == "damaged dead letters set aside"]
    assert [(line["log_level"], line["sink"], line["count"]) for line in told] == [("error", "a", LETTERS)]
    damaged = dead_letters(tmp_path, "cause = 'damaged'")
    assert [(each.event_id, each.reason, each.destination, each.body) for each in damaged] == [
        (name, "damaged in the journal", "", b"") for name in _ids(0, 1, 2, 3)
    ]
    assert dead_letters(tmp_path, "retry AND cause = 'damaged'") == []


@pytest.mark.parametrize("destination", ["topic", ""], ids=["waiting", "marked"])
async def test_damaged_letters_between_sound_ones_cost_only_themselves(tmp_path: Path, destination: str) -> None:
    """What is read before them is not given twice, and what is behind them follows it."""
    async with _damaged(tmp_path, destination, 1) as opened:
        assert await _given(opened, destination, 4) == _ids(0, 1, 2, 3)
        assert opened.count("dead_letters", reason="damaged") == 0
        assert await _given(opened, destination, 6) == _ids(0, 1, 2, 3, 8, 9)
        assert opened.count("dead_letters", reason="damaged") == LETTERS


@pytest.mark.parametrize("destination", ["topic", ""], ids=["waiting", "marked"])
async def test_nothing_is_given_if_all_are_damaged(tmp_path: Path, destination: str) -> None:
    """And nothing waits then."""
    async with _damaged(tmp_path, destination, *range(BLOCKS)) as opened:
        assert await _given(opened, destination, 1) == []
        assert await opened.outlet("a").destinations() == {}
        assert opened.count("dead_letters", reason="damaged") == BLOCKS * LETTERS
    assert len(dead_letters(tmp_path)) == BLOCKS * LETTERS


@pytest.mark.parametrize("destination", ["topic", ""], ids=["waiting", "marked"])
async def test_a_delivery_goes_on_behind_damaged_letters(tmp_path: Path, destination: str) -> None:
    """A destination is not taken for open, and no retry waits for ever."""
    sink = FakeSink()
    async with _damaged(tmp_path, destination, 0) as opened:
        mapped_posts = MappedPosts(mapper(), opened.metrics, sinks=1)
        settings = DeliverySettings.model_validate({"max_records": 3})
        delivery = Delivery(
            "a", sink, False, settings, FilterSettings(), opened.outlet("a"), mapped_posts, opened.metrics,
            clock=FastClock(),
        )  # fmt: skip
        running = asyncio.create_task(delivery.run())
        await until_async(lambda: len(sink.bodies) == 8, "the sound ones are delivered")
        await until_async(lambda: not delivery.status.blocked, "nothing waits")
        delivery.stop()
        await asyncio.wait_for(running, DEADLINE)
        mapped_posts.close()
    assert sink.bodies == [dead_letter(number).body for number in range(LETTERS, BLOCKS * LETTERS)]
    assert [each.cause for each in dead_letters(tmp_path)] == ["damaged"] * LETTERS


def _large(number: int) -> DeadLetter:
    """A dead letter that takes some room although it is compressed."""
    return replace(dead_letter(number), body=b'{"n":"%s"}' % random.Random(number).randbytes(200).hex().encode())


@pytest.mark.slow
async def test_a_recovery_tells_what_became_of_dead_letters(tmp_path: Path) -> None:
    """Whichever page of the file is damaged, each one is recovered, set aside, or counted as lost, unless the number of
    them is what was lost."""
    home, number = tmp_path / "journal", 600
    async with journal(home) as opened:
        for first in range(0, number, 20):
            letters = [_large(each) for each in range(first, first + 20)]
            await opened.outlet("a").commit(Commit(Cursor(1), None, letters))
    _flip(home, 41)
    content = (home / FILE).read_bytes()
    pages = len(content) // PAGE_SIZE
    seen = set[str]()
    for page in range(pages):
        damaged = bytearray(content)
        damaged[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = random.Random(page).randbytes(PAGE_SIZE)
        shutil.rmtree(home)
        home.mkdir()
        (home / FILE).write_bytes(damaged)
        seen |= await _accounted(home, number)
    assert seen == {"recovered", "damaged", "lost", "unknown"}
    (home / FILE).write_bytes(random.Random(1).randbytes(len(content)))
    assert await _accounted(home, number) == {"unknown"}


async def _accounted(home: Path, number: int) -> set[str]:
    """Open a damaged journal that had so many dead letters. Returns what became of them, empty if nothing was found
    damaged."""
    with capture_logs() as logs:
        async with journal(home, tuning=Tuning(tick=3_600)) as opened:  # maintenance finds damage at once
            await opened.outlet("a").retries(1)
            await opened.kept()
            kept = {each.cause: each.letters for each in await opened.kept()}
            lost = opened.count("dead_letters_lost")
            assert opened.count("dead_letters", sink="a", reason="damaged") == kept.get("damaged", 0)
    told = [line for line in logs if line["event"] == "journal recovered"]
    if not told:
        return set()
    (line,) = told
    recovered, damaged = line["recovered_dead_letters"], line["damaged_dead_letters"]
    assert (recovered, damaged) == (kept.get("refused", 0), kept.get("damaged", 0))
    if line["lost_dead_letters"] == "unknown":
        assert lost == 0
        return {"unknown"}
    assert line["lost_dead_letters"] == lost == number - recovered - damaged
    return {what for what, count in [("recovered", recovered), ("damaged", damaged), ("lost", lost)] if count}
