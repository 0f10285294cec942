"""Probes of the file system."""

import tempfile
from pathlib import Path


def check_writable(directory: Path) -> None:
    """Check that files can be written in `directory`, without changing anything.

    If it doesn't exist, checks that its nearest existing parent is writable, so that it could be created.
    Raises OSError.
    """
    directory = directory.absolute()
    nearest = next(path for path in (directory, *directory.parents) if path.exists())
    tempfile.TemporaryFile(dir=nearest).close()
