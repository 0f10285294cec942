"""What errors of the disk mean: whether they pass, or need a person."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sinks.base import Misconfigured, Unavailable
from sinks.shared.reasons import explain_file

_PERMANENT = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EBUSY,
}  # fmt: skip
"""Errors that stay until a person acts."""


@contextmanager
def sink_errors(directory: Path) -> Iterator[None]:
    """Turns OSError into a sink error: Misconfigured for missing permissions and the like, Unavailable for a full disk."""
    try:
        yield
    except OSError as error:
        kind = Misconfigured if error.errno in _PERMANENT else Unavailable
        raise kind(f"can't write to {directory}: {explain_file(error)}") from error
