"""The layout of the journal's file: its schema, its upgrades, and the bytes of its header that never change."""

from contextlib import closing
from pathlib import Path

import apsw

from btfeed.posts.post import Post

PAGE_SIZE = 16_384  # 25 % faster than 4 KiB pages for posts of tens of kilobytes, and no slower for small ones
ROW_BYTES = 128
"""What a post takes besides its body, approximately."""
LETTER_BYTES = 384
"""What a dead letter or a block of them takes at most besides its contents: 130 bytes in the table and its indexes, whose
pages are a third full after most were deleted here and there."""
VERSION = 2
APPLICATION = 0x62740000
"""application_id is this plus the version. With the version stored twice, a flipped bit is not mistaken for another one."""

_SINCE_1 = (
    "destination TEXT NOT NULL DEFAULT ''",
    "cause TEXT NOT NULL DEFAULT 'earlier'",  # of what an earlier version kept
    "block INTEGER NOT NULL DEFAULT 0",
    "place INTEGER NOT NULL DEFAULT 0",
)


# The totals of dead letters: which row counts a letter or a block, and how many bytes it takes


def _group(row: str, block: bool) -> str:
    return "'block', '', '', ''" if block else f"{row}.kind, {row}.sink, {row}.cause, {row}.destination"


def _bytes(row: str, block: bool = False) -> str:
    """What it takes at most, with its entries in indexes. SQLite keeps what is larger than a page on pages of its own."""
    texts = (f"octet_length({row}.{text})" for text in ("reason", "key", "body"))
    length = f"octet_length({row}.content) + {LETTER_BYTES}" if block else f"{' + '.join(texts)} + {LETTER_BYTES}"
    return f"iif({length} > {PAGE_SIZE}, {length} + {PAGE_SIZE}, {PAGE_SIZE} / ({PAGE_SIZE} / min({length}, {PAGE_SIZE})))"


def _add(row: str, block: bool = False) -> str:
    return (
        f"INSERT INTO dead_letter_totals VALUES({_group(row, block)}, 1, {_bytes(row, block)})"
        " ON CONFLICT(kind, sink, cause, destination)"
        " DO UPDATE SET letters = letters + 1, bytes = bytes + excluded.bytes;"
    )


def _subtract(row: str, block: bool = False) -> str:
    return (
        f"UPDATE dead_letter_totals SET letters = letters - 1, bytes = bytes - {_bytes(row, block)}"
        f" WHERE (kind, sink, cause, destination) = ({_group(row, block)});"
    )


_FREE = (
    "DELETE FROM dead_letter_blocks WHERE id = old.block AND NOT EXISTS (SELECT 1 FROM dead_letters WHERE id >= old.block"
    " AND id < (SELECT ifnull(min(id), 1 << 62) FROM dead_letter_blocks WHERE id > old.block) AND block = old.block);"
)
"""Deletes the block of a deleted letter if that was the last one in it."""
_COUNT = (
    "INSERT INTO dead_letter_totals SELECT kind, sink, cause, destination, count(*), sum("
    f"{_bytes('dead_letters')}) FROM dead_letters GROUP BY kind, sink, cause, destination"
)
"""Counts the letters that were there before there were totals."""

# Tables come before indexes, so that VACUUM leaves every root page where it is.
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS posts(
    seq INTEGER PRIMARY KEY, received INTEGER NOT NULL, peer TEXT NOT NULL, digest BLOB NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS gaps(first INTEGER PRIMARY KEY, last INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS sinks(
    name TEXT PRIMARY KEY, seq INTEGER NOT NULL, ordinal INTEGER NOT NULL, state TEXT, checksum INTEGER NOT NULL
    ) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead_letters(
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, sink TEXT NOT NULL, reason TEXT NOT NULL,
    time INTEGER NOT NULL, tries INTEGER NOT NULL, retry INTEGER NOT NULL DEFAULT 0, event_id TEXT, key TEXT NOT NULL,
    timestamp INTEGER NOT NULL, "transaction" TEXT, body BLOB NOT NULL, {", ".join(_SINCE_1)});
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead_letter_blocks(id INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS dead_letter_totals(
    kind TEXT, sink TEXT, cause TEXT, destination TEXT, letters INTEGER NOT NULL,
    bytes INTEGER NOT NULL, PRIMARY KEY(kind, sink, cause, destination)) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS dead_letters_event ON dead_letters(event_id, sink) WHERE event_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS dead_letters_retry ON dead_letters(kind, sink) WHERE retry;
CREATE INDEX IF NOT EXISTS dead_letters_waiting ON dead_letters(sink, destination) WHERE destination <> '';
CREATE INDEX IF NOT EXISTS dead_letters_cause ON dead_letters(kind, sink, cause);
CREATE TRIGGER IF NOT EXISTS dead_letter_inserted AFTER INSERT ON dead_letters BEGIN {_add("new")} END;
CREATE TRIGGER IF NOT EXISTS dead_letter_changed AFTER UPDATE OF reason, destination, cause ON dead_letters
    BEGIN {_subtract("old")} {_add("new")} END;
CREATE TRIGGER IF NOT EXISTS dead_letter_deleted AFTER DELETE ON dead_letters BEGIN {_subtract("old")} {_FREE} END;
CREATE TRIGGER IF NOT EXISTS dead_letter_block_inserted AFTER INSERT ON dead_letter_blocks
    BEGIN {_add("new", True)} END;
CREATE TRIGGER IF NOT EXISTS dead_letter_block_deleted AFTER DELETE ON dead_letter_blocks
    BEGIN {_subtract("old", True)} END;
"""
_COLUMNS = {1: [("dead_letters", column) for column in _SINCE_1]}
"""Layout -> the tables that got a column with the next one, and the column. It is the table's last, as in SCHEMA: rows that
are there are not written again."""
_MOVED = "root "
"""In `meta`, this and the name of a table or index -> its root page, if an upgrade made it elsewhere than in a new file."""

_HEADER = {0: b"SQLite format 3\0" + PAGE_SIZE.to_bytes(2, "big"), 20: b"\0\x40\x20\x20", 52: bytes(7)}
"""Constant bytes of the header by offset: magic and page size, no reserved space, UTF-8. The encoding's last byte is 0
until there is a table, so it is checked separately."""


def upgrade(db: apsw.Connection, version: int) -> None:
    """Bring a file from layout `version`, 0 for an empty one, to the current one. Call it in a transaction."""
    try:
        for earlier in range(version or VERSION, VERSION):
            for table, column in _COLUMNS[earlier]:
                db.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
        db.execute(SCHEMA)  # creates what is missing
        if version == 1:
            db.execute(_COUNT)
    except apsw.SQLError as error:
        raise apsw.CorruptError(f"the schema is not that of layout {version}: {error}") from None
    fresh = _roots(_new_tables())
    moved = [(f"{_MOVED}{name}", root) for name, root in _roots(_tables(db)).items() if fresh.get(name) != root]
    db.executemany("INSERT OR REPLACE INTO meta VALUES(?,?)", moved)
    db.execute(f"PRAGMA user_version={VERSION}; PRAGMA application_id={APPLICATION + VERSION}")


def first_page(page: bytes, old: apsw.Connection) -> bytes:
    """The first page of a new file, changed to lead to what an upgrade of `old` made elsewhere."""
    moved = _moved_roots(old)
    if not moved:
        return page
    with closing(apsw.Connection(":memory:")) as db:
        db.execute(f"PRAGMA page_size={PAGE_SIZE}; {SCHEMA} PRAGMA writable_schema=ON")
        db.executemany(
            "UPDATE sqlite_master SET rootpage = ? WHERE name = ?", [(root, name) for name, root in moved.items()]
        )
        return page[:100] + db.serialize("main")[100:PAGE_SIZE]


def check_schema(db: apsw.Connection) -> None:
    """Raise apsw.CorruptError if the tables differ from SCHEMA: a flipped bit in its text can rename a column."""
    fresh, found = _new_tables(), _tables(db)
    if not fresh <= found and not _with_roots(fresh, _moved_roots(db)) <= found:
        raise apsw.CorruptError("the schema is not that of a journal")


Tables = set[tuple[bytes, bytes, bytes, bytes, int]]
"""Type, name, table, SQL text and root page of tables and indexes, as SQLite describes them."""


def _tables(db: apsw.Connection) -> Tables:
    names = "CAST(type AS BLOB), CAST(name AS BLOB), CAST(tbl_name AS BLOB), CAST(sql AS BLOB), rootpage"
    return set(db.execute(f"SELECT {names} FROM sqlite_master"))


def _new_tables() -> Tables:
    """Those of a new file."""
    with closing(apsw.Connection(":memory:")) as fresh:
        fresh.execute(SCHEMA)
        return _tables(fresh)


def _roots(tables: Tables) -> dict[str, int]:
    return {str(name, "utf-8", "replace"): root for _, name, _, _, root in tables}


def _with_roots(tables: Tables, roots: dict[str, int]) -> Tables:
    return {(kind, name, table, sql, roots.get(name.decode(), root)) for kind, name, table, sql, root in tables}


def _moved_roots(db: apsw.Connection) -> dict[str, int]:
    """Name of a table or index -> its root page, for those that an upgrade made."""
    try:
        rows = list(db.execute("SELECT CAST(name AS BLOB), value FROM meta"))
    except apsw.Error:
        return {}
    names = {str(name, "utf-8", "replace"): root for name, root in rows}
    return {name.removeprefix(_MOVED): root for name, root in names.items() if name.startswith(_MOVED)}


def check_header(path: Path, vfs: str | None) -> None:
    """Raise apsw.NotADBError if the file's header is wrong. SQLite itself would misread rows if some of these bytes were
    changed, and would delete the write-ahead log of an empty file."""
    header = b""
    if path.exists():  # through the VFS: closing the file in any other way would release SQLite's locks on it
        file = apsw.VFSFile(vfs or "", str(path), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
        try:
            header = file.xRead(min(60, file.xFileSize()), 0)
        finally:
            file.xClose()
    sound = all(header[place : place + len(constant)] == constant for place, constant in _HEADER.items())
    if header and not (sound and header[59:] in (b"\0", b"\1")):
        raise apsw.NotADBError("the file's header is not that of a journal")
    log = path.with_name(f"{path.name}-wal")
    if not header and log.exists() and log.stat().st_size:
        raise apsw.NotADBError("the file is empty or missing, but its write-ahead log is not")


def bytes_taken(post: Post) -> int:
    """The most bytes that a post takes in the file."""
    length = len(post.body) + ROW_BYTES
    return length + PAGE_SIZE if length > PAGE_SIZE else PAGE_SIZE // (PAGE_SIZE // length)
