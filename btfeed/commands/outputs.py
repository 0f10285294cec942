"""Opens the files that a command writes, all or none of them, and no file that it also reads.

No output may be an input: it would be emptied before it is read, or grow for as long as it is read. A file can have several
names, so device and inode are compared, before anything is opened for writing.
"""

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, BinaryIO, cast

import typer

from btfeed.commands.terminal import fail
from btfeed.posts.files import STANDARD, PostFileError, check_writable

Identity = tuple[int, int] | Path
"""Device and inode, or the path of a file that does not exist yet."""


def check_name(out: Path, option: str = "--out") -> None:
    """Raises BadParameter unless post files have such names."""
    try:
        check_writable(out)
    except PostFileError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def open_outputs(
    outputs: Mapping[str, Path | None], inputs: Iterable[Path] = (), *, new: bool = False
) -> dict[str, BinaryIO]:
    """Open the outputs, named by their options, for writing.

    If one is an input or another output, or can't be opened, this ends the command, and all files are as before.

    new  a file must not exist yet
    """
    paths = {option: path for option, path in outputs.items() if path is not None}
    check_apart(paths, inputs)
    opened: dict[str, BinaryIO] = {}
    created: list[Path] = []
    for option, path in paths.items():
        exists = path == STANDARD or path.exists()
        try:
            opened[option] = _open(path, exclusive=new and not (exists and _is_special(path)))
        except BaseException as error:
            _undo(opened, created)
            if isinstance(error, OSError):
                fail(f"{path}: {error.strerror}")
            raise
        if not exists:
            created.append(path.resolve())
    for option, file in opened.items():
        if paths[option] != STANDARD and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.truncate(0)
    return opened


def files_in(directory: Path) -> list[Path]:
    """All files below a directory, such as those of a journal that is read."""
    return [path for path in directory.rglob("*") if path.is_file()]


def _open(path: Path, exclusive: bool) -> BinaryIO:
    """Open for writing, but leave what is in the file for now."""
    if path == STANDARD:
        if not _is_writable(sys.stdout):
            raise OSError(errno.EBADF, "standard output is closed")
        return sys.stdout.buffer
    return cast("BinaryIO", path.open("xb" if exclusive else "ab"))


def _is_writable(stream: IO[str]) -> bool:
    """Whether it was open when the process began: App opens it for reading otherwise."""
    try:
        return fcntl.fcntl(stream.fileno(), fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    except (OSError, ValueError):  # of a test, without a descriptor
        return True


def _is_special(path: Path) -> bool:
    """Whether it is a FIFO or a device: writing to it overwrites nothing."""
    return not path.is_file()


def _undo(opened: Mapping[str, BinaryIO], created: Iterable[Path]) -> None:
    for file in opened.values():
        if file is not sys.stdout.buffer:
            file.close()
    for path in created:
        path.unlink()


def check_apart(outputs: Mapping[str, Path], inputs: Iterable[Path]) -> None:
    """Raises BadParameter if an output is an input or another output.

    Standard output and error, which every command writes, count if they are files. Then each writer has a position of its
    own, and one overwrites the other.
    """
    read = {_identity(path, sys.stdin): "standard input" if path == STANDARD else str(path) for path in inputs}
    written: dict[Identity | None, str] = {}
    for option, path in outputs.items():
        identity = _identity(path, sys.stdout)
        if identity and identity in read:
            _reject(f"{path} is also read ({read[identity]})", option)
        if identity and identity in written:
            _reject(f"{path} is also written by {written[identity]}", option)
        written[identity] = option
    for name, stream in (("standard output", sys.stdout), ("standard error", sys.stderr)):
        identity = _identity(STANDARD, stream, files_only=True)
        if identity and identity in read:
            _reject(f"{name} goes to a file that is also read ({read[identity]})", "SOURCES")
        if identity and identity in written and not (stream is sys.stdout and outputs[written[identity]] == STANDARD):
            _reject(f"{outputs[written[identity]]} is also {name}", written[identity])


def _reject(what: str, option: str) -> None:
    raise typer.BadParameter(f"{what}: write to another file", param_hint=option)


def _identity(path: Path, stream: IO[str], files_only: bool = False) -> Identity | None:
    """What tells this file from others. None for terminals, sockets and devices like /dev/null, which several may use.

    stream      the one that `-` stands for
    files_only  None for pipes, too
    """
    try:
        status = os.fstat(stream.fileno()) if path == STANDARD else path.stat()
    except FileNotFoundError:
        return path.resolve()
    except (OSError, ValueError, AttributeError):  # no such stream, or an error that opening the file will report
        return None
    shared = (stat.S_ISCHR, stat.S_ISSOCK, *((stat.S_ISFIFO,) if files_only else ()))
    if any(is_kind(status.st_mode) for is_kind in shared):
        return None
    return status.st_dev, status.st_ino
