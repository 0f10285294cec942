"""Files of reports are written whole, or stay as they were."""

import fcntl
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from btfeed.flow import files, svg_files, tables
from btfeed.flow.report import Report
from tests.flow.samples import report


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def without_room(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let the disk be full from one file on."""
    sync, calls = os.fsync, iter(range(1000))

    def full(descriptor: int) -> None:
        if next(calls) >= after:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else stays, and the error has the name of the file."""
    path = tmp_path / "a.json"
    path.write_text("old")
    without_room(monkeypatch, 0)
    with pytest.raises(OSError, match="No space left") as raised:
        files.replace({path: b"new"})
    assert raised.value.filename == str(path)
    assert contents(tmp_path) == {"a.json": b"old"}


@pytest.mark.parametrize("write", [tables.write, svg_files.write])
def test_a_full_disk_leaves_all_old_files_of_a_folder(
    write: Callable[[Report, Path], list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if there is room for some of the new ones."""
    write(report(), tmp_path)
    old = contents(tmp_path)
    without_room(monkeypatch, 2)
    with pytest.raises(OSError, match="No space left"):
        write(replace(report(), figures=replace(report().figures, times=()), splits={}, transitions=()), tmp_path)
    assert contents(tmp_path) == old


def test_a_file_keeps_its_permissions_and_its_links(tmp_path: Path) -> None:
    """One that must not be written is not replaced either; a device is written to."""
    path, link, locked = tmp_path / "a.txt", tmp_path / "link.txt", tmp_path / "locked.txt"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    files.replace({link: b"new", Path(os.devnull): b"new"})
    assert (link.is_symlink(), path.read_bytes(), path.stat().st_mode & 0o777) == (True, b"new", 0o640)
    locked.write_text("old")
    locked.chmod(0o444)
    if not os.access(locked, os.W_OK):  # as root, it can be written
        with pytest.raises(PermissionError):
            files.replace({locked: b"new"})
        assert locked.read_text() == "old"
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        files.replace({tmp_path / "folder": b"new", path: b"newer"})
    assert path.read_bytes() == b"new"
    assert {each.name for each in tmp_path.iterdir()} == {"a.txt", "link.txt", "locked.txt", "folder"}


def test_two_reports_into_one_folder_come_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder has all files of the later one, whatever they are."""
    later = replace(report(), splits={"city": report().splits["segment"]}, notes=("later",))
    alone = {path.name for path in tables.write(later, tmp_path / "alone")}
    second = threading.Thread(target=tables.write, args=(later, tmp_path / "both"))
    write = files.replace

    def meanwhile(written: Mapping[Path, bytes]) -> None:
        descriptor = os.open(tmp_path / "both", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
        if threading.current_thread() is threading.main_thread():
            second.start()
        write(written)

    monkeypatch.setattr(files, "replace", meanwhile)
    tables.write(report(), tmp_path / "both")
    second.join()
    assert {path.name for path in (tmp_path / "both").iterdir()} == alone
    assert (tmp_path / "both" / "notes.csv").read_text() == "note\nlater\n"


@pytest.mark.parametrize(("write", "name"), [(tables.write, "summary.csv"), (svg_files.write, "funnel.svg")])
def test_a_file_of_others_is_left_alone(write: Callable[[Report, Path], list[Path]], name: str, tmp_path: Path) -> None:
    """Though a report would have one of the same name. Nothing is written then."""
    (tmp_path / name).write_text("month,total\n1,2\n")
    with pytest.raises(FileExistsError, match="not of a report, and left as it is: take another folder"):
        write(report(), tmp_path)
    assert contents(tmp_path) == {name: b"month,total\n1,2\n"}
    (tmp_path / name).write_text("")
    assert write(report(), tmp_path) == write(report(), tmp_path)
