"""Where records go: one entry for each sink, with its table of the configuration and how its records are counted there.

To measure another sink, add its entry to FAR_ENDS; stages, whole server, growth and pictures take it from there.
"""

import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import real_servers
from benchmarks.far_end import FarEnd
from benchmarks.workshop import Workshop


class Lines:
    """Counts the lines of files that grow; reads each byte once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[int, int] = {}  # inode -> how far
        self._lines = 0

    def count(self) -> int:
        for path in self._directory.glob("*ndjson*"):
            inode = path.stat().st_ino
            with path.open("rb") as file:
                file.seek(self._read.get(inode, 0))
                while chunk := file.read(2**20):
                    self._lines += chunk.count(b"\n")
                self._read[inode] = file.tell()
        return self._lines


@contextmanager
def file(workshop: Workshop, **settings: Any) -> Iterator[FarEnd]:
    """NDJSON files, on the disk that holds the system's temporary files."""
    directory = workshop.directory()
    yield FarEnd({"file": {"type": "file", "directory": str(directory)} | settings}, Lines(directory).count)


@contextmanager
def bizevents(workshop: Workshop, **settings: Any) -> Iterator[FarEnd]:
    """A black hole that answers as Dynatrace's ingest API does."""
    hole = workshop.black_hole("bizevents")
    before = taken(hole.said)
    table = {"type": "bizevents", "url": hole.said, "api_token": "dt0c01.BENCH.TOKEN"}
    table |= {"max_age": "36500d"} | settings  # the posts are from 2013
    yield FarEnd({"bizevents": table}, lambda: taken(hole.said) - before, {"bizevents black hole": hole.pid})


def taken(url: str) -> int:
    """How many records a black hole has taken."""
    with urllib.request.urlopen(url + "/taken") as answer:
        return int(answer.read())


Open = Callable[[Workshop], AbstractContextManager[FarEnd]]


@dataclass(frozen=True)
class Entry:
    """open: makes it. missing: why it can't be had on this machine, None where it can. again: whether it takes a record
    that comes again, as those of a stage do; one that does not has its writes measured in benchmarks/bare.py."""

    open: Open
    missing: Callable[[], str | None] = lambda: None
    again: bool = True


FAR_ENDS: dict[str, Entry] = {
    "file": Entry(file),
    "bizevents": Entry(bizevents),
    "kafka": Entry(real_servers.kafka, lambda: real_servers.fetched("kafka-*")),
    "elasticsearch": Entry(real_servers.elasticsearch, lambda: real_servers.fetched("elasticsearch/*"), again=False),
}


def available() -> dict[str, Entry]:
    """Those that can be had here."""
    return {name: entry for name, entry in FAR_ENDS.items() if not entry.missing()}


@contextmanager
def all_of(workshop: Workshop) -> Iterator[FarEnd]:
    """All that are available, together."""
    with ExitStack() as stack:
        ends = [stack.enter_context(entry.open(workshop)) for entry in available().values()]
        yield joined(ends)


def joined(ends: list[FarEnd]) -> FarEnd:
    """Several as one."""
    sinks = {name: table for end in ends for name, table in end.sinks.items()}
    pids = {name: pid for end in ends for name, pid in end.pids.items()}
    return FarEnd(sinks, lambda: min(end.count() for end in ends), pids, max(end.patience for end in ends))


@contextmanager
def several_files(workshop: Workshop, number: int) -> Iterator[FarEnd]:
    """So many file sinks."""
    with ExitStack() as stack:
        ends = [stack.enter_context(file(workshop)) for _ in range(number)]
        for place, end in enumerate(ends):
            end.sinks = {f"file{place}": end.sinks["file"]}
        yield joined(ends)


def toml(sinks: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables as a configuration has them."""
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
