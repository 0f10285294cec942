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


@pytest.mark.parametrize("below", [".", "a/b"])
def test_a_symbolic_link_that_leads_nowhere_is_found(tmp_path: Path, below: str) -> None:
    """No directory can be made in its place. One that leads to a directory is as good as that."""
    (tmp_path / "target").mkdir()
    (tmp_path / "good").symlink_to("target")
    check_writable(tmp_path / "good" / below)
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(NotADirectoryError, match=r"A symbolic link to something that does not exist: '.*/dangling'"):
        check_writable(tmp_path / "dangling" / below)
    (tmp_path / "one").symlink_to("other")
    (tmp_path / "other").symlink_to("one")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        check_writable(tmp_path / "one" / below)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "good", "one", "other", "target"]
