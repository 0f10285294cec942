"""The journal holds what AppMon sends, before privacy settings apply: other users can't read it."""

import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_IMODE

import pytest

from btfeed.journal.sqlite.database import FILE
from btfeed.journal.sqlite.layout import PAGE_SIZE
from tests.journal.journals import fill, journal


@pytest.fixture(autouse=True)
def no_umask() -> Iterator[None]:
    """The most generous one."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(directory: Path) -> dict[str, int]:
    return {path.name.partition(".damaged-")[0]: S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


def mode(path: Path) -> int:
    return S_IMODE(path.stat().st_mode)


async def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    """The file, its log, the lock, and the directories that were made for them; after a recovery also both files."""
    home = tmp_path / "new" / "journal"
    async with journal(home) as opened:
        await fill(opened, range(50))
        assert set(modes(home)) == {FILE, f"{FILE}-wal", f"{FILE}-shm", "lock"}
        assert set(modes(home).values()) == {0o600}
    assert (mode(home.parent), mode(home)) == (0o700, 0o700)
    with (home / FILE).open("r+b") as file:
        file.seek(PAGE_SIZE)
        file.write(bytes(PAGE_SIZE))
    async with journal(home) as opened:
        await fill(opened, [99])
        assert len(list(home.glob(f"{FILE}.damaged-*"))) >= 1
        assert set(modes(home).values()) == {0o600}


async def test_an_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    """Whoever made it decided who may list it."""
    home = tmp_path / "journal"
    home.mkdir(0o755)
    async with journal(home):
        assert mode(home) == 0o755
        assert set(modes(home).values()) == {0o600}
