"""Files and directories that other users can't read."""

import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_IMODE

import pytest

from sinks.shared.private import create_directory, create_file, open_file


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct, autouse=True)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever the umask is."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("wanted", "directory"), [(0o600, 0o700), (0o640, 0o750), (0o644, 0o755)])
def test_what_is_created_has_the_mode(tmp_path: Path, wanted: int, directory: int) -> None:
    """Directories, with all of their parents, can be listed by those who may read the files."""
    create_directory(tmp_path / "a" / "b", wanted)
    assert [mode(tmp_path / path) for path in ("a", "a/b")] == [directory, directory]
    for make in (open_file, create_file):
        path = tmp_path / "a" / make.__name__
        os.close(make(path, wanted))
        assert mode(path) == wanted


def test_it_is_private_by_default(tmp_path: Path) -> None:
    """For its owner alone."""
    create_directory(tmp_path / "a")
    os.close(open_file(tmp_path / "a" / "b"))
    assert (mode(tmp_path / "a"), mode(tmp_path / "a" / "b")) == (0o700, 0o600)


def test_what_exists_keeps_its_mode(tmp_path: Path) -> None:
    """Whoever made it decided who may read it."""
    directory, file = tmp_path / "a", tmp_path / "a" / "b"
    directory.mkdir()
    file.touch()
    directory.chmod(0o711)
    file.chmod(0o604)
    create_directory(directory)
    os.close(open_file(file))
    assert (mode(directory), mode(file)) == (0o711, 0o604)
    with pytest.raises(FileExistsError):
        create_file(file)


def test_a_file_in_the_place_of_a_directory_is_an_error(tmp_path: Path) -> None:
    """It stays."""
    (tmp_path / "a").touch()
    with pytest.raises(FileExistsError):
        create_directory(tmp_path / "a")
