"""Runs jobs on the post log, and handles what goes wrong. Everything here is called by the journal's thread.

- All jobs that are waiting are done in one transaction (group commit), so that they share one fsync.
- If the disk refuses a write (full, I/O error, read-only), the transaction fails, and so do the next ones, at once, until a
  probe of log and file succeeds. Each tick probes, first on the same connection, where SQLite repeats everything that a
  failed fsync may have dropped, then on a new one. Reads continue, so that sinks are not held up.
- While another process is writing, jobs wait: that is no failure of the disk, whatever SQLite calls it.
- If the file is damaged, or part of it has been unreadable for `Tuning.unreadable` seconds, everything readable is moved to
  a new file and the old one is kept (btfeed/journal/sqlite/recovery.py). A damaged file never prevents a start. What
  found the damage is done again after it: a post that is refused is lost.
- A dying disk is not copied again and again: another recovery has to wait until `Tuning.unreadable` seconds after the last
  one. If the files were deleted, there is nothing to copy, and none to wait for.
- While the directory is away, moved or not mounted, there is nothing to recover: it is opened again when it is back.
- A write-ahead log found at start is rewritten before it is trusted, since an fsync may have failed before.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import apsw
import structlog

from btfeed.journal.base import JournalError, JournalUnavailable
from btfeed.journal.sqlite.appender import Appender
from btfeed.journal.sqlite.database import DAMAGE, FILE, LOCKED, JournalDatabase
from btfeed.journal.sqlite.positions import Snapshot
from btfeed.journal.sqlite.post_log import PostLog
from btfeed.journal.sqlite.recovery import Recovered, finish, is_anything_left, recover
from btfeed.journal.sqlite.settings import Tuning
from btfeed.posts.post import Post
from btfeed.telemetry.metrics import Metrics
from sinks.shared.clock import Clock

log = structlog.get_logger()

T = TypeVar("T")
Work = Post | Callable[[PostLog], Any]
"""A post to append, or something else to do in the transaction."""

_LOCKED = "the journal's file is locked by another process"
_LOCKED_PAUSE = 0.01
"""Seconds before a job is tried again. SQLite itself has usually waited for Tuning.lock_wait."""
_READ_ERRORS = (apsw.SQLITE_IOERR_READ, apsw.SQLITE_IOERR_SHORT_READ, apsw.SQLITE_IOERR_CORRUPTFS)


class JournalWorker:
    """`report` is called as soon as the journal breaks or has to wait: what follows may take long. `stopping` says whether
    the journal is to close, and jobs are not to wait any longer."""

    def __init__(
        self,
        directory: Path,
        post_log: PostLog,
        metrics: Metrics,
        vfs: str | None,
        tuning: Tuning,
        clock: Clock,
        report: Callable[[], object],
        stopping: Callable[[], bool],
    ) -> None:
        self._post_log = post_log
        self._directory = directory
        self._metrics = metrics
        self._vfs = vfs
        self._tuning = tuning
        self._clock = clock
        self._report = report
        self._stopping = stopping
        self._broken: str | None = None  # why nothing can be written
        self._damage: apsw.Error | None = None  # what a recovery is to mend
        self._locked: str | None = None  # why jobs are waiting
        self._read_errors = (-tuning.unreadable, -tuning.unreadable)  # when they began, and when the last was seen
        self._next_recovery = float("-inf")

    def snapshot(self) -> Snapshot:
        positions = self._post_log.positions
        refusing = self._broken or self._locked or ("the journal is full" if self._post_log.is_full else None)
        held_up = bool(self._broken or self._locked)
        cursors = dict(positions.cursors)
        return Snapshot(positions.last + 1, positions.next, positions.first, cursors, self._broken, refusing, held_up)

    def open(self) -> None:
        """Raises apsw.Error or OSError."""
        finish(self._directory)
        try:
            self._open_database(rewrite_log=True)
        except DAMAGE as error:
            if self._pause():
                self._damage = error
                raise
            self._recover(error)

    def close(self) -> None:
        self._post_log.close()

    def write(self, works: Sequence[Work], failed: apsw.Error | None = None) -> list[Any]:
        """Do all of `works` in one transaction. Returns what each returned, or a JournalError. failed: what the first
        attempt has raised, if somebody else has made it."""
        failure: JournalError
        errors = [failed] if failed else []

        def attempt() -> list[Any]:
            if errors:
                raise errors.pop()
            return self._commit_group(works)

        try:
            if self._broken:
                raise JournalUnavailable(self._broken)
            return self._when_unlocked(lambda: self._recovering(attempt))
        except JournalError as error:
            failure = error
        except apsw.Error as error:
            failure = self._fail(error)
        except Exception as error:  # noqa: BLE001 - logged as a bug
            failure = _bug(error)
        return [failure] * len(works)

    def lend(self, appender: Appender) -> None:
        """Let the appender use the connection if posts can be written."""
        if self._broken or not self._post_log.lend(appender):
            appender.refuse()

    def reclaim(self, appender: Appender) -> None:
        """Take the connection back."""
        found = appender.reclaim()
        if found:
            self._post_log.note_appended(*found)

    def ask(self, question: Callable[[PostLog], T]) -> T | JournalError:
        """What `question` returns, or a JournalError."""
        try:
            return self._recovering(lambda: question(self._post_log))
        except JournalError as error:
            return error
        except LOCKED as error:
            return JournalUnavailable(f"{_LOCKED}: {error}")
        except apsw.Error as error:
            self._metrics.journal_errors.inc()
            return JournalUnavailable(f"the journal can't be read: {error}")
        except Exception as error:  # noqa: BLE001 - logged as a bug
            return _bug(error)

    def tick(self) -> bool:
        """Maintenance and recovery. True if there is more to do at once."""
        self._measure_disk()
        try:
            if self._is_away() or (self._broken and not self._heal()):
                return False
            return self._recovering(self._post_log.maintain)
        except LOCKED:
            return False  # the next tick tries again
        except (apsw.Error, OSError) as error:
            if not self._broken:
                self._fail(error)
        except Exception as error:  # noqa: BLE001 - logged as a bug
            _bug(error)
        return False

    def _measure_disk(self) -> None:
        """Update the metrics of the disk, even while nothing can be written to it."""
        with suppress(OSError):
            disk = os.statvfs(self._directory)
            self._metrics.journal_free.set(disk.f_bavail * disk.f_frsize)
            self._metrics.journal_file.set(sum((self._directory / name).stat().st_size for name in (FILE, f"{FILE}-wal")))

    def _commit_group(self, works: Sequence[Work]) -> list[Any]:
        started = time.perf_counter()
        with self._post_log.transaction():
            appended = iter(self._post_log.append([work for work in works if isinstance(work, Post)]))
            outcomes = [next(appended) if isinstance(work, Post) else work(self._post_log) for work in works]
        seconds = time.perf_counter() - started
        self._metrics.journal_commit_seconds.observe(seconds)
        log.debug("commit done", jobs=len(works), seconds=seconds)
        return outcomes

    # Another process

    def _when_unlocked(self, action: Callable[[], T]) -> T:
        """What `action` returns, once no other process keeps the file locked."""
        try:
            while True:
                try:
                    return action()
                except LOCKED as error:
                    self._wait_for_lock(error)
        finally:
            self._locked = None

    def _wait_for_lock(self, error: apsw.Error) -> None:
        if self._stopping():
            raise JournalUnavailable(f"{_LOCKED}: {error}") from None
        if not self._locked:
            log.warning("journal locked by another process, waiting", error=str(error))
            self._locked = _LOCKED
            self._report()
        time.sleep(_LOCKED_PAUSE)

    # A failing disk

    def _fail(self, error: Exception) -> JournalUnavailable:
        """Refuse writes until the file is recovered, if it is damaged, or else until a probe succeeds."""
        if isinstance(error, apsw.Error) and self._is_damage(error):
            return JournalUnavailable(self._found_damage(error))
        why = self._refuse(f"the journal failed: {error}")
        log.error("journal failed, refusing posts", error=str(error))
        return JournalUnavailable(why)

    def _refuse(self, why: str) -> str:
        self._metrics.journal_errors.inc()
        self._broken = why
        self._report()
        return why

    def _heal(self) -> bool:
        """Prove that the disk works again, or recover the file. False if that has to wait. Raises what is still wrong."""
        if self._damage and self._pause():
            self._broken = self._postponed(self._damage)
            return False
        if not self._post_log.is_open:
            self.open()
        elif self._damage:
            self._recover(self._damage)
            return True
        try:
            self._post_log.database.probe()
        except apsw.Error:  # the disk may have been remounted, which leaves the old handles unusable
            self._open_database(probe=True)
        self._broken = self._damage = None
        log.info("journal works again")
        return True

    def _is_away(self) -> bool:
        """Whether the journal's directory is not there. Posts are then refused, and the files closed: nothing is lost."""
        if self._directory.is_dir():
            return False
        why = f"the journal's directory {self._directory} is not there: posts are refused until it is back"
        if self._broken != why:
            self._damage = None
            self._refuse(why)
            log.error("journal's directory is not there, refusing posts", directory=str(self._directory))
        if self._post_log.is_open:
            with suppress(apsw.Error):  # it may be on a disk that is gone
                self._post_log.database.checkpoint()
            self._post_log.database.keep_log_on_close()
            self._post_log.release()
        return True

    def _open_database(self, rewrite_log: bool = False, probe: bool = False, damaged: bool = False) -> None:
        database = JournalDatabase.open(self._directory, self._vfs, tuning=self._tuning)
        try:
            if rewrite_log:
                database.rewrite_log()
            if probe:
                database.probe()
            self._post_log.use(database, damaged)
        except BaseException:
            database.close()
            raise

    # A damaged file

    def _recovering(self, action: Callable[[], T]) -> T:
        """What `action` returns. If it finds the file damaged, recovers the file and runs `action` again."""
        try:
            return action()
        except apsw.Error as error:
            if not self._is_damage(error) or self._pause():
                raise
            self._recover(error)
        return action()

    def _is_damage(self, error: apsw.Error) -> bool:
        return isinstance(error, DAMAGE) or (isinstance(error, apsw.IOError) and self._keeps_failing(error))

    def _keeps_failing(self, error: apsw.IOError) -> bool:
        """Whether part of the file has been unreadable for long enough to count as damaged."""
        if getattr(error, "extendedresult", 0) not in _READ_ERRORS:
            return False
        now = self._clock.monotonic()
        began, last = self._read_errors
        self._read_errors = (began if now - last < self._tuning.unreadable / 2 else now, now)
        return now - self._read_errors[0] >= self._tuning.unreadable

    def _pause(self) -> float:
        """Seconds until the file may be recovered again, 0 if it may be now."""
        pause = max(0.0, self._next_recovery - self._clock.monotonic())
        return pause if pause and is_anything_left(self._directory) else 0.0

    def _postponed(self, error: apsw.Error) -> str:
        pause = self._pause()
        ago = self._tuning.unreadable - pause
        return f"the journal's file is damaged: {error}; recovered {ago:.0f} s ago, trying again in {pause:.0f} s"

    def _found_damage(self, error: apsw.Error) -> str:
        """Refuse writes until the file is recovered. Returns why."""
        self._damage = error
        if pause := self._pause():
            why = self._refuse(self._postponed(error))
            ago = round(self._tuning.unreadable - pause)
            log.error(
                "journal file damaged again, refusing posts", error=str(error), recovered_ago=ago, recovery_in=round(pause)
            )
        else:
            why = self._refuse(f"the journal's file is damaged and being recovered: {error}")
            log.error("journal file damaged", error=str(error))
        return why

    def _recover(self, error: apsw.Error) -> None:
        """Replace the damaged file. Posts are refused meanwhile."""
        if not self._damage:
            self._found_damage(error)
        self._broken = f"the journal's file is damaged and being recovered: {error}"
        self._report()
        copies = is_anything_left(self._directory)
        if self._post_log.is_open:
            self._post_log.database.keep_log_on_close()
            self._post_log.release()
        try:
            found = recover(self._directory, self._vfs, self._post_log.positions, self._post_log.sinks)
        except OSError as worse:
            raise apsw.IOError(str(worse)) from worse
        if copies:
            self._next_recovery = self._clock.monotonic() + self._tuning.unreadable
        self._tell(found)
        self._open_database(damaged=True)
        self._broken = self._damage = None

    def _tell(self, found: Recovered) -> None:
        """Log and count what a recovery found."""
        lost = found.lost_dead_letters
        log.error(
            "journal recovered", damaged_file=found.damaged_file and str(found.damaged_file), recovered_posts=found.posts,
            damaged_posts=found.damaged_posts, lost_posts=found.lost_posts,
            lost_delivered_posts=found.lost_delivered_posts, recovered_dead_letters=found.dead_letters,
            damaged_dead_letters=found.damaged_dead_letters.total(), lost_dead_letters="unknown" if lost is None else lost,
        )  # fmt: skip
        self._metrics.journal_damaged_posts.inc(found.damaged_posts)
        for sink, number in (found.damaged_dead_letters + Counter({"": found.damaged_posts})).items():
            self._metrics.dead_letters.labels(sink=sink, reason="damaged").inc(number)
        self._metrics.journal_lost_posts.inc(found.lost_posts)
        self._metrics.journal_lost_delivered.inc(found.lost_delivered_posts)
        self._metrics.dead_letters_lost.inc(lost or 0)


def _bug(error: Exception) -> JournalUnavailable:
    log.error("bug in the journal", exc_info=error)
    return JournalUnavailable(f"the journal failed: {error!r}")
