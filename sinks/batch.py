"""Batches of records: immutable columns over shared buffers."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TypeVar, overload


@dataclass(frozen=True, slots=True)
class Transaction:
    """What templates and filters know of a record: its business transaction, as the record shows it."""

    name: str
    application: str
    system_profile: str
    server: str
    category: str


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Records as immutable columns of equal length. Record i is the i-th item of each column.

    ids           str: event.id, equal each time the same occurrence is delivered
    keys          str: the visit's id, or event.id if there is no visit
    timestamps    int: the occurrence's startTime in milliseconds since the epoch
    transactions  Transaction: one object, shared by all of its records
    sizes         int: bytes of the record, including its newline
    parts         the records, each a JSON object and a newline, in one buffer or several. A part may end within a record

    `slice`, `take` and `concat` share parts and columns. They copy no records, and an unused column costs nothing.
    """

    ids: Sequence[str] = ()
    keys: Sequence[str] = ()
    timestamps: Sequence[int] = ()
    transactions: Sequence[Transaction] = ()
    sizes: Sequence[int] = ()
    parts: Sequence[memoryview] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of all records, including their newlines."""
        return sum(map(len, self.parts))

    @property
    def ndjson(self) -> bytes:
        """All records, each followed by a newline."""
        return b"".join(self.parts)

    @property
    def bodies(self) -> list[bytes]:
        """Each record as the bytes of one JSON object, without its newline."""
        whole = self.ndjson
        return [whole[end - size : end - 1] for size, end in zip(self.sizes, accumulate(self.sizes), strict=True)]

    def body(self, index: int) -> bytes:
        """Record `index` as the bytes of one JSON object, without its newline."""
        return self.slice(index, index + 1).ndjson[:-1]

    def fitting(self, records: int, nbytes: int) -> int:
        """The number of records, from the first, that are within both limits."""
        if len(self) <= records and self.nbytes <= nbytes:
            return len(self)
        return bisect_right([*accumulate(self.sizes[:records])], nbytes)

    def slice(self, start: int, stop: int) -> "Batch":
        """The records from `start` up to, but not including, `stop`."""
        if start <= 0 and stop >= len(self):
            return self
        span = slice(start, stop)
        sizes = self.sizes[span]
        parts = slice_parts(self.parts, sum(self.sizes[:start]), sum(sizes))
        return Batch(self.ids[span], self.keys[span], self.timestamps[span], self.transactions[span], sizes, parts)

    def take(self, indexes: Sequence[int]) -> "Batch":
        """The records at `indexes`, which must be in ascending order."""
        runs: list[tuple[int, int]] = []
        for index in indexes:
            if runs and runs[-1][1] == index:
                runs[-1] = (runs[-1][0], index + 1)
            else:
                runs.append((index, index + 1))
        if len(runs) <= _FEW_RUNS:
            return Batch.concat([self.slice(start, stop) for start, stop in runs])
        ends = [0, *accumulate(self.sizes)]
        parts = cut_parts(self.parts, [(ends[start], ends[stop]) for start, stop in runs])
        return Batch(
            [self.ids[index] for index in indexes],
            [self.keys[index] for index in indexes],
            [self.timestamps[index] for index in indexes],
            [self.transactions[index] for index in indexes],
            [self.sizes[index] for index in indexes],
            parts,
        )

    @staticmethod
    def concat(batches: Sequence["Batch"]) -> "Batch":
        """The records of all `batches`, in order."""
        if len(batches) == 1:
            return batches[0]
        return Batch(
            Joined([batch.ids for batch in batches]),
            Joined([batch.keys for batch in batches]),
            Joined([batch.timestamps for batch in batches]),
            Joined([batch.transactions for batch in batches]),
            Joined([batch.sizes for batch in batches]),
            [part for batch in batches for part in batch.parts],
        )


T = TypeVar("T")

_FEW_RUNS = 16
"""Runs of records up to which `take` joins slices, which share columns, but each of which costs as much as the batch."""


class Joined(Sequence[T]):
    """Several columns, concatenated without copying them."""

    __slots__ = ("_ends", "columns")

    def __init__(self, columns: Sequence[Sequence[T]]) -> None:
        self.columns: list[Sequence[T]] = []
        for column in columns:
            self.columns += column.columns if isinstance(column, Joined) else [column]
        self._ends = [*accumulate(map(len, self.columns))]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(self.columns)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return self._slice(start, stop) if step == 1 else [self[place] for place in range(start, stop, step)]
        place = range(len(self))[index]
        number = bisect_right(self._ends, place)
        column = self.columns[number]
        return column[place - self._ends[number] + len(column)]

    def _slice(self, start: int, stop: int) -> "Joined[T]":
        columns = []
        for column in self.columns:
            if start < len(column) and stop > 0:
                columns.append(column[max(0, start) : stop])
            start, stop = start - len(column), stop - len(column)
        return Joined(columns)


def slice_parts(parts: Sequence[bytes | memoryview], skip: int, take: int) -> list[memoryview]:
    """`take` bytes of `parts` after the first `skip`."""
    return cut_parts(parts, [(skip, skip + take)])


def cut_parts(parts: Sequence[bytes | memoryview], spans: Sequence[tuple[int, int]]) -> list[memoryview]:
    """The bytes of `parts` from start to stop of each span, in ascending order: all of them cost one way through."""
    ends = [*accumulate(map(len, parts))]
    found = []
    number = 0
    for start, stop in spans:
        while start < stop:
            while ends[number] <= start:
                number += 1
            begin = ends[number] - len(parts[number])
            piece = memoryview(parts[number])[start - begin : stop - begin]
            found.append(piece)
            start += len(piece)
    return found
