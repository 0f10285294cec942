"""The dead letters of a SQLite journal as commands see them, on a connection of their own."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import apsw

from btfeed.journal.base import ALL, LATEST, DeadLetter, JournalUnavailable, Selection, Wants
from btfeed.journal.sqlite.database import FILE, JournalDatabase
from btfeed.journal.sqlite.dead_letter_table import DeadLetterTable, Value
from btfeed.journal.sqlite.layout import LETTER_BYTES
from btfeed.journal.sqlite.settings import TUNING

T = TypeVar("T")

CHANGED_AT_ONCE = 200
"""Dead letters that are changed in one transaction: meanwhile the server can't append."""
PAUSE = 0.02
"""Seconds between two transactions at least."""
PATIENT = replace(TUNING, lock_wait=60.0)
"""A command waits for a server, however busy that is."""
PIECE = 4 * 2**20
"""Bytes of bodies to read at a time: a read that lasts long keeps the server's write-ahead log growing."""


@contextmanager
def open_dead_letters(directory: Path) -> Iterator["SqliteDeadLetters"]:
    """The dead letters of the journal in `directory`. Raises JournalUnavailable."""
    if not (directory / FILE).exists():
        raise JournalUnavailable(f"no journal in {directory}")
    with _translated(directory), closing(JournalDatabase.open(directory, tuning=PATIENT, may_upgrade=False)) as database:
        yield SqliteDeadLetters(directory, database)


@contextmanager
def _translated(directory: Path) -> Iterator[None]:
    try:
        yield
    except apsw.Error as error:
        raise JournalUnavailable(f"can't use the journal in {directory}: {error}") from None


class SqliteDeadLetters:
    """See btfeed.journal.base.DeadLetters."""

    def __init__(
        self, directory: Path, database: JournalDatabase, piece: int = PIECE, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._directory = directory
        self._database = database
        self._table = database.dead_letters
        self._piece = piece
        self._sleep = sleep

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

    def newest(self, limit: int, selection: Selection = ALL, before: int = LATEST) -> Sequence[DeadLetter]:
        where, values = f"{_condition(selection)[0]} AND id < ?", [*_condition(selection)[1], before]
        if (
            selection.sink is not None and selection.cause is not None
        ):  # through the index of causes, however many there are
            kinds = (f"SELECT id FROM (SELECT id FROM dead_letters WHERE kind = '{kind}' AND {where}"
                     f" ORDER BY id DESC LIMIT {limit})" for kind in ("post", "record"))  # fmt: skip
            where, values = f"id IN ({' UNION ALL '.join(kinds)})", values * 2
        with (
            _translated(self._directory),
            closing(self._table.select(where, *values, limit=limit, newest=True)) as rows,
        ):
            return _up_to(self._piece, rows)

    def count(self, selection: Selection = ALL) -> int:
        where, values = _condition(selection)
        with _translated(self._directory):
            return self._table.count(where, *values)

    def retry(self, selection: Selection, sinks: Mapping[str, Wants]) -> int:
        marked = 0
        for piece in self._pieces(selection):
            for some in _groups(piece):
                with self._changing():
                    marked += _mark(self._table, some, sinks)
        return marked

    def delete(self, ids: Iterable[int]) -> None:
        for some in _groups(ids):
            with self._changing():
                self._table.delete(some)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """A short transaction, then a pause that is no shorter: a server that waits for its turn looks again and again, and
        would find another transaction each time."""
        began = time.monotonic()
        with _translated(self._directory), self._database.changing():
            yield
        self._sleep(max(PAUSE, time.monotonic() - began))


def _condition(selection: Selection) -> tuple[str, list[Value]]:
    """The SQL expression for a selection, and its values."""
    where = "1"
    values: list[Value] = []
    if selection.ids:
        where += " AND id IN (SELECT value FROM json_each(?))"
        values.append(json.dumps(list(selection.ids)))
    if selection.sink is not None:
        where += " AND sink = ?"
        values.append(selection.sink)
    if selection.cause is not None:
        where += " AND cause = ?"
        values.append(selection.cause)
    return where, values


def _up_to(max_bytes: int, rows: Iterator[DeadLetter]) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    for row in rows:
        found.append(row)
        max_bytes -= len(row.body) + LETTER_BYTES
        if max_bytes <= 0:
            break
    return found


def _groups(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while group := list(islice(rest, CHANGED_AT_ONCE)):
        yield group


def _mark(table: DeadLetterTable, dead_letters: Sequence[DeadLetter], sinks: Mapping[str, Wants]) -> int:
    """Mark those that can be retried, and return how many. A record of no single sink becomes one of each that wants it."""
    takers = {each.id: each.retried_by(sinks) for each in dead_letters}
    split = [each for each in dead_letters if takers[each.id] and each.kind == "record" and not each.sink]
    new = [replace(each, sink=sink, id=0) for each in split for sink in takers[each.id]]
    table.insert(new)
    for each in new:
        table.mark("event_id = ? AND sink = ?", each.event_id or "", each.sink)
    table.delete([each.id for each in split])
    for each in dead_letters:
        if takers[each.id]:
            table.mark("id = ?", each.id)
    return sum(map(bool, takers.values()))
