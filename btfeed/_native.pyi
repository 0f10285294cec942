"""The transcoder: native/transcoder-py/src/lib.rs. None means that the plain path has to find the reason."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeAlias, TypedDict, TypeVar, overload

P = TypeVar("P")
"""Python's plan."""

INTERFACE: int

Limits: TypeAlias = tuple[int, int, int, int]
"""Occurrences, elements, shared bytes, and the bytes that make an occurrence long (btfeed/posts/admission.py)."""

def admit(body: bytes, limits: Limits) -> int | None:
    """The number of occurrences in an acceptable post."""

def digests(bodies: Sequence[bytes]) -> list[bytes]:
    """BLAKE2b-256 of each."""

def number(value: float) -> str:
    """A finite number as records write it."""

Appended: TypeAlias = tuple[int, list[bytes], float | None]
"""The number of the first post, the digests of all, and the seconds of the transaction in the first group of it."""

class Appender:
    """A thread that appends posts to the journal on connections of apsw, whose SQLite has loaded this module as an
    extension, with the entry point `btfeed_sqlite_init`."""

    def __init__(self, signal: int, longest: float) -> None:
        """signal: the writing end of a pipe, which it closes. It writes to it when there is something to `take`. longest:
        seconds that a transaction waits, at most, for the next posts of clients that were just answered."""

    def append(self, posts: Sequence[tuple[bytes, int, str, int]]) -> None:
        """Append a group: body, milliseconds since the epoch, peer, and bytes of room, of each."""

    def take(self) -> list[tuple[Appended | None, tuple[int, str] | None]]:
        """What became of groups, in their order: appended, or failed with SQLite's extended result code and message, or
        neither if it was not tried."""

    def lend(self, handle: int, next: int, room: int, slack: int) -> None:
        """handle: of a connection that nobody uses or closes before `reclaim` returns. next: the number of the next post.
        room: bytes that may be taken. slack: bytes that a transaction takes besides its posts."""

    def reclaim(self) -> tuple[int, int] | None:
        """The number of the next post and the room that is left; None if nothing was lent. Groups wait from now on."""

    def refuse(self) -> None:
        """Give back groups untried from now on, also those that wait. To be called after `reclaim`."""

    def end(self) -> None:
        """End the thread."""

class Texts(Sequence[str]):
    """Strings in buffers. They are created on access; slices share the buffers that they need."""

    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def packed(self) -> tuple[bytes, bytes]:
        """All strings concatenated as UTF-8, and the size in bytes of each as native 64-bit integers."""

class Roles(TypedDict):
    """Numbers of the fields that native code treats specially; `visit` is the number of the category of visits."""

    start_time: int
    end_time: int
    duration: int
    visit_id: int
    visit: int

class Settings(TypedDict):
    """What the configuration says. mask: record fields that hold an address."""

    head: bytes
    missing: str
    unexpected: str
    drop: list[str]
    hash: list[str]
    key: bytes
    mask: list[str]

Compiled: TypeAlias = tuple[P, int, bytes, int, Sequence[str], Sequence[str]]
"""Plan, category, tail, invalid_utf8, and the record fields of its measures and dimensions."""
Refused: TypeAlias = tuple[int, str, str, int, P, str, bytes]
"""Ordinal, event.id, key, startTime, plan, the rules that it breaks, record."""
Run: TypeAlias = tuple[P, int, list[tuple[str, str, int]]]
"""Plan, records delivered, and violations as field, rule, number."""
Counts: TypeAlias = tuple[
    list[int], tuple[tuple[int, int], tuple[int, int]], tuple[int, int, int], int, tuple[dict[str, int], int]
]
"""Occurrences by category, mismatches, unknown fields, lost, values left out, invalid_utf8."""

Transcoded: TypeAlias = tuple[list[Any], Texts, Texts, bytes, bytes, list[Run[P]], list[Refused[P]], Counts, list[int]]
"""Parts of the records, ids, keys, timestamps, sizes, business transactions, refused occurrences, counts, and the number of
records up to the end of each post."""

class Transcoder(Generic[P]):
    """Maps posts under one configuration; several threads may use it."""

    def __init__(
        self,
        fields: list[tuple[int, str, str, str, str, str]],
        roles: Roles,
        settings: Settings,
        compile: Callable[[bytes | None, bytes], Compiled[P]],
        names: Callable[[P, bool, int], Sequence[str]],
    ) -> None: ...
    def transcode(
        self, posts: Sequence[tuple[bytes, str]], room: int, run: int = 0
    ) -> list[Transcoded[P] | Exception | None]:
        """posts: each with the prefix of its event.ids. Stops once the records exceed `room` bytes. Posts in a row whose
        records fit into `run` bytes, none of them refused, are one result."""
