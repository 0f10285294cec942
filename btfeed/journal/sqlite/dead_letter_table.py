"""Every statement on dead letters.

dead_letters        one row each. Those of records point to a block for what is long; refused posts, and what an earlier
                    version kept, have their bodies in the row. `retry` is set by an operator
                    (btfeed/journal/sqlite/dead_letters.py) and cleared by the server. A letter with a `destination` is
                    retried by the server itself. The unique index on event and sink keeps a record once per sink
dead_letter_blocks  see dead_letter_block.py. A block has the id of the first letter in it, and goes with the last one
dead_letter_totals  how many letters there are, and the bytes that they take, by what they have in common. Triggers keep
                    the totals right, and delete empty blocks, whatever changes the letters (layout.py)
"""

import json
from collections.abc import Collection, Generator, Iterable, Mapping
from dataclasses import astuple
from math import ceil
from typing import Any, NamedTuple

import apsw

from btfeed.journal.base import DeadLetter, Kept
from btfeed.journal.sqlite.dead_letter_block import Block, Stored, blocks, clean, stored, transaction
from sinks.batch import Transaction

Value = str | int
WAITING = "destination <> '' AND sink = ?"
"""Holds for those of a sink that wait for a destination."""
UNREADABLE = "damaged in the journal"
"""The reason of a letter whose block is damaged. Its body is empty."""


class Group(NamedTuple):
    """What letters have in common that are counted together. kind: "block" for the blocks."""

    kind: str
    sink: str
    cause: str


class Total(NamedTuple):
    letters: int
    nbytes: int


class DeadLetterTable:
    """The dead letters of one open journal. Methods raise apsw.Error."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def insert(self, dead_letters: Iterable[DeadLetter], retry: Collection[int] = ()) -> None:
        """Add them, under their own ids if they have some. Ignores a record that its sink already has. retry: the ids of
        those that are marked."""
        self.insert_blocks(blocks(dead_letters), retry)

    def insert_blocks(self, new: Iterable[Block], retry: Collection[int] = ()) -> None:
        """The same with letters that are compressed already."""
        for block in new:
            first = block.letters[0].id or self._next_id()
            self._db.executemany(
                "INSERT OR IGNORE INTO dead_letters(id, kind, sink, reason, time, tries, retry, event_id, key, timestamp,"
                ' "transaction", body, destination, cause, block, place) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)',
                _rows(block, first, retry),
            )
            if block.content is not None:
                self._db.execute(
                    "INSERT INTO dead_letter_blocks SELECT ?1, ?2 WHERE EXISTS"
                    " (SELECT 1 FROM dead_letters WHERE id >= ?1 AND block = ?1)",
                    (first, block.content),
                )

    def select(
        self, where: str = "1", *values: Value, limit: int = -1, newest: bool = False
    ) -> Generator[DeadLetter, None, None]:
        """Those for which the SQL expression `where` holds, the oldest or the newest first. Damaged rows are read with
        defaults."""
        rows = self._db.execute(
            "SELECT id, CAST(kind AS BLOB), CAST(sink AS BLOB), CAST(reason AS BLOB), CAST(time AS INTEGER),"
            " CAST(body AS BLOB), CAST(tries AS INTEGER), CAST(event_id AS BLOB), CAST(key AS BLOB),"
            ' CAST(timestamp AS INTEGER), CAST("transaction" AS BLOB), CAST(destination AS BLOB), CAST(cause AS BLOB),'
            f" block, place FROM dead_letters WHERE {where} ORDER BY id {'DESC' if newest else ''} LIMIT {limit}",
            values,
        )
        opened, letters = 0, list[Stored]()
        for (
            number, kind, sink, reason, time, body, tries, event_id, key, timestamp, named, waits, cause, block, place,
        ) in rows:  # fmt: skip
            if block:
                if block != opened:
                    opened, letters = block, self._block(block)
                sound = isinstance(place, int) and 0 <= place < len(letters)
                why, where_to, when, what, content = letters[place] if sound else (UNREADABLE, "", 0, None, b"")
            else:
                why, where_to, when, what, content = "", text(key), timestamp or 0, _names(named), body or b""
            yield DeadLetter(
                "record" if kind == b"record" else "post", text(sink), text(reason) or why, time or 0, content, tries or 0,
                event_id and text(event_id), where_to, when, transaction(what), number, text(waits), text(cause),
            )  # fmt: skip

    def _block(self, number: int) -> list[Stored]:
        return stored(self._db.execute("SELECT CAST(content AS BLOB) FROM dead_letter_blocks WHERE id = ?", (number,)).get)

    def count(self, where: str = "1", *values: Value) -> int:
        """How many there are for which `where` holds."""
        return int(self._db.execute(f"SELECT count(*) FROM dead_letters WHERE {where}", values).get)

    def last_id(self) -> int:
        """The id of the newest, 0 if there is none."""
        return self._db.execute("SELECT max(id) FROM dead_letters").get or 0

    def _next_id(self) -> int:
        return int(self._db.execute("SELECT ifnull(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'dead_letters'").get)

    def marked(self) -> set[int]:
        """The ids of those that are marked for retry, without an index: it may be damaged."""
        return {number for (number,) in self._db.execute("SELECT id FROM dead_letters NOT INDEXED WHERE retry")}

    def mark(self, where: str, *values: Value) -> None:
        """Mark for retry those for which `where` holds."""
        self._db.execute(f"UPDATE dead_letters SET retry = 1 WHERE {where}", values)

    def refuse_again(self, refused: Mapping[int, str], now: int) -> None:
        """End retries that failed. refused: id -> why. Posts keep their time."""
        self._db.executemany(
            "UPDATE dead_letters SET retry = 0, destination = '', cause = iif(kind = 'record', 'refused', cause),"
            " tries = tries + 1, reason = ?, time = iif(kind = 'post', time, ?) WHERE id = ?",
            [(clean(reason), now, number) for number, reason in refused.items()],
        )

    def wait_again(self, waiting: Mapping[int, tuple[str, str]], now: int) -> None:
        """End retries of what waits now. waiting: id -> its destination, and why. What waited before keeps its time."""
        self._db.executemany(
            "UPDATE dead_letters SET retry = 0, destination = ?, cause = 'waiting', tries = tries + 1, reason = ?,"
            " time = iif(destination = '', ?, time) WHERE id = ?",
            [(destination, clean(reason), now, number) for number, (destination, reason) in waiting.items()],
        )

    def set_aside(self, ids: Iterable[int]) -> None:
        """Keep damaged ones for export only: they neither wait nor are marked any more."""
        self._db.executemany(
            "UPDATE dead_letters SET retry = 0, destination = '', cause = 'damaged', reason = ? WHERE id = ?",
            ((UNREADABLE, number) for number in ids),
        )

    def delete(self, ids: Iterable[int]) -> None:
        self._db.executemany("DELETE FROM dead_letters WHERE id = ?", ((number,) for number in ids))

    # Totals

    def totals(self) -> dict[Group, Total]:
        """Of each group, those that have a letter."""
        rows = self._db.execute(
            "SELECT CAST(kind AS BLOB), CAST(sink AS BLOB), CAST(cause AS BLOB), sum(letters), sum(bytes)"
            " FROM dead_letter_totals GROUP BY kind, sink, cause HAVING sum(letters) > 0"
        )
        return {
            Group(text(kind), text(sink), text(cause)): Total(int(letters), int(nbytes))
            for kind, sink, cause, letters, nbytes in rows
        }

    def letters(self) -> int:
        """How many letters there are, by their totals."""
        return sum(total.letters for group, total in self.totals().items() if group.kind != "block")

    def nbytes(self, kind: str | None = None) -> int:
        """Bytes that all take, or those of one kind without the blocks: rather more than less."""
        found = self._db.execute("SELECT sum(bytes) FROM dead_letter_totals WHERE ?1 IS NULL OR kind = ?1", (kind,)).get
        return int(found or 0)

    def kept(self) -> list[Kept]:
        """How many there are by sink and cause, and the oldest."""
        return [
            Kept(group.sink, group.cause, total.letters, self._oldest(group))
            for group, total in self.totals().items()
            if group.kind != "block"
        ]

    def _oldest(self, group: Group) -> int:
        """When the oldest of a group failed."""
        oldest = "SELECT min(id) FROM dead_letters WHERE kind = ? AND sink = ? AND cause = ?"
        return int(
            self._db.execute(f"SELECT CAST(time AS INTEGER) FROM dead_letters WHERE id = ({oldest})", group).get or 0
        )

    def destinations(self, sink: str) -> dict[str, int]:
        """Destinations that this sink's dead letters wait for -> how many."""
        statement = (
            f"SELECT CAST(destination AS BLOB), sum(letters) FROM dead_letter_totals WHERE {WAITING} AND letters > 0"
            " GROUP BY destination"
        )
        return {text(destination): number for destination, number in self._db.execute(statement, (sink,))}

    def evict(self, kind: str | None, max_bytes: int, max_letters: int) -> None:
        """Delete the oldest, of all or of one kind, until they take `max_bytes`, but `max_letters` at most."""
        where = "1" if kind is None else "kind = ?1"
        order = "id" if kind is None else "+id"  # +: by the index of kinds, not through all that are older
        while max_letters > 0 and (excess := self.nbytes(kind) - max_bytes) > 0:
            letters = sum(total.letters for group, total in self.totals().items() if kind in (None, group.kind))
            average = self.nbytes(kind) / max(1, letters)
            number = min(max_letters, ceil(excess / average))
            oldest = f"SELECT id FROM dead_letters WHERE {where} ORDER BY {order} LIMIT {number}"
            self._db.execute(f"DELETE FROM dead_letters WHERE id IN ({oldest})", (kind,) if kind else ())
            if not self._db.changes():
                return
            max_letters -= number


def _rows(block: Block, first: int, retry: Collection[int]) -> Iterable[tuple[Any, ...]]:
    for place, each in enumerate(block.letters):
        row = (each.id or None, each.kind, each.sink)
        then = (each.time, each.tries, each.id in retry, each.event_id)
        if block.content is None:
            named = json.dumps(astuple(each.transaction)) if each.transaction else None
            long = (each.key, each.timestamp, named, each.body, each.destination, each.cause, 0, 0)
            yield (*row, clean(each.reason), *then, *long)
        else:
            yield (*row, "", *then, "", 0, None, b"", each.destination, each.cause, first, place)


def text(value: bytes | None) -> str:
    """Stored text, with U+FFFD for bytes that are not UTF-8."""
    return str(value or b"", "utf-8", "replace")


def _names(value: bytes | None) -> Any:
    """The names of a transaction, None if they are not what was saved."""
    try:
        names = json.loads(value) if value else None
        return names and astuple(Transaction(*names))
    except (ValueError, TypeError):
        return None
