"""Journals whose files are damaged, and whether each post is accounted for."""

import random
import shutil
from pathlib import Path

from btfeed.journal.base import Commit, Cursor
from btfeed.journal.sqlite.database import FILE
from tests.journal.journals import Journal, dead_letter, fill, journal

SIZES = (100, 700, 5_000, 40_000)
"""Bytes of the posts, in turn."""


async def write_journal(directory: Path, posts: int = 300, log: bool = False) -> list[bytes]:
    """Create a journal of that many posts, which one sink has read half of and another all; returns the bodies. log: as it
    is after kill -9, with the newest posts in the write-ahead log."""
    home = directory.with_name(f"{directory.name}-original")
    async with journal(home, ("a", "b")) as opened:
        bodies = [body for n in range(posts) for body in await fill(opened, [n], SIZES[n % len(SIZES)])]
        await opened.outlet("a").commit(Commit(Cursor(posts // 2, 3), "half-way", [dead_letter(1), dead_letter(2)]))
        await opened.outlet("b").commit(Commit(Cursor(posts + 1), "at the end"))
        if log:
            shutil.copytree(home, directory)
    if not log:
        shutil.copytree(home, directory)
    return bodies


async def accounted(opened: Journal, written: list[bytes]) -> list[bytes]:
    """Read all posts. Each one written is read in order and once, or counted as damaged or lost. Returns what was read."""
    for _ in range(2):  # the first time finds the damage, and may lose what it had read before
        found = await opened.bodies()
        rest = iter(written)
        assert all(body in rest for body in found), "not what was written, or out of order, or twice"
    damaged, lost = opened.count("journal_damaged_posts"), lost_posts(opened)
    assert len(found) + damaged + lost == len(written), f"{len(found)} read, {damaged} damaged, {lost} lost"
    return found


def lost_posts(opened: Journal) -> int:
    """How many posts count as lost, delivered before or not."""
    return opened.count("journal_lost_posts") + opened.count("journal_lost_delivered")


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def garbage(path: Path, start: int, stop: int) -> None:
    overwrite(path, start, random.Random(1).randbytes(stop - start))


def change(directory: Path, body: bytes) -> None:
    """Flip bits of a body wherever it is in the file: pages also have remains of what was moved."""
    path = directory / FILE
    content = path.read_bytes()
    changed = content.replace(body[:90], body[:50] + bytes([body[50] ^ 0x55]) + body[51:90])
    assert changed != content
    path.write_bytes(changed)
