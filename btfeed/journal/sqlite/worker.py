"""What the journal's thread calls: group commits and reads on the ledger, and what is done when they fail.

- Whatever waits when the thread comes round is one transaction (group commit), so that one fsync serves all of it.
- The disk refuses a write (full, EIO, read-only): the transaction fails, and the next ones at once, until a probe of log
  and file has succeeded. That is tried at every tick on the same connection, where SQLite writes again all that a failed
  fsync may have dropped, and then on a new one. Reading goes on meanwhile, so that sinks do.
- The file is damaged, or a part of it has been unreadable for UNREADABLE seconds: what can be read is carried over into a
  new one, and the old one is set aside (btfeed/journal/sqlite/recovery.py). It is never a reason not to start.
- A log that is found at start is written again before it is trusted: an fsync may have failed before.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import apsw
import structlog

from btfeed.journal.base import JournalError, JournalUnavailable
from btfeed.journal.sqlite.database import DAMAGE, JournalDatabase
from btfeed.journal.sqlite.post_log import PostLog
from btfeed.journal.sqlite.recovery import finish, salvage
from btfeed.posts.post import Post
from btfeed.telemetry.metrics import Metrics

log = structlog.get_logger()

T = TypeVar("T")
Work = Post | Callable[[PostLog], Any]
"""A post to append, or something else to be done in the transaction."""

UNREADABLE = 60.0
"""Seconds after which a part of the file that can't be read counts as damaged; the least time between two salvages."""
_READ_ERRORS = (apsw.SQLITE_IOERR_READ, apsw.SQLITE_IOERR_SHORT_READ, apsw.SQLITE_IOERR_CORRUPTFS)


class JournalWorker:
    """A ledger, and its recovery. Methods but `refusing` belong to the journal's thread."""

    def __init__(self, directory: Path, ledger: PostLog, metrics: Metrics, vfs: str | None) -> None:
        self.ledger = ledger
        self._directory = directory
        self._metrics = metrics
        self._vfs = vfs
        self._broken: str | None = None  # why nothing can be written
        self._read_errors = (0.0, 0.0)  # when they began, and when the last was seen
        self._next_salvage = 0.0

    @property
    def broken(self) -> str | None:
        """Why nothing can be written."""
        return self._broken

    @property
    def refusing(self) -> str | None:
        """Why a post would not be taken now."""
        return self._broken or ("the journal is full" if self.ledger.missing_room else None)

    def open(self) -> None:
        """Raises apsw.Error or OSError."""
        finish(self._directory)
        try:
            self._take_up(rewrite_log=True)
        except DAMAGE as error:
            self._salvage(error)

    def write(self, works: Sequence[Work]) -> list[Any]:
        """Do all of `works` in one transaction. What became of each: what it returned, or a JournalError."""
        failure: JournalError
        try:
            if self._broken:
                raise JournalUnavailable(self._broken)
            return self._mending(lambda: self._commit_group(works))
        except JournalError as error:
            failure = error
        except apsw.Error as error:
            failure = self._fail(error)
        except Exception as error:  # noqa: BLE001 - logged as the bug that it is
            failure = _bug(error)
        return [failure] * len(works)

    def ask(self, question: Callable[[PostLog], T]) -> T | JournalError:
        """What `question` returns, or a JournalError."""
        try:
            return self._mending(lambda: question(self.ledger))
        except JournalError as error:
            return error
        except apsw.Error as error:
            self._metrics.journal_errors.inc()
            return JournalUnavailable(f"the journal can't be read: {error}")
        except Exception as error:  # noqa: BLE001 - logged as the bug that it is
            return _bug(error)

    def tick(self) -> bool:
        """Maintenance and recovery. True: there is more to do at once."""
        try:
            if self._broken:
                self._heal()
            return self._mending(self.ledger.maintain)
        except (apsw.Error, OSError) as error:
            if not self._broken:
                self._fail(error)
        except Exception as error:  # noqa: BLE001 - logged as the bug that it is
            _bug(error)
        return False

    def _commit_group(self, works: Sequence[Work]) -> list[Any]:
        started = time.perf_counter()
        with self.ledger.transaction():
            appended = iter(self.ledger.append([work for work in works if isinstance(work, Post)]))
            outcomes = [next(appended) if isinstance(work, Post) else work(self.ledger) for work in works]
        self._metrics.journal_commit_seconds.observe(time.perf_counter() - started)
        return outcomes

    # A disk that fails

    def _fail(self, error: Exception) -> JournalUnavailable:
        """Nothing is written until a probe succeeds."""
        self._metrics.journal_errors.inc()
        self._broken = f"the journal failed: {error}"
        log.error("the journal refuses posts until its disk works again", error=str(error))
        return JournalUnavailable(self._broken)

    def _heal(self) -> None:
        """Prove that the disk works again. Raises what is still wrong."""
        if not self.ledger.is_open:
            self.open()
        try:
            self.ledger.store.probe()
        except apsw.Error:  # it may have come back as another one, on which the old handles are of no use
            self._take_up(probe=True)
        self._broken = None
        log.info("the journal takes posts again")

    def _take_up(self, rewrite_log: bool = False, probe: bool = False, damaged: bool = False) -> None:
        """Open the store, and let the ledger have it."""
        store = JournalDatabase.open(self._directory, self._vfs)
        try:
            if rewrite_log:
                store.rewrite_log()
            if probe:
                store.probe()
            self.ledger.take_up(store, damaged)
        except BaseException:
            store.close()
            raise

    # A file that is damaged

    def _mending(self, action: Callable[[], T]) -> T:
        """What `action` returns. Where it finds the file damaged, that is mended, and it is tried again."""
        try:
            return action()
        except DAMAGE as error:
            self._salvage(error)
        except apsw.IOError as error:
            if not self._keeps_failing(error):
                raise
            self._salvage(error)
        return action()

    def _keeps_failing(self, error: apsw.IOError) -> bool:
        """A part of the file can't be read, and that is not over soon."""
        if getattr(error, "extendedresult", 0) not in _READ_ERRORS:
            return False
        now = time.monotonic()
        began, last = self._read_errors
        self._read_errors = (began if now - last < UNREADABLE / 2 else now, now)
        return now - self._read_errors[0] >= UNREADABLE

    def _salvage(self, error: apsw.Error) -> None:
        """Posts are refused meanwhile."""
        if time.monotonic() < self._next_salvage:
            raise error
        self._broken = f"the journal's file is damaged and being mended: {error}"
        self._metrics.journal_errors.inc()
        log.error("the journal's file is damaged", error=str(error))
        marks = self.ledger.marks
        if self.ledger.is_open:
            self.ledger.store.leave_as_it_is()
            self.ledger.close()
        try:
            found = salvage(self._directory, self._vfs, marks.first, marks.next)
        except OSError as worse:
            raise apsw.IOError(str(worse)) from worse
        self._next_salvage = time.monotonic() + UNREADABLE
        log.error(
            "the damaged file is set aside", file=str(found.damaged_file), carried_over=found.posts,
            set_aside=found.damaged_posts, lost=found.lost_posts,
        )  # fmt: skip
        self._metrics.journal_damaged_posts.inc(found.damaged_posts)
        self._metrics.dead_letters.labels(sink="", reason="damaged").inc(found.damaged_posts)
        self._metrics.journal_lost_posts.inc(found.lost_posts)
        self._take_up(damaged=True)
        self._broken = None


def _bug(error: Exception) -> JournalUnavailable:
    log.error("a bug in the journal", exc_info=error)
    return JournalUnavailable(f"the journal failed: {error!r}")
