"""Whether a journal could be opened, found out without changing its files: a server may be running on it."""

import errno
import fcntl
import os
from pathlib import Path

import apsw

from btfeed.journal.base import JournalInUse, JournalUnavailable
from btfeed.journal.sqlite.database import DAMAGE, FILE, JournalDatabase
from sinks.shared.files import check_writable
from sinks.shared.reasons import explain_file

LOCK = "lock"
"""The file that a process locks while it has the journal."""
DAMAGED = "the journal's file is damaged; a start copies what can be read to a new file"


def check_journal(directory: Path) -> str:
    """Something worth knowing about the journal in `directory`, or an empty text.

    Raises JournalInUse, or JournalUnavailable if `open` would raise it.
    """
    note = ""
    try:
        check_directory(directory)
        JournalDatabase.check(directory)
    except DAMAGE:
        note = DAMAGED
    except apsw.Error as error:
        raise cant_open(directory, error) from None
    if _is_locked(directory / LOCK):
        raise in_use(directory)
    return note


def check_directory(directory: Path) -> None:
    """Raise JournalUnavailable unless the journal's files may be written in `directory`, or it may be made. A full disk
    is not a reason: an existing journal opens, and takes posts once there is room."""
    try:
        check_writable(directory)
        for path in (directory / name for name in (LOCK, FILE, f"{FILE}-wal", f"{FILE}-shm")):
            if path.exists() and not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise JournalUnavailable(f"can't use {directory}: {explain_file(error)}") from None


def cant_open(directory: Path, error: Exception) -> JournalUnavailable:
    return JournalUnavailable(f"can't open the journal in {directory}: {error}")


def in_use(directory: Path) -> JournalInUse:
    return JournalInUse(f"{directory} is in use by another btfeed")


def _is_locked(path: Path) -> bool:
    """Whether a process has locked this file."""
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
