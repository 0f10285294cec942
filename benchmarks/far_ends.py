"""The destinations of records: for each sink, its table in the configuration and how to count its records.

To measure another sink, add it to FAR_ENDS. Stages, whole server, growth and pictures find it there.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import real_servers
from benchmarks.far_end import FarEnd
from benchmarks.workshop import Child, Workshop
from tests.servers.installed import missing


class Lines:
    """Counts the lines of the files in a directory that have such names, while they grow and are renamed."""

    def __init__(self, directory: Path, names: str = "*ndjson*") -> None:
        self.directory = directory
        self._names = names
        self._read: dict[int, int] = {}  # inode -> how far
        self._lines = 0

    def size(self) -> int:
        """Bytes in all files."""
        return sum(status.st_size for _, status in self._files())

    def count(self) -> int:
        """Lines in all files. Each byte is read once, also over several calls."""
        for path, status in self._files():
            done = self._read.get(status.st_ino, 0)
            if status.st_size > done:
                with suppress(FileNotFoundError), path.open("rb") as file:  # if it was renamed, the next call counts it
                    file.seek(done)
                    while chunk := file.read(2**20):
                        self._lines += chunk.count(b"\n")
                    self._read[status.st_ino] = file.tell()
        return self._lines

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.directory.glob(self._names):
            with suppress(FileNotFoundError):
                yield path, path.stat()


@contextmanager
def file(workshop: Workshop, names: str = "*ndjson*") -> Iterator[FarEnd]:
    """NDJSON files of such names, on the disk with the system's temporary files."""
    lines = Lines(workshop.directory(), names)
    yield FarEnd({"file": {"type": "file", "directory": str(lines.directory)}}, lines.count, lines.size)


@contextmanager
def bizevents(workshop: Workshop) -> Iterator[FarEnd]:
    """A black hole that answers like Dynatrace's ingest API."""
    hole = workshop.black_hole("bizevents")
    table = {"type": "bizevents", "url": hole.said, "api_token": "dt0c01.BENCH.TOKEN"}
    yield swallowing(hole, "bizevents", table | {"max_age": "36500d"})  # the posts are from 2013


@contextmanager
def no_elasticsearch(workshop: Workshop) -> Iterator[FarEnd]:
    """A black hole that answers like Elasticsearch."""
    hole = workshop.black_hole("elasticsearch")
    yield swallowing(hole, "elasticsearch", {"type": "elasticsearch", "hosts": [hole.said]})


@contextmanager
def no_kafka(workshop: Workshop) -> Iterator[FarEnd]:
    """A black hole that answers like a broker of Kafka; every topic has one partition."""
    hole = workshop.black_hole("kafka")
    yield swallowing(hole, "kafka", {"type": "kafka", "bootstrap_servers": hole.said, "topic": "bench"})


def swallowing(hole: Child, name: str, table: Mapping[str, Any]) -> FarEnd:
    """The far end of a black hole."""
    before = taken(hole)

    def count() -> int:
        return taken(hole) - before

    return FarEnd({name: table}, count, count, {f"{name} black hole": hole.pid})


def taken(hole: Child) -> int:
    """How many records a black hole has taken."""
    return int(hole.ask(""))


Open = Callable[[Workshop], AbstractContextManager[FarEnd]]


@dataclass(frozen=True)
class FarEndKind:
    """open: makes the destination for the whole server. black_hole: makes the one for a sink's writes alone, which does no
    work and takes the same records again. missing: says why `open` can't work on this machine, or None."""

    open: Open
    black_hole: Open
    missing: Callable[[], str | None] = lambda: None


FAR_ENDS: dict[str, FarEndKind] = {
    "file": FarEndKind(file, file),
    "bizevents": FarEndKind(bizevents, bizevents),
    "kafka": FarEndKind(real_servers.kafka, no_kafka, lambda: missing("kafka")),
    "elasticsearch": FarEndKind(real_servers.elasticsearch, no_elasticsearch, lambda: missing("elasticsearch")),
}


def available() -> dict[str, FarEndKind]:
    """Those that this machine has."""
    return {name: entry for name, entry in FAR_ENDS.items() if not entry.missing()}


@contextmanager
def all_of(workshop: Workshop) -> Iterator[FarEnd]:
    """All available ones together."""
    with ExitStack() as stack:
        yield joined([stack.enter_context(entry.open(workshop)) for entry in available().values()])


def joined(ends: list[FarEnd]) -> FarEnd:
    """Several far ends as one."""
    sinks = {name: table for end in ends for name, table in end.sinks.items()}
    pids = {name: pid for end in ends for name, pid in end.pids.items()}
    return FarEnd(sinks, lambda: min(end.count() for end in ends), lambda: sum(end.progress() for end in ends), pids)


@contextmanager
def several_files(workshop: Workshop, number: int) -> Iterator[FarEnd]:
    """The far end of this many file sinks."""
    with ExitStack() as stack:
        ends = [stack.enter_context(file(workshop)) for _ in range(number)]
        for place, end in enumerate(ends):
            end.sinks = {f"file{place}": end.sinks["file"]}
        yield joined(ends)


def toml(sinks: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables in TOML."""
    return "\n".join(f"[sinks.{name}]\n" + "".join(_lines(table)) for name, table in sinks.items())


def _lines(table: Mapping[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        yield f"{key} = {_value(value)}\n"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
