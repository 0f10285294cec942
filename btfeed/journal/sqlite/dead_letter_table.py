"""Every statement on the table of dead letters.

`retry` is set by an operator (btfeed/journal/sqlite/dead_letters.py) and cleared by the server. A letter with a
`destination` is retried by the server itself. The unique index on event
and sink keeps a record once per sink.
"""

import json
from collections.abc import Generator, Iterable, Mapping
from dataclasses import astuple

import apsw

from btfeed.journal.base import DeadLetter
from sinks.batch import Transaction

Value = str | int
WAITING = "destination <> '' AND sink = ?"
"""Holds for those of a sink that wait for a destination."""


class DeadLetterTable:
    """The dead letters of one open journal. Methods raise apsw.Error."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def insert(self, dead_letter: DeadLetter, retry: bool = False) -> None:
        """Add one, under its own id if it has one. Ignores a record that this sink already has."""
        transaction = json.dumps(astuple(dead_letter.transaction)) if dead_letter.transaction else None
        self._db.execute(
            "INSERT OR IGNORE INTO dead_letters"
            '(id, kind, sink, reason, time, tries, retry, event_id, key, timestamp, "transaction", body, destination)'
            " VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (dead_letter.id or None, dead_letter.kind, dead_letter.sink, dead_letter.reason, dead_letter.time,
             dead_letter.tries, retry, dead_letter.event_id, dead_letter.key, dead_letter.timestamp, transaction,
             dead_letter.body, dead_letter.destination),
        )  # fmt: skip

    def select(self, where: str = "1", *values: Value, limit: int = -1) -> Generator[DeadLetter, None, None]:
        """Those for which the SQL expression `where` holds, the oldest first. Damaged rows are read with defaults."""
        rows = self._db.execute(
            "SELECT id, CAST(kind AS BLOB), CAST(sink AS BLOB), CAST(reason AS BLOB), CAST(time AS INTEGER),"
            " CAST(body AS BLOB), CAST(tries AS INTEGER), CAST(event_id AS BLOB), CAST(key AS BLOB),"
            ' CAST(timestamp AS INTEGER), CAST("transaction" AS BLOB), CAST(destination AS BLOB)'
            f" FROM dead_letters WHERE {where} ORDER BY id LIMIT {limit}",
            values,
        )
        for number, kind, sink, reason, time, body, tries, event_id, key, timestamp, transaction, waits in rows:
            yield DeadLetter(
                "record" if kind == b"record" else "post", text(sink), text(reason), time or 0, body or b"", tries or 0,
                event_id and text(event_id), text(key), timestamp or 0, _transaction(transaction), number, text(waits),
            )  # fmt: skip

    def count(self, where: str = "1", *values: Value) -> int:
        """How many there are for which `where` holds."""
        return int(self._db.execute(f"SELECT count(*) FROM dead_letters WHERE {where}", values).get)

    def destinations(self, sink: str) -> dict[str, int]:
        """Destinations that this sink's dead letters wait for -> how many."""
        statement = f"SELECT CAST(destination AS BLOB), count(*) FROM dead_letters WHERE {WAITING} GROUP BY destination"
        return {text(destination): number for destination, number in self._db.execute(statement, (sink,))}

    def last_id(self) -> int:
        """The id of the newest, 0 if there is none."""
        return self._db.execute("SELECT max(id) FROM dead_letters").get or 0

    def mark(self, where: str, *values: Value) -> None:
        """Mark for retry those for which `where` holds."""
        self._db.execute(f"UPDATE dead_letters SET retry = 1 WHERE {where}", values)

    def refuse_again(self, refused: Mapping[int, str], now: int) -> None:
        """End retries that failed. refused: id -> why."""
        self._db.executemany(
            "UPDATE dead_letters SET retry = 0, destination = '', tries = tries + 1, reason = ?, time = ? WHERE id = ?",
            [(reason, now, number) for number, reason in refused.items()],
        )

    def delete(self, ids: Iterable[int]) -> None:
        self._db.executemany("DELETE FROM dead_letters WHERE id = ?", ((number,) for number in ids))

    def refused_bytes(self) -> int:
        """Bytes of the bodies of dead letters of kind "post"."""
        return int(self._db.execute("SELECT sum(length(body)) FROM dead_letters WHERE kind = 'post'").get or 0)

    def evict_refused_posts(self, max_bytes: int) -> int:
        """Delete the oldest dead letters of kind "post" beyond `max_bytes` of bodies; returns how many."""
        newest_first = "SELECT id, sum(length(body)) OVER (ORDER BY id DESC) AS total FROM dead_letters WHERE kind = 'post'"
        self._db.execute(
            f"DELETE FROM dead_letters WHERE id IN (SELECT id FROM ({newest_first}) WHERE total > ?)", (max_bytes,)
        )
        return self._db.changes()


def text(value: bytes | None) -> str:
    """Stored text, with U+FFFD for bytes that are not UTF-8."""
    return str(value or b"", "utf-8", "replace")


def _transaction(value: bytes | None) -> Transaction | None:
    try:
        return Transaction(*json.loads(value)) if value else None
    except (ValueError, TypeError):
        return None
