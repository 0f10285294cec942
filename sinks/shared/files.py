"""Probes of the file system."""

import errno
import tempfile
from pathlib import Path


def check_writable(directory: Path) -> None:
    """Check that files can be written in `directory`, without changing anything.

    If it doesn't exist, checks that its nearest existing parent is writable, so that it could be created.
    Raises OSError.
    """
    directory = directory.absolute()
    nearest = next(path for path in (directory, *directory.parents) if _is_there(path))
    if not nearest.is_dir():
        fault = "Not a directory" if nearest.exists() else "A symbolic link to something that does not exist"
        raise NotADirectoryError(errno.ENOTDIR, fault, str(nearest))
    try:
        tempfile.TemporaryFile(dir=nearest.resolve()).close()  # through a link, the file would have a name for a moment
    except OSError as error:
        error.filename = str(nearest)  # instead of a random name in it
        raise


def _is_there(path: Path) -> bool:
    """Whether something has this name, if only a symbolic link. Raises OSError if that can't be known."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path.is_symlink()
    return True
