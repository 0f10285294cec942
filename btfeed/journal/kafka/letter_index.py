"""What is known of all dead letters and pauses in the topics, without bodies: about 500 bytes each. Does no I/O.

The index is the sum of all messages that were read, and depends on the order within each topic only: of the three topics,
one may be read ahead of the others.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Any

from btfeed.journal.base import Kept, Selection
from btfeed.journal.kafka import letter_messages as messages
from btfeed.journal.kafka.letter_messages import Outcome

Group = tuple[str, str]
"""Sink and cause."""
Waiting = tuple[str, int, str]
"""Sink, partition and destination."""


@dataclass(slots=True, eq=False)
class Entry:
    """A dead letter.

    key        of its message in PREFIX.dead-letters; of a post, where its outcome is kept
    offset     of its newest version in PREFIX.dead-letters; of a post, in PREFIX.refused
    size       bytes of that message
    partition  where it came from
    mark       marks for retry below this offset are not for it
    outcome    of a post that was refused again
    """

    id: int
    key: bytes
    offset: int
    size: int
    time: int
    sink: str
    cause: str
    destination: str = ""
    partition: int = 0
    mark: int = 0
    is_post: bool = False
    outcome: Outcome | None = None

    @property
    def group(self) -> Group:
        return self.sink, self.cause

    @property
    def waiting(self) -> Waiting:
        return self.sink, self.partition, self.destination


class LetterIndex:
    """nbytes: of the messages of all letters. paused: sink -> since when."""

    def __init__(self) -> None:
        self.by_key: dict[bytes, Entry] = {}
        self.nbytes = 0
        self.records = 0
        self.paused: dict[str, int] = {}
        self._by_id: dict[int, Entry] = {}
        self._ids: list[int] = []
        self._groups: dict[Group, list[int]] = {}
        self._waiting: dict[Waiting, list[int]] = {}
        self._marks: dict[bytes, int] = {}
        self._marked: dict[str, list[int]] = {}
        self._posts: dict[int, Entry] = {}
        self._outcomes: dict[int, tuple[str, Outcome]] = {}  # offset of a refused post -> its digest, what became of it

    # From the topics

    def add_letter(self, record: Any) -> Entry | None:
        """A message of PREFIX.dead-letters. Returns the letter of a record that it ends, None if there was none."""
        key, value = record.key or b"", record.value
        if messages.is_letter(key):
            return self._add_record(key, value, record)
        if (sink := messages.paused_by(key)) is not None:
            since = messages.decode_pause(value) if value else None
            if since is None:
                self.paused.pop(sink, None)
            else:
                self.paused[sink] = since
        elif post := messages.post_in(key):
            self._note_outcome(*post, messages.decode_outcome(value) if value else None)
        return None

    def add_refused(self, record: Any) -> None:
        """A message of PREFIX.refused."""
        digest = record.key or b""
        named, outcome = self._outcomes.get(record.offset, ("", None))
        if record.offset in self._posts or (outcome and outcome.gone and named == digest.hex()):
            return
        said = dict(record.headers)
        time = (said.get("time") or b"").decode(errors="replace")
        entry = Entry(
            messages.post_id(record.timestamp, record.offset), messages.post_key(record.offset, digest), record.offset,
            len(record.value or b""), int(time) if time.isascii() and time.isdecimal() else record.timestamp, "",
            intern((said.get("cause") or b"").decode(errors="replace")), is_post=True,
        )  # fmt: skip
        if outcome and named == digest.hex():
            entry.outcome = outcome
        self._posts[record.offset] = entry
        self._insert(entry)

    def add_mark(self, record: Any) -> None:
        """A message of PREFIX.retries."""
        key = record.key or b""
        self._unmark(key)
        self._marks[key] = record.offset
        self._mark(key)

    def drop_posts(self, before: int) -> list[Entry]:
        """Forget refused posts below this offset, and return those that were still kept."""
        gone = [entry for offset, entry in self._posts.items() if offset < before]
        for entry in gone:
            self._remove(entry)
        return gone

    def outcomes(self, before: int) -> list[bytes]:
        """Keys of what became of refused posts below this offset."""
        return [
            messages.post_key(offset, bytes.fromhex(digest))
            for offset, (digest, _) in self._outcomes.items()
            if offset < before
        ]

    def drop_marks(self, before: int) -> None:
        """Forget marks below this offset that are for no letter: all letters from before them were read."""
        for key in [key for key, offset in self._marks.items() if offset < before and key not in self.by_key]:
            del self._marks[key]

    # Questions

    def __len__(self) -> int:
        return len(self._ids)

    def get(self, number: int) -> Entry | None:
        return self._by_id.get(number)

    def find(self, selection: Selection) -> list[int]:
        """The ids of those that match, ascending."""
        if selection.ids:
            named: Iterable[int] = sorted(set(selection.ids) & self._by_id.keys())
        elif selection.sink is not None and selection.cause is not None:
            return self._groups.get((selection.sink, selection.cause), [])[:]
        elif selection == Selection():
            return self._ids[:]
        else:
            named = self._ids
        return [number for number in named if self._matches(self._by_id[number], selection)]

    def newest(self, selection: Selection, before: int) -> Iterator[Entry]:
        """Those that match and have a lower id than `before`, the newest first. The index must not change meanwhile."""
        exact = not selection.ids and selection.sink is not None and selection.cause is not None
        ids = self._groups.get((selection.sink or "", selection.cause or ""), []) if exact else self._ids
        for place in range(bisect_left(ids, before) - 1, -1, -1):
            entry = self._by_id[ids[place]]
            if self._matches(entry, selection):
                yield entry

    def count(self, selection: Selection) -> int:
        return len(self._ids) if selection == Selection() else len(self.find(selection))

    def kept(self) -> list[Kept]:
        return [Kept(sink, cause, len(ids), self._by_id[ids[0]].time) for (sink, cause), ids in self._groups.items()]

    def destinations(self, sink: str, partition: int) -> dict[str, int]:
        return {
            destination: len(ids)
            for (whose, where, destination), ids in self._waiting.items()
            if (whose, where) == (sink, partition)
        }

    def waiting(self, sink: str, partition: int, destination: str, limit: int) -> list[Entry]:
        """The oldest."""
        return self._first(self._waiting.get((sink, partition, destination), ()), limit)

    def marked(self, sink: str, limit: int) -> list[Entry]:
        """The oldest."""
        return self._first(self._marked.get(sink, ()), limit)

    def first_mark(self, sink: str) -> int | None:
        """The lowest offset of a mark of this sink, None if it has none."""
        entries = [self._by_id[number] for number in self._marked.get(sink, ())]
        return min((self._marks[entry.key] for entry in entries), default=None)

    def mark_after(self, entry: Entry) -> int:
        """What the next version of a letter has as its `mark`, to end the mark that is known."""
        return max(entry.mark, self._marks.get(entry.key, -1) + 1)

    def oldest_records(self, number: int) -> list[Entry]:
        found = (entry for each in self._ids if not (entry := self._by_id[each]).is_post)
        return [entry for entry, _ in zip(found, range(number), strict=False)]

    # Changes

    def _add_record(self, key: bytes, value: bytes | None, record: Any) -> Entry | None:
        """The letter that ends, if one does."""
        known = self.by_key.get(key)
        if known:
            self._remove(known)
        if value is None:
            return known
        head = messages.decode_head(value)
        if head is None:
            sink, event_id = messages.named_by(key)
            head = messages.Head(sink, event_id, messages.first_id(record.timestamp), record.timestamp, "damaged")
        entry = Entry(
            known.id if known else head.id, key, record.offset, len(value), head.time, intern(head.sink),
            intern(head.cause), intern(head.destination), head.partition, head.mark,
        )  # fmt: skip
        self._insert(entry)
        if self._marks.get(key, head.mark) < head.mark:
            del self._marks[key]
        self._mark(key)
        return None

    def _note_outcome(self, offset: int, digest: str, outcome: Outcome | None) -> None:
        if outcome is None:
            self._outcomes.pop(offset, None)
            return
        self._outcomes[offset] = digest, outcome
        entry = self._posts.get(offset)
        if entry and entry.key.endswith(f"/{digest}".encode()):
            if outcome.gone:
                self._remove(entry)
            else:
                entry.outcome = outcome

    def _insert(self, entry: Entry) -> None:
        while entry.id in self._by_id:  # two processes, one moment
            entry.id += 2
        self._by_id[entry.id] = self.by_key[entry.key] = entry
        self.nbytes += entry.size
        self.records += not entry.is_post
        insort(self._ids, entry.id)
        insort(self._groups.setdefault(entry.group, []), entry.id)
        if entry.destination:
            insort(self._waiting.setdefault(entry.waiting, []), entry.id)

    def _remove(self, entry: Entry) -> None:
        self._unmark(entry.key)
        del self._by_id[entry.id], self.by_key[entry.key]
        self.nbytes -= entry.size
        self.records -= not entry.is_post
        if entry.is_post:
            del self._posts[entry.offset]
        _discard(self._ids, entry.id)
        _discard_from(self._groups, entry.group, entry.id)
        if entry.destination:
            _discard_from(self._waiting, entry.waiting, entry.id)

    def _mark(self, key: bytes) -> None:
        """Note that the letter is marked, if it is. One that waits for a destination is retried by the outlet of its
        partition alone: of two outlets that deliver it, neither would know of the other."""
        entry = self.by_key.get(key)
        if entry and not entry.destination and self._marks.get(key, -1) >= entry.mark:
            insort(self._marked.setdefault(entry.sink, []), entry.id)

    def _unmark(self, key: bytes) -> None:
        entry = self.by_key.get(key)
        if entry and entry.sink in self._marked:
            _discard_from(self._marked, entry.sink, entry.id)

    def _first(self, ids: Sequence[int], limit: int) -> list[Entry]:
        return [self._by_id[number] for number in ids[:limit]]

    def _matches(self, entry: Entry, selection: Selection) -> bool:
        return (
            (selection.sink is None or entry.sink == selection.sink)
            and (not selection.ids or entry.id in selection.ids)
            and (selection.cause is None or entry.cause == selection.cause)
        )


def _discard(ids: list[int], number: int) -> None:
    place = bisect_left(ids, number)
    if place < len(ids) and ids[place] == number:
        del ids[place]


def _discard_from(groups: dict[Any, list[int]], name: Any, number: int) -> None:
    ids = groups.get(name, [])
    _discard(ids, number)
    if not ids:
        groups.pop(name, None)
