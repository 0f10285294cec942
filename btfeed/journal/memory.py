"""A journal in memory: the shortest implementation of the contracts. Tests run on it; nothing survives the process.

It has as many partitions as it is told, and keeps every post. A post goes to the partition that its digest chooses.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from btfeed.journal.base import (
    ALL,
    LATEST,
    Backlog,
    Commit,
    Cursor,
    DeadLetter,
    Entry,
    JournalUnavailable,
    Kept,
    Move,
    Outlet,
    Selection,
    Wants,
)
from btfeed.journal.readmission import why_not
from btfeed.posts.post import Post, digest
from sinks.settings import Settings
from sinks.shared.clock import SYSTEM_CLOCK, Clock


class MemoryJournal:
    """See btfeed.journal.base.Journal. Opened again after `close`, it has what it had, as a durable one would."""

    def __init__(
        self,
        starts: Mapping[str, str],
        partitions: int = 1,
        max_occurrences: int = 100_000,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.starts = starts
        self.clock = clock
        self.entries: list[list[Entry]] = [[] for _ in range(partitions)]
        self.cursors: dict[tuple[str, int], tuple[Cursor, str | None]] = {}
        self.dead_letters = MemoryDeadLetters(self, max_occurrences)
        self.closed = asyncio.Event()
        self.grown = asyncio.Event()
        self.refusing: str | None = None
        self._paused: dict[str, int] = {}

    async def open(self) -> None:
        self.closed.clear()
        for sink, start in self.starts.items():
            self.add_sink(sink, start)

    def add_sink(self, sink: str, start: str = "oldest") -> None:
        """Give a sink that is new its cursors."""
        for partition, entries in enumerate(self.entries):
            first = Cursor(1 if start == "oldest" else len(entries) + 1)
            self.cursors.setdefault((sink, partition), (first, None))

    async def append(self, post: Post) -> bytes:
        self.check_open()
        return self.add(post)

    def add(self, post: Post) -> bytes:
        name = digest(post.body)
        entries = self.entries[name[-1] % len(self.entries)]
        entries.append(Entry(len(entries) + 1, post, name))
        self.grown.set()
        self.grown = asyncio.Event()
        return name

    async def add_dead_letter(self, dead_letter: DeadLetter) -> None:
        self.check_open()
        self.dead_letters.add(dead_letter)

    def outlets(self, sink: str) -> "MemoryOutlets":
        return MemoryOutlets(self, sink)

    def archive(self, begin: int, end: int) -> "MemoryArchive":
        """The posts received from `begin` to before `end`, in milliseconds since the epoch."""
        everything = [entry for entries in self.entries for entry in entries]
        return MemoryArchive([entry for entry in everything if begin <= entry.post.received < end])

    async def kept(self) -> Sequence[Kept]:
        self.check_open()
        groups: dict[tuple[str, str], list[DeadLetter]] = {}
        for each in self.dead_letters.select():
            groups.setdefault((each.sink, each.cause), []).append(each)
        return [Kept(*group, len(found), found[0].time) for group, found in groups.items()]

    async def paused(self) -> Mapping[str, int]:
        self.check_open()
        return dict(self._paused)

    async def pause(self, sink: str) -> None:
        self.check_open()
        self._paused.setdefault(sink, round(self.clock.time() * 1000))

    async def resume(self, sink: str) -> None:
        self.check_open()
        self._paused.pop(sink, None)

    async def reconfigure(self, settings: Settings, starts: Mapping[str, str], max_occurrences: int) -> None:
        self.check_open()
        self.starts = starts
        self.dead_letters.max_occurrences = max_occurrences
        for sink, start in starts.items():
            self.add_sink(sink, start)

    async def answer(self) -> None:
        self.check_open()

    async def close(self) -> None:
        self.closed.set()

    def check_open(self) -> None:
        if self.closed.is_set():
            raise JournalUnavailable("the journal is closed")


class MemoryOutlets:
    """See btfeed.journal.base.Outlets: all partitions, from open to close."""

    problem: str | None = None
    conflict = False

    def __init__(self, journal: MemoryJournal, sink: str) -> None:
        self._journal = journal
        self._sink = sink

    async def run(
        self, begin: Callable[[Outlet], Awaitable[None]], end: Callable[[Collection[Outlet]], Awaitable[None]]
    ) -> None:
        for partition in range(len(self._journal.entries)):
            await begin(MemoryOutlet(self._journal, self._sink, partition))
        await self._journal.closed.wait()

    async def left(self) -> Mapping[int, str] | None:
        return {}


class MemoryOutlet:
    """See btfeed.journal.base.Outlet."""

    def __init__(self, journal: MemoryJournal, sink: str, partition: int = 0) -> None:
        self.partition = partition
        self._journal = journal
        self._sink = sink

    async def cursor(self) -> tuple[Cursor, str | None]:
        return self._journal.cursors[self._sink, self.partition]

    async def read(self, seq: int, max_bytes: int) -> Sequence[Entry]:
        self._journal.check_open()
        found: list[Entry] = []
        for entry in self._journal.entries[self.partition][seq - 1 :]:
            max_bytes -= len(entry.post.body)
            if found and max_bytes < 0:
                break
            found.append(entry)
        return found

    async def wait(self, seq: int) -> None:
        while len(self._journal.entries[self.partition]) < seq:
            await self._journal.grown.wait()

    async def commit(self, commit: Commit) -> None:
        self._journal.check_open()
        known, _ = await self.cursor()
        self._journal.cursors[self._sink, self.partition] = max(known, commit.cursor), commit.state
        for dead_letter in commit.dead_letters:
            self._journal.dead_letters.add(dead_letter)
        self._journal.dead_letters.delete(commit.redelivered)
        for number, reason in commit.refused_again.items():
            self._journal.dead_letters.refuse_again(number, reason)
        for number, (destination, reason) in commit.waiting_again.items():
            self._journal.dead_letters.refuse_again(number, reason, destination)

    async def retries(self, limit: int) -> Sequence[DeadLetter]:
        self._journal.check_open()
        if self.partition:  # dead letters belong to no partition: the first one retries them
            return []
        marked = self._journal.dead_letters.marked
        return [kept for kept in self._journal.dead_letters.select(Selection(self._sink)) if kept.id in marked][:limit]

    async def destinations(self) -> Mapping[str, int]:
        return Counter(kept.destination for kept in self._waiting())

    async def waiting(self, destination: str, limit: int) -> Sequence[DeadLetter]:
        return [kept for kept in self._waiting() if kept.destination == destination][:limit]

    def _waiting(self) -> list[DeadLetter]:
        self._journal.check_open()
        if self.partition:
            return []
        return [kept for kept in self._journal.dead_letters.select(Selection(self._sink)) if kept.destination]

    async def backlog(self) -> Backlog:
        cursor, _ = await self.cursor()
        behind = self._journal.entries[self.partition][cursor.seq - 1 :]
        age = max(0.0, self._journal.clock.time() - behind[0].post.received / 1000) if behind else 0.0
        return Backlog(len(behind), age)

    async def find(self, received: int) -> int:
        self._journal.check_open()
        entries = self._journal.entries[self.partition]
        return next((entry.seq for entry in entries if entry.post.received >= received), len(entries) + 1)

    async def plan(self, seq: int) -> Move:
        self._journal.check_open()
        entries = self._journal.entries[self.partition]
        now, _ = await self.cursor()
        to = Cursor(min(max(seq, 1), len(entries) + 1))
        begun = 1 if now.ordinal else 0
        again, skipped = max(0, now.seq + begun - to.seq), max(0, to.seq - now.seq)
        return Move(self.partition, to, again, skipped, entries[0].post.received if entries else None)

    async def move(self, to: Cursor) -> None:
        self._journal.check_open()
        _, state = await self.cursor()
        self._journal.cursors[self._sink, self.partition] = to, state


class MemoryDeadLetters:
    """See btfeed.journal.base.DeadLetters. marked: ids of those to retry. max_occurrences: of a post that is retried."""

    def __init__(self, journal: MemoryJournal, max_occurrences: int) -> None:
        self.marked: set[int] = set()
        self._journal = journal
        self.max_occurrences = max_occurrences
        self._kept: dict[int, DeadLetter] = {}
        self._by_event: dict[tuple[str | None, str], int] = {}
        self._last_id = 0

    def add(self, dead_letter: DeadLetter) -> int:
        """Returns the id, that of the one already kept if the sink has this record."""
        event = dead_letter.event_id, dead_letter.sink
        if dead_letter.event_id is not None and (known := self._by_event.get(event, 0)) in self._kept:
            return known
        self._last_id += 1
        self._by_event[event] = self._last_id
        self._kept[self._last_id] = replace(dead_letter, id=self._last_id)
        return self._last_id

    def refuse_again(self, number: int, reason: str, destination: str = "") -> None:
        self.marked.discard(number)
        if number in self._kept:
            kept = self._kept[number]
            self._kept[number] = replace(
                kept,
                reason=reason,
                tries=kept.tries + 1,
                time=kept.time if kept.kind == "post" or (destination and kept.destination) else self._now(),
                destination=destination,
                cause="waiting" if destination else "refused" if kept.kind == "record" else kept.cause,
            )

    def select(self, selection: Selection = ALL) -> Iterator[DeadLetter]:
        return iter([kept for kept in self._kept.values() if selection.includes(kept)])

    def newest(self, limit: int, selection: Selection = ALL, before: int = LATEST) -> Sequence[DeadLetter]:
        found = [kept for kept in self.select(selection) if kept.id < before]
        return sorted(found, key=lambda kept: -kept.id)[:limit]

    def count(self, selection: Selection = ALL) -> int:
        return len(list(self.select(selection)))

    def retry(self, selection: Selection, sinks: Mapping[str, Wants]) -> int:
        return sum(self._retry(kept, sinks) for kept in self.select(selection))

    def _retry(self, kept: DeadLetter, sinks: Mapping[str, Wants]) -> bool:
        takers = kept.retried_by(sinks)
        if kept.kind == "post":
            self._append(kept)
        elif kept.sink and takers:
            self.marked.add(kept.id)
        elif takers:
            self.marked.update(self.add(replace(kept, sink=sink)) for sink in takers)
            self.delete([kept.id])
        return bool(takers)

    def _append(self, kept: DeadLetter) -> None:
        if why := why_not(kept, self.max_occurrences):
            self.refuse_again(kept.id, why)
        else:
            self._journal.add(Post(kept.body, self._now(), "dead-letter"))
            self.delete([kept.id])

    def delete(self, ids: Iterable[int]) -> None:
        for number in ids:
            self._kept.pop(number, None)
            self.marked.discard(number)

    def _now(self) -> int:
        return round(self._journal.clock.time() * 1000)


class MemoryArchive:
    """See btfeed.journal.base.Archive."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self.count = len(entries)

    def entries(self) -> Iterator[Entry]:
        return iter(self._entries)
