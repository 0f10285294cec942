"""The probe that tells whether files can be written in a directory."""

import errno
import os
from pathlib import Path

import pytest

from sinks.shared.files import check_writable


def test_a_writable_directory_stays_as_it_is(tmp_path: Path) -> None:
    """And so does the parent of one that doesn't exist."""
    check_writable(tmp_path)
    check_writable(tmp_path / "not" / "there")
    assert list(tmp_path.iterdir()) == []


def test_a_relative_directory_is_one_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is for the sink and the journal."""
    monkeypatch.chdir(tmp_path)
    check_writable(Path("x"))
    Path("x").touch()
    with pytest.raises(NotADirectoryError):
        check_writable(Path("x"))


def test_what_keeps_it_from_being_written_is_raised(tmp_path: Path) -> None:
    """A file in its place, and a name that is too long."""
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        check_writable(tmp_path / "file" / "below")
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        check_writable(tmp_path / ("x" * 300))
