"""What is configured of the SQLite journal, and what only tests change."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from sinks.settings import Place, Seconds, Settings, Size


class SqliteSettings(Settings):
    """The journal: received posts in one SQLite file.

    type           the backend: "sqlite"
    directory      where the file is; created if necessary
    max_size       how much posts may take, at least 1MiB; freed space is reused, but the file does not shrink
    when_full      "refuse": answer 503 and keep what was taken; "drop-oldest": drop the oldest posts, counted per sink
    retention      how long delivered posts are kept, for `btfeed replay`
    dead_letters   how much dead letters may take besides `max_size`; beyond it the oldest are deleted
    refused_posts  how much of that rejected posts may take; beyond it the oldest of them are deleted
    """

    type: Literal["sqlite"] = "sqlite"
    directory: Annotated[Place, Field(validate_default=True)] = "btfeed-data"
    max_size: Annotated[Size, Field(ge=2**20)] = 10 * 2**30
    when_full: Literal["refuse", "drop-oldest"] = "refuse"
    retention: Seconds = 24 * 3600.0
    dead_letters: Size = 2**30
    refused_posts: Size = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Tuning:
    """Values that suit every installation.

    recent_bytes      bytes of memory for the newest posts, which are kept while a sink has yet to read them
    checkpoint_pages  pages in the write-ahead log before they are moved to the file: 4 MiB. Larger checkpoints made the
                      slowest commit in a hundred 4 times slower
    log_limit         bytes that the write-ahead log may keep between checkpoints
    gather            seconds for which a transaction waits, at most, for the next posts of clients that were just answered.
                      Clients that have more posts come back sooner; the longer it waits, the more it costs those that pause
    lock_wait         seconds to wait at a time while another process is writing
    tick              seconds between rounds of maintenance, and between attempts to recover from a disk error
    unreadable        seconds after which a part of the file that can't be read counts as damaged; also the shortest time
                      between two recoveries
    """

    recent_bytes: int = 64 * 2**20
    checkpoint_pages: int = 256
    log_limit: int = 64 * 2**20
    gather: float = 0.0005
    lock_wait: float = 5.0
    tick: float = 0.5
    unreadable: float = 60.0


FIXED = ("type", "directory")
"""Keys that can't change while the journal is open."""
TUNING = Tuning()
