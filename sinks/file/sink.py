"""Files of records, as NDJSON or Avro object container files. Each record is there once, even after kill -9.

`NAME-20260131T120000Z-0001.ndjson.open` is being written, `NAME-20260131T120000Z-0001.ndjson` is finished: complete, and
never touched again. An atomic rename finishes a file.

Invariants
- A write appends to the open file, syncs it, and returns the file's name and length as the sink's state. The delivery
  loop saves the state with the cursor in one transaction, and then calls `saved`.
- `open` cuts the open file to the saved length. What is after it goes to an open file of its own first. Such a file, which
  the state does not name, is deleted when each record in it has been written again, as it is after a crash. Otherwise
  another journal wrote it, or a later state of this one, and it is finished: see `surplus`. The state counts how many of
  its records have come, so that a second crash does not matter.
- A file is finished only at the start of a write, when its whole length is saved. After a crash between the rename and
  the next save, `open` finds no file with the saved name, and starts a new one. A file that was started with other
  settings is finished by `open`.
- No name is given twice: the state has the number of the newest file, see names.
- A state is saved before the first record is written, so if there is no state at all, the journal is new. Open files then
  hold the only copy of their records, and are finished at once.
- If other processes have the sink, too (SinkContext.part), `open` and `leave` remove what was written after the saved
  state, see peers. `leave` finishes the file: another process goes on with one of its own. If the file in the state is not
  here, another process of our name may have it: the state keeps its length, and that process cuts and finishes it.
- The state has the directory. When it changes, `open` finishes the file in the old one, or leaves it there if that fails.
- What a failed append left is cut off before the next append.
- A file that another process has open is never cut, finished or removed: OpenFile holds a lock.
- Each write first checks that the path still leads to the file that is held. If another program deleted, moved, replaced
  or truncated it, the sink logs and counts how many records were in it, and starts a new file. `open` does the same for
  the file that the state names. The state lists the names of lost files: `open` finishes one that was brought back.
"""

import asyncio
import errno
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import structlog
from pydantic import Field, model_validator

from sinks.base import SinkContext, SinkType, WriteResult
from sinks.batch import Batch
from sinks.file import peers
from sinks.file.encoding import AVRO_CODECS, NDJSON_SUFFIXES, AvroEncoder, Encoder, NdjsonEncoder
from sinks.file.errors import sink_errors
from sinks.file.names import Names
from sinks.file.open_file import GONE, HELD, OPEN_SUFFIX, OpenFile, find, finish, is_held, remove, stat
from sinks.file.surplus import PATIENCE, Surplus, copy_rest
from sinks.settings import Place, Seconds, Settings, Size
from sinks.shared.files import check_writable
from sinks.shared.private import create_directory, sync_directory
from sinks.shared.reasons import explain_file

log = structlog.get_logger()

T = TypeVar("T")

_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EBUSY}
"""Errors that are no reason to leave a file: a disk is full, or another process has the file open."""
_SURPLUS_HINT = "another journal wrote it, or this one is an older copy. Some of its records may be in two files"
_MAX_LOST_NAMES = 20
"""Names of lost files in the state, which must be short to be kept in Kafka."""
_MAX_ELSEWHERE = 8
"""Names of files in the state that another process with the same name may still have."""


class FileSettings(Settings):
    """Records in files.

    directory        where to write files; created if it doesn't exist
    mode             who may read new files: "0600" btfeed's user, "0640" its group too, "0644" everyone
    format           `ndjson`: one JSON object per line; `avro`: object container files
    compression      for ndjson: none, gzip, zstd; for avro: none (or null), deflate, zstandard (or zstd)
    rotate_size      finish a file when it has this size
    rotate_interval  finish a file when it is this old
    """

    directory: Annotated[Place, Field(validate_default=True)] = "btfeed-data/files"
    mode: Literal["0600", "0640", "0644"] = "0600"
    format: Literal["ndjson", "avro"] = "ndjson"
    compression: Literal["none", "gzip", "zstd", "null", "deflate", "zstandard"] = "none"
    rotate_size: Annotated[Size, Field(ge=1)] = 256 * 2**20
    rotate_interval: Annotated[Seconds, Field(gt=0)] = 3600.0

    @model_validator(mode="after")
    def _compression_of_format(self) -> "FileSettings":
        known = NDJSON_SUFFIXES if self.format == "ndjson" else AVRO_CODECS
        if self.compression not in known:
            raise ValueError(f"{self.format} files can't have compression {self.compression!r}; use {', '.join(known)}")
        return self


class FileSink:
    """Writes one file at a time, on a thread of its own: a cancelled call has ended before the next one starts."""

    def __init__(self, settings: FileSettings, context: SinkContext) -> None:
        self._settings = settings
        self._clock = context.clock
        self._log = log.bind(sink=context.name)
        self._directory = Path(settings.directory)
        self._mode = int(settings.mode, 8)
        self._has_peers = bool(context.part)
        self._names = Names(context.name, context.part)
        self._encoder: Encoder = (
            NdjsonEncoder(settings.compression)
            if settings.format == "ndjson"
            else AvroEncoder(settings.compression, context)
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"sink-{context.name}")
        self._file: OpenFile | None = None
        self._state: str | None = None  # the last state that was returned
        self._saved_state: str | None = None  # the last state that the journal has saved
        self._flagged: Counter[str] = Counter()  # not returned in a result yet
        self._lost_names: list[str] = []  # open files that another program took, and may bring back
        self._elsewhere: dict[str, int] = {}  # saved lengths of open files that were not found here
        self._surplus: list[Surplus] = []
        self._patient_until = 0.0  # by the monotonic clock: then what is left of the surplus is finished

    async def open(self, state: str | None) -> None:
        await self._run(self._open, state)

    async def check(self) -> None:
        await self._run(check_writable, self._directory)

    async def write(self, batch: Batch) -> WriteResult:
        return await self._run(self._write, batch)

    def saved(self, state: str) -> None:
        self._saved_state = state

    async def leave(self, state: str) -> None:
        await self._run(self._leave, json.loads(state))

    async def close(self) -> None:
        """The open file keeps its name: the next `open` continues it."""
        await self._run(self._close)
        self._thread.shutdown(wait=False)

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        with sink_errors(self._directory):
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    # On the thread

    def _open(self, state: str | None) -> None:
        self._close()
        check_writable(self._directory)  # as `check` does
        create_directory(self._directory, self._mode)
        saved = json.loads(state) if state else {}
        self._state = self._saved_state = state
        self._flagged.clear()
        self._surplus = []
        self._patient_until = self._clock.monotonic() + PATIENCE
        path = self._recall(saved)
        if self._has_peers:
            self._names.series = self._names.series or peers.new_series()
        for known in (*self._names.open_files(self._directory), *([path] if path else [])):
            self._names.note(known.name)
        for other in self._others(path):
            if not saved or other.name in self._lost_names:
                event = "finishing an open file of unknown length; its last record may be incomplete"
                self._log.warning(event, file=str(other))
                finish(other)
            else:
                self._add_surplus(other, saved.get("surplus", {}).get(other.name, 0))
        if path:
            try:
                self._resume(path, saved["length"], saved["opened"], saved.get("records", 0))
            except OSError as error:
                if path.parent == self._directory or error.errno in _PASSING:
                    raise
                self._leave_open(path, saved["length"], saved.get("records", 0), explain_file(error))

    def _recall(self, saved: dict[str, Any]) -> Path | None:
        """Take over a state. Returns the path of the open file in it, if there is one: in another directory if the setting
        changed, and nobody moved the file."""
        self._names.series, self._lost_names = saved.get("series", ""), saved.get("lost", [])
        self._names.number = max(self._names.number, saved.get("number", 0))
        self._elsewhere = saved.get("elsewhere", {})
        if not saved.get("file"):
            return None
        name: str = saved["file"]
        here, there = self._directory / name, Path(saved.get("directory") or self._directory) / name
        found, same = find(there), find(here)
        return here if same and (not found or os.path.samestat(found, same)) else there

    def _others(self, saved: Path | None) -> Iterator[Path]:
        """The open files beside the saved one, without those that another process has open."""
        for other in self._names.open_files(self._directory):
            if other == saved or self._is_settled(other):
                continue
            if is_held(other):
                self._log.warning("open file left to the process that has it open", file=str(other), hint=HELD)
            else:
                yield other

    def _resume(self, path: Path, length: int, opened: float, records: int) -> None:
        """Continue with the file that the state names, unless it was finished since. records: 0 if unknown."""
        if not stat(path):
            final = path.with_name(path.name.removesuffix(OPEN_SUFFIX))
            if self._has_peers and not final.exists():
                self._note_elsewhere(path, length)
                self._log.info("open file is gone, probably finished by an earlier run and moved since", file=str(path))
            elif not final.exists():
                self._count_loss(path, f"{GONE}. If it had been finished and moved, nothing is lost", records)
            elif (size := final.stat().st_size) < length:
                self._count_loss(final, f"it was truncated to {size} of {length} bytes", records)
            return
        moved = path.parent != self._directory  # the setting changed
        age = self._clock.time() - opened
        rest = self._settings.rotate_interval - age if age >= 0 else 0.0  # below 0: the clock was ahead then
        file = self._file = OpenFile(path, length, opened, self._clock.monotonic() + rest, records)
        self._check_open_file()
        if file.size > file.length and not self._has_peers:
            self._set_aside(file)
        suits = path.name.endswith(f".{self._encoder.suffix}{OPEN_SUFFIX}") and self._encoder.resume(file.head())
        if file.ended or moved or not suits:  # not `suits`: it was written with other settings, or with another schema
            self._finish()
        else:
            file.truncate()

    def _leave_open(self, path: Path, length: int, records: int, error: str) -> None:
        """Go on without the open file in the old directory, which fails. It is finished if the setting changes back."""
        self._close()
        self._note_elsewhere(path, length)
        hint = f"its first {length} bytes are delivered: cut it to that, and remove .open from its name"
        self._log.error("open file left in the old directory", file=str(path), error=error, records=records, hint=hint)
        self._flagged.update(left_files=1, left_records=records)

    def _note_elsewhere(self, path: Path, length: int) -> None:
        self._elsewhere = dict([*self._elsewhere.items(), (path.name, length)][-_MAX_ELSEWHERE:])

    def _leave(self, saved: dict[str, Any]) -> None:
        """Finish what is open of this part."""
        path = self._recall(saved)
        for other in self._others(path):
            self._log.warning("finishing an open file of another journal", file=str(other))
            finish(other)
        if path and stat(path):
            length = self._finish_left(path, saved["length"])
            if length < saved["length"]:
                self._count_loss(path, f"it was truncated to {length} of {saved['length']} bytes", saved.get("records", 0))

    def _is_settled(self, other: Path) -> bool:
        """Cut and finish a file that another process with our name could not find, and remove one that was begun after our
        last saved state. False if `other` is neither."""
        if other.name in self._elsewhere:
            self._finish_left(other, self._elsewhere[other.name])
            del self._elsewhere[other.name]
        elif other.name not in self._lost_names and peers.is_of(self._names.series, other):
            remove(other)
        else:
            return False
        return True

    def _finish_left(self, path: Path, saved: int) -> int:
        """Finish an open file at its saved length, or what there is of that. Returns the length."""
        length = min(saved, path.stat().st_size)
        finish(path, length)
        self._log.info("open file finished at its saved length", file=str(path), length=length)
        return length

    def _set_aside(self, file: OpenFile) -> None:
        """Copy what is after the length of `file` to an open file of its own."""
        suffix = self._names.format_of(file.path) or self._encoder.suffix
        path = self._names.new(self._directory, self._clock.time(), suffix)
        copy_rest(file, path, self._mode)
        self._add_surplus(path, 0)

    def _add_surplus(self, path: Path, seen: int) -> None:
        surplus = Surplus(path, seen)
        if surplus.unseen:
            self._log.info("open file kept until its records are written again", file=str(path), records=surplus.unseen)
        self._surplus.append(surplus)

    def _settle_surplus(self, late: bool) -> None:
        """Delete what was written again and, if it is `late`, finish what does not come again."""
        for surplus in list(self._surplus):
            path, records = surplus.path, surplus.unseen
            if not records and surplus.is_comparable:
                path.unlink(missing_ok=True)
                sync_directory(path.parent)
            elif not stat(path):
                self._count_loss(path, GONE, records)
            elif late or not surplus.is_comparable:
                finish(path)
                event = "open file finished whose records were not written again"
                self._log.warning(event, file=str(path), records=records, hint=_SURPLUS_HINT)
                self._flagged.update(surplus_files=1, surplus_records=records)
            else:
                continue
            self._surplus.remove(surplus)

    def _note_written(self, ids: Collection[str]) -> None:
        """These records are durable in the open file."""
        before = sum(surplus.unseen for surplus in self._surplus)
        for surplus in self._surplus:
            surplus.written(ids)
        if sum(surplus.unseen for surplus in self._surplus) < before:
            self._patient_until = self._clock.monotonic() + PATIENCE
        with suppress(OSError):  # else the next write tries again
            self._settle_surplus(self._clock.monotonic() >= self._patient_until)

    def _write(self, batch: Batch) -> WriteResult:
        self._check_open_file()
        file = self._file
        if file and (file.ended or (self._is_due(file) and self._saved_state == self._state)):
            self._finish()
        self._settle_surplus(not len(batch) and self._clock.monotonic() >= self._patient_until)
        refused: dict[int, str] = {}
        if len(batch):
            if self._file is None:
                self._file = self._create()
            parts, refused = self._encoder.encode(batch)
            self._file.append(parts)
            self._file.records += len(batch) - len(refused)
            if self._surplus:
                self._note_written([each for index, each in enumerate(batch.ids) if index not in refused])
            self._log.debug("batch written", file=self._file.path.name, records=len(batch), length=self._file.length)
        return self._result(refused)

    def _result(self, refused: dict[int, str]) -> WriteResult:
        flagged, self._flagged = dict(self._flagged), Counter()
        saved: dict[str, Any] = {"file": None}
        due = []
        if file := self._file:
            saved = {"file": file.path.name, "directory": str(self._directory.absolute())}
            saved |= {"length": file.length, "opened": file.opened, "records": file.records}
            due.append(self._clock.monotonic() if self._is_due(file) else file.due)
        if self._surplus:
            saved["surplus"] = {surplus.path.name: surplus.seen for surplus in self._surplus if surplus.seen}
            waiting = all(surplus.unseen and surplus.is_comparable for surplus in self._surplus)
            due.append(self._patient_until if waiting else 0.0)
        if self._names.series:
            saved["series"] = self._names.series
        if self._names.number:
            saved["number"] = self._names.number
        if self._lost_names:
            saved["lost"] = self._lost_names
        if self._elsewhere:
            saved["elsewhere"] = self._elsewhere
        self._state = json.dumps(saved)
        again_after = max(0.0, min(due) - self._clock.monotonic()) if due else None
        return WriteResult(refused=refused, state=self._state, again_after=again_after, flagged=flagged)

    def _is_due(self, file: OpenFile) -> bool:
        """Whether to finish `file`."""
        return file.length >= self._settings.rotate_size or self._clock.monotonic() >= file.due

    def _check_open_file(self) -> None:
        """Let go of the open file if another program has changed it. What is left of it is to be finished."""
        file = self._file
        loss = file.loss() if file else None
        if file is None or loss is None:
            return
        self._count_loss(file.path, loss.what, file.records)
        if loss.left is None:
            self._close()
        else:
            file.length, file.ended = loss.left, True

    def _count_loss(self, path: Path, what: str, records: int) -> None:
        """Report that another program took the open file at `path`, which had that many records."""
        self._log.error("open file lost", file=str(path), what=what, records=records)
        self._lost_names = [*self._lost_names, path.name][-_MAX_LOST_NAMES:]
        self._flagged.update(lost_files=1, lost_records=records)

    def _create(self) -> OpenFile:
        create_directory(self._directory, self._mode)  # another program may have removed it
        now = self._clock.time()
        path = self._names.new(self._directory, now, self._encoder.suffix)
        file = OpenFile(path, 0, now, self._clock.monotonic() + self._settings.rotate_interval, mode=self._mode)
        try:
            sync_directory(self._directory)
            file.append([self._encoder.begin()])
        except BaseException as error:
            file.close()
            if isinstance(error, OSError):
                path.unlink(missing_ok=True)
            raise
        self._log.debug("file opened", file=path.name)
        return file

    def _finish(self) -> None:
        assert self._file
        self._file.finish()
        self._log.debug("file finished", file=self._file.path.name, length=self._file.length)
        self._close()

    def _close(self) -> None:
        if self._file:
            file, self._file = self._file, None
            file.close()


SINK = SinkType(FileSettings, FileSink, serial=True, delivery={"max_records": 20_000, "max_bytes": "20MiB"})
