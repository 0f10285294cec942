"""What a journal's check finds: whatever `open` would refuse, with the same words, and without changing anything."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from btfeed.journal.base import JournalInUse, JournalUnavailable
from btfeed.journal.sqlite.check import DAMAGED, check_journal
from btfeed.journal.sqlite.database import FILE, JournalDatabase
from btfeed.journal.sqlite.layout import APPLICATION, VERSION
from tests.journal.journals import journal, post

NEWER = f"PRAGMA user_version={VERSION + 1}; PRAGMA application_id={APPLICATION + VERSION + 1}"


def tree(directory: Path) -> dict[str, tuple[int, ...]]:
    """Everything below `directory` with inode, size and time of the last change. The log's index is memory that all who
    read a journal share: only whether it is there counts."""
    found = {str(path): path.lstat() for path in directory.rglob("*")}
    return {
        path: (stat.st_ino,) if path.endswith("-shm") else (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        for path, stat in found.items()
    }


async def refused(directory: Path) -> str:
    """What both the check and `open` say."""
    before = tree(directory.parent)
    with pytest.raises(JournalUnavailable) as checked:
        check_journal(directory)
    assert tree(directory.parent) == before
    with pytest.raises(JournalUnavailable) as opened:
        async with journal(directory):
            pass
    assert str(checked.value) == str(opened.value)
    return str(checked.value)


async def taken(directory: Path) -> str:
    """What the check says of a journal that opens."""
    before = tree(directory.parent)
    note = check_journal(directory)
    assert tree(directory.parent) == before
    async with journal(directory):
        pass
    return note


async def test_a_journal_that_would_open_is_fine(tmp_path: Path) -> None:
    """Whether it is new, or was closed, or left by a crash with everything in its write-ahead log."""
    assert await taken(tmp_path / "not" / "there") == ""
    async with journal(tmp_path / "a") as opened:
        await opened.append(post(1))
        shutil.copytree(tmp_path / "a", tmp_path / "crashed")
    assert await taken(tmp_path / "a") == ""
    assert (tmp_path / "crashed" / f"{FILE}-wal").stat().st_size > 0
    assert await taken(tmp_path / "crashed") == ""
    (tmp_path / "link").symlink_to("a")
    assert await taken(tmp_path / "link") == ""


async def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    """Also if it is still in the write-ahead log."""
    directory = tmp_path / "a"
    directory.mkdir()
    database = JournalDatabase.open(directory)
    database.db.execute(NEWER)
    shutil.copytree(directory, tmp_path / "crashed")
    database.close()
    layouts = f"layout {VERSION + 1}, this one supports {VERSION}"
    expected = f"the journal was written by a newer btfeed ({layouts}): upgrade btfeed"
    for place in (directory, tmp_path / "crashed"):
        assert await refused(place) == f"can't open the journal in {place}: {expected}"


async def test_a_journal_that_another_process_has_is_in_use(tmp_path: Path) -> None:
    """It goes on undisturbed. A newer layout is said in any case: the next start would fail."""
    async with journal(tmp_path) as opened:
        for number in range(3):
            with pytest.raises(JournalInUse, match="is in use by another btfeed"):
                check_journal(tmp_path)
            await opened.append(post(number))
        with pytest.raises(JournalInUse):
            async with journal(tmp_path):
                pass
        other = apsw.Connection(str(tmp_path / FILE))
        other.execute(NEWER)
        with pytest.raises(JournalUnavailable, match="newer btfeed"):
            check_journal(tmp_path)
        other.close()


def no_header(path: Path) -> None:
    path.write_bytes(b"x" * 60 + path.read_bytes()[60:])


def no_file(path: Path) -> None:
    path.with_name(f"{FILE}-wal").write_bytes(b"x")
    path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("damage", [no_header, no_file])
async def test_a_damaged_journal_is_no_failure(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """It opens, and is recovered. The check says so."""
    async with journal(tmp_path / "a"):
        pass
    damage(tmp_path / "a" / FILE)
    assert await taken(tmp_path / "a") == DAMAGED


@pytest.mark.parametrize("name", ["file", "file/below", "dangling", "dangling/below", "loop", "loop/below", "x" * 300])
async def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path, name: str) -> None:
    """A file or a symbolic link to nowhere in its place, or a name that is too long."""
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    assert (await refused(tmp_path / name)).startswith(f"can't use {tmp_path / name}: ")


async def test_a_file_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a start by root. It is named."""
    async with journal(tmp_path / "a"):
        pass
    for name in ("lock", FILE):
        monkeypatch.setattr(os, "access", lambda path, *_, name=name, **__: path.name != name)
        assert await refused(tmp_path / "a") == (f"can't use {tmp_path / 'a'}: {tmp_path / 'a' / name}: Permission denied")


async def test_a_full_disk_does_not_keep_a_journal_from_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes posts once there is room. Other errors count."""
    async with journal(tmp_path / "a"):
        pass

    def fail(*arguments: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    number = errno.ENOSPC
    assert await taken(tmp_path / "a") == ""
    number = errno.EROFS
    assert "Read-only file system" in await refused(tmp_path / "a")
