"""Writes the files of a report: each is there whole, or as it was before."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from btfeed.signals import cleaning


def replace(contents: Mapping[Path, bytes]) -> None:
    """Write files, all of them under other names beside them before the first takes its own: so if the disk is full, all
    are as before. Links are followed, permissions stay, and pipes and devices are written to. Raises OSError."""
    made: dict[Path, Path] = {}
    special = {path: content for path, content in contents.items() if path.exists() and not path.is_file()}
    with cleaning(lambda: _remove(made)):
        try:
            for path, content in contents.items():
                if path not in special:
                    made[path] = path.resolve().with_name(f".btfeed-{token_hex(8)}")
                    with _named(path):
                        _write(made[path], content, path)
                elif path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            for path, content in special.items():
                path.write_bytes(content)
            for path, other in made.items():
                with _named(path):
                    other.replace(path.resolve())
        finally:
            _remove(made)


def replace_own(contents: Mapping[Path, bytes], is_own: Callable[[Path], bool]) -> None:
    """The same, but a file that is there and not `is_own` is left as it is, with all others. Raises OSError."""
    for path in contents:
        if path.is_file() and path.stat().st_size and not is_own(path):
            why = "it is not of a report, and left as it is: take another folder"
            raise FileExistsError(errno.EEXIST, why, str(path))
    replace(contents)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make the folder, and wait until no other process is here with it: of two reports, it has all files of the later.
    Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes, old: Path) -> None:
    with path.open("xb") as file:
        if old.exists():
            os.close(os.open(old, os.O_WRONLY))  # one that must not be written is not replaced
            os.fchmod(file.fileno(), old.stat().st_mode & 0o7777)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # some file systems tell only now that they are full


def _remove(made: Mapping[Path, Path]) -> None:
    for other in made.values():
        other.unlink(missing_ok=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors have the name of the file that is wanted."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
