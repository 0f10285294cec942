"""Room on the disk that the file sink takes before it writes a batch."""

import os
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest

from sinks.file import room
from sinks.file.open_file import OpenFile
from sinks.file.room import LEAST, take_room


@pytest.fixture
def file(tmp_path: Path) -> OpenFile:
    file = OpenFile(tmp_path / "a.ndjson.open", 0, mode=0o600)
    file.append([b"head\n"])
    return file


def taken(file: OpenFile) -> int:
    """Bytes of the disk that the file has. XFS takes some in advance by itself, and gives them back when it likes."""
    return file.path.stat().st_blocks * 512


def expected(file: OpenFile, size: int) -> int:
    """Bytes that taking room of this size adds: none where it is not done."""
    return size if room._is_on_ext4(file._descriptor) else 0


def test_the_file_stays_as_it_is(file: OpenFile) -> None:
    """Only the room is there, until the file is truncated to its length."""
    with closing(file):
        before = taken(file)
        take_room(file._descriptor, file.length, LEAST)
        assert file.path.read_bytes() == b"head\n"
        assert file.size == file.length == 5
        assert taken(file) >= before + expected(file, LEAST) - os.statvfs(file.path).f_frsize
        file.truncate()
        assert taken(file) <= before


def test_small_batches_take_none(file: OpenFile) -> None:
    """It would cost more than it saves."""
    with closing(file):
        before = taken(file)
        take_room(file._descriptor, file.length, LEAST - 1)
        assert taken(file) <= before


def test_it_is_only_done_on_ext4(file: OpenFile) -> None:
    """Btrfs, for one, does not compress what is written to such room."""
    with closing(file), mock.patch.object(room, "_EXT4", 0x9123683E):  # that of btrfs
        before = taken(file)
        take_room(file._descriptor, file.length, LEAST)
        assert taken(file) <= before


def test_a_failed_batch_gives_its_room_back(file: OpenFile) -> None:
    """Also the part of it that was not written."""
    with closing(file), mock.patch("os.pwritev", side_effect=OSError("no")):
        before = taken(file)
        with pytest.raises(OSError, match="no"):
            file.append([bytes(4 * LEAST)])
        assert taken(file) <= before
        assert file.path.read_bytes() == b"head\n"


def test_no_room_is_left_to_the_write(file: OpenFile) -> None:
    """It says what is missing. What can't be taken in advance may still be written."""
    with closing(file):
        take_room(file._descriptor, file.length, 2**60)
        take_room(-1, 0, LEAST)
        file.append([bytes(LEAST)])
        assert file.size == file.length == 5 + LEAST
