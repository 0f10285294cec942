"""The only module that imports DuckDB, which is an extra: `pip install 'btfeed[flow]'`.

A database is in memory, and goes to a directory for what does not fit. It never loads an extension, so it needs no network.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from btfeed.flow.errors import EngineMissing, FlowError, MemoryMissing

if TYPE_CHECKING:
    import duckdb

Row = dict[str, Any]
MOST_MEMORY = 4 * 2**30
LEAST_MEMORY = 64 * 2**20
MEMORY_OF_A_THREAD = 64 * 2**20
"""DuckDB reads JSON with buffers of 32 MiB for each thread; the longest record has half of that."""


def identifier(name: str) -> str:
    """A name of a column or a table, in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text in SQL, for places where none can be bound."""
    return "'" + text.replace("'", "''") + "'"


class Database:
    """An empty database. Raises EngineMissing.

    memory  the most bytes to use; None: half of what is free, at most 4 GiB
    temp    where a directory for what does not fit is made; None: where the system's temporary files are
    """

    def __init__(self, memory: int | None = None, temp: Path | None = None) -> None:
        try:
            import duckdb
        except ImportError:
            raise EngineMissing from None
        self._duckdb = duckdb
        self._spill = tempfile.TemporaryDirectory(prefix="btfeed-flow-", dir=temp)
        limit = max(LEAST_MEMORY, min(free_memory() // 2, MOST_MEMORY) if memory is None else memory)
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{limit}B",
                "temp_directory": self._spill.name,
                "threads": min(len(os.sched_getaffinity(0)), limit // MEMORY_OF_A_THREAD),
                "preserve_insertion_order": False,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "allow_community_extensions": False,
            },
        )
        self.run("SET TimeZone = 'UTC'")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()
        self._spill.cleanup()

    def run(self, sql: str) -> "duckdb.DuckDBPyConnection":
        """Raises FlowError."""
        try:
            return self._connection.execute(sql)
        except self._duckdb.Error as error:
            raise _told(error) from error

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Raises FlowError."""
        result = self.run(sql)
        try:
            return result.fetchall()
        except self._duckdb.Error as error:
            raise _told(error) from error

    def dicts(self, sql: str) -> list[Row]:
        """Each row by the names of its columns. Raises FlowError."""
        rows = self.rows(sql)
        names = [column[0] for column in self._connection.description or ()]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def one(self, sql: str) -> Row:
        """The only row. Raises FlowError."""
        (row,) = self.dicts(sql)
        return row

    def run_counted(self, sql: str) -> int:
        """Runs a statement; returns how many rows of JSON files it has read. Raises FlowError.

        The statement itself can't count what it leaves out, and reading the files twice would take twice as long.
        """
        self.run("PRAGMA enable_profiling = 'no_output'")
        try:
            self.run(sql)
            profile = json.loads(self._connection.get_profiling_information(format="json"))
        finally:
            self.run("PRAGMA disable_profiling")
        return sum(int(node["rows_scanned"]) for node in _nodes(profile) if node.get("name") == "READ_JSON")


def _nodes(profile: Any) -> Iterator[Row]:
    """All operators of a profile."""
    if isinstance(profile, list):
        for each in profile:
            yield from _nodes(each)
    elif isinstance(profile, dict):
        yield profile
        for key in ("operator", "children"):
            yield from _nodes(profile.get(key, []))


def _told(error: Exception) -> FlowError:
    """What DuckDB says, in one line, with what to do where we know it."""
    text = str(error).partition("\n\nLINE")[0].partition("\n\nPossible solutions")[0]
    text = " ".join(text.split())
    if type(error).__name__ == "OutOfMemoryException":
        return MemoryMissing(f"not enough memory: raise --memory, or give --temp a directory with more space ({text})")
    return FlowError(text)


def free_memory() -> int:
    """Bytes that this process can take, as the machine and its control group say."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        limit = "max"
    if limit != "max":
        found.append(int(limit) - used)
    return max(0, min(found, default=2 * LEAST_MEMORY))


def listed(parts: Sequence[str], indent: str = "    ") -> str:
    """Columns of a SELECT, a line each."""
    return f",\n{indent}".join(parts)
