"""The dead letters of a SQLite journal as commands see them, on a connection of their own."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path

import apsw

from btfeed.journal.base import ALL, DeadLetter, JournalUnavailable, Selection
from btfeed.journal.sqlite.database import FILE, JournalDatabase
from btfeed.journal.sqlite.dead_letter_table import DeadLetterTable, Value

PIECE = 4 * 2**20
"""Bytes of bodies to read at a time: a read that lasts long keeps the server's write-ahead log growing."""


@contextmanager
def open_dead_letters(directory: Path) -> Iterator["SqliteDeadLetters"]:
    """The dead letters of the journal in `directory`. Raises JournalUnavailable."""
    if not (directory / FILE).exists():
        raise JournalUnavailable(f"no journal in {directory}")
    with _translated(directory), closing(JournalDatabase.open(directory, may_upgrade=False)) as database:
        yield SqliteDeadLetters(directory, database)


@contextmanager
def _translated(directory: Path) -> Iterator[None]:
    try:
        yield
    except apsw.Error as error:
        raise JournalUnavailable(f"can't use the journal in {directory}: {error}") from None


class SqliteDeadLetters:
    """See btfeed.journal.base.DeadLetters."""

    def __init__(self, directory: Path, database: JournalDatabase, piece: int = PIECE) -> None:
        self._directory = directory
        self._database = database
        self._table = database.dead_letters
        self._piece = piece

    def select(self, selection: Selection = ALL) -> Iterator[DeadLetter]:
        return chain.from_iterable(self._pieces(selection))

    def _pieces(self, selection: Selection) -> Iterator[list[DeadLetter]]:
        """Those that are there now, with no read left open between two pieces."""
        where, values = _condition(selection)
        with _translated(self._directory):
            seen, last = 0, self._table.last_id()
        while True:
            with (
                _translated(self._directory),
                closing(self._table.select(f"{where} AND id > ? AND id <= ?", *values, seen, last)) as rows,
            ):
                piece = _up_to(self._piece, rows)
            if not piece:
                return
            yield piece
            seen = piece[-1].id

    def count(self, selection: Selection = ALL) -> int:
        where, values = _condition(selection)
        with _translated(self._directory):
            return self._table.count(where, *values)

    def retry(self, selection: Selection, sinks: Collection[str]) -> int:
        marked = 0
        for piece in self._pieces(selection):
            with _translated(self._directory), self._database.changing():
                marked += sum(_mark(self._table, dead_letter, sinks) for dead_letter in piece)
        return marked

    def delete(self, ids: Iterable[int]) -> None:
        with _translated(self._directory), self._database.changing():
            self._table.delete(ids)


def _condition(selection: Selection) -> tuple[str, list[Value]]:
    """The SQL expression for a selection, and its values."""
    where = "1"
    values: list[Value] = list(selection.ids)
    if values:
        where += f" AND id IN ({','.join('?' * len(values))})"
    if selection.sink is not None:
        where += " AND sink = ?"
        values.append(selection.sink)
    return where, values


def _up_to(max_bytes: int, rows: Iterator[DeadLetter]) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    for row in rows:
        found.append(row)
        max_bytes -= len(row.body)
        if max_bytes <= 0:
            break
    return found


def _mark(table: DeadLetterTable, dead_letter: DeadLetter, sinks: Collection[str]) -> bool:
    """Mark one for retry, if it can be."""
    if dead_letter.kind == "post" or dead_letter.sink in sinks:
        table.mark("id = ?", dead_letter.id)
        return True
    if dead_letter.sink or not sinks or not dead_letter.deliverable:
        return False
    for sink in sinks:
        table.insert(replace(dead_letter, sink=sink, id=0))
        table.mark("event_id = ? AND sink = ?", dead_letter.event_id or "", sink)
    table.delete([dead_letter.id])
    return True
