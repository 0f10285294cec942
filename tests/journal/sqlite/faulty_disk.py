"""A disk that can fail: a VFS for SQLite on top of the real one, whose writes and syncs fail on demand.

Like a kernel's page cache, it keeps writes apart until they are synced. A sync that fails drops what it should have made
durable, and the next one does not report it again. `after_power_loss` shows what the disk has.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

Interval = tuple[int, bytes]
_numbers = itertools.count()


class FaultyDisk(apsw.VFS):
    """A VFS with faults.

    fail   calls that fail ("write", "sync", "read", "open") -> SQLite's result code
    only   the end of the names of files that are affected
    bad    the inode of a file, and the range of its bytes that can't be read
    hits   how often each call failed
    calls  how often each call was made
    """

    def __init__(self) -> None:
        self.name = f"faulty-{next(_numbers)}"
        super().__init__(self.name, "")
        self.fail: dict[str, int] = {}
        self.only = ""
        self.bad: tuple[int, range] | None = None
        self.generation = 0
        self.hits: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._durable: dict[str, bytes] = {}
        self._dirty: dict[str, list[Interval]] = {}

    @contextmanager
    def failing(self, call: str, result: int, only: str = "") -> Iterator[None]:
        """Let `call` fail inside the block. Asserts that it did."""
        before = self.hits[call]
        self.fail, self.only = {call: result}, only
        try:
            yield
        finally:
            self.fail = {}
        assert self.hits[call] > before, f"no {call} failed"

    def meet(self, call: str, path: str) -> None:
        """Raise if this call is to fail now."""
        self.calls[call] += 1
        if call in self.fail and path.endswith(self.only):
            self.raises(call, self.fail[call])

    def raises(self, call: str, result: int) -> None:
        self.hits[call] += 1
        error = apsw.exception_for(result)
        error.args = (f"{call} fails",)
        error.extendedresult = result  # type: ignore[attr-defined]  # as SQLite reads it
        raise error

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        if name is None:  # a temporary file
            return super().xOpen(name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self.meet("open", path)
        return _File(self, path, name, flags)

    # The page cache

    def found(self, path: str) -> None:
        """A file is opened: what it has is durable."""
        if path not in self._durable:
            self._durable[path] = Path(path).read_bytes() if Path(path).exists() else b""
            self._dirty[path] = []

    def wrote(self, path: str, data: bytes, offset: int) -> None:
        self._dirty[path].append((offset, data))

    def synced(self, path: str) -> None:
        content = bytearray(self._durable[path])
        for offset, data in self._dirty[path]:
            content.extend(bytes(max(0, offset + len(data) - len(content))))
            content[offset : offset + len(data)] = data
        self._durable[path] = bytes(content[: Path(path).stat().st_size])
        self._dirty[path] = []

    def unsynced(self) -> int:
        """How many writes to logs are not durable yet."""
        return sum(len(writes) for path, writes in self._dirty.items() if path.endswith("-wal"))

    def dropped(self, path: str) -> None:
        """A sync failed: the pages count as clean, although the disk does not have them."""
        self._dirty[path] = []

    def deleted(self, path: str) -> None:
        self._durable.pop(path, None)

    def after_power_loss(self, source: Path, target: Path) -> Path:
        """Write what the disk has of the files in `source` to `target`."""
        target.mkdir()
        for path, content in self._durable.items():
            if Path(path).parent == source:
                (target / Path(path).name).write_bytes(content)
        return target

    def make_handles_stale(self) -> None:
        """Files that are open fail from now on, as after a device was removed. Reopened, they work."""
        self.generation += 1

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        super().xDelete(filename, syncdir)
        self.deleted(filename)


class _File(apsw.VFSFile):
    def __init__(self, disk: FaultyDisk, path: str, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        disk.found(path)
        super().__init__("", name, flags)
        self._disk = disk
        self._path = path
        self._inode = Path(path).stat().st_ino
        self._generation = disk.generation

    def _meet(self, call: str) -> None:
        if self._generation < self._disk.generation:
            self._disk.raises(call, apsw.SQLITE_IOERR)
        self._disk.meet(call, self._path)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        self._meet("read")
        if self._disk.bad and self._inode == self._disk.bad[0] and offset in self._disk.bad[1]:
            self._disk.raises("read", apsw.SQLITE_IOERR_READ)
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._meet("write")
        super().xWrite(data, offset)
        self._disk.wrote(self._path, bytes(data), offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        try:
            self._meet("sync")
        except apsw.Error:
            self._disk.dropped(self._path)
            raise
        self._disk.synced(self._path)
