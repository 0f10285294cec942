"""What a sink is: a place that takes batches of records and says what became of each.

A sink has four methods. `open` connects and proves it, `write` delivers one batch, `close` lets go; `check` is what
`btfeed check` asks, and changes nothing. It neither batches nor retries nor counts: the delivery loop
(btfeed/delivery/loop.py) does, for all sinks alike. All a sink knows is how to classify what its far end said, and it says
so with a `WriteResult` or with one of these:

    SinkError
    ├── Unavailable     the far end can't take it now; the same batch comes again, after `retry_after` at the earliest
    │   └── OutcomeUnknown  it may have been taken, and nobody can say; counted, and it comes again unless told otherwise
    ├── BatchRefused    somebody in this batch is not acceptable, and nothing says who; the loop halves it
    └── Misconfigured   nothing will change until a person acts; the loop waits and says so, the data is kept

Any other exception is a bug in the sink: it is logged with its traceback, counted, and treated as Unavailable.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import Annotated, Any, Literal, Protocol, TypeVar, overload

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict


@dataclass(frozen=True, slots=True)
class Transaction:
    """The business transaction that a record belongs to: what templates and filters ask for."""

    name: str
    application: str
    system_profile: str
    server: str
    category: str


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Records as immutable columns of equal length; record i is the i-th of each.

    ids           event.id, str: equal whenever the same occurrence is delivered again
    keys          str: the visit's id, or the event's where there is no visit
    timestamps    startTime, int: milliseconds since the epoch
    transactions  Transaction, one object shared by all of its records
    sizes         int: bytes of the record, its newline included
    parts         the records themselves, one JSON object and a newline each, in one buffer or several; where one part
                  ends and the next begins means nothing

    Cutting and joining share the parts and the columns: no record is copied, and a column that no sink reads costs nothing.
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
        return sum(map(len, self.parts))

    @property
    def ndjson(self) -> bytes:
        """All records, each ended by a newline."""
        return b"".join(self.parts)

    @property
    def bodies(self) -> list[bytes]:
        """Each record as the bytes of one JSON object, without its newline."""
        whole = self.ndjson
        return [whole[end - size : end - 1] for size, end in zip(self.sizes, accumulate(self.sizes), strict=True)]

    def body(self, index: int) -> bytes:
        """Record `index` as the bytes of one JSON object, without its newline."""
        return self.cut(index, index + 1).ndjson[:-1]

    def fitting(self, records: int, nbytes: int) -> int:
        """How many records from the first on are within both limits."""
        if len(self) <= records and self.nbytes <= nbytes:
            return len(self)
        return bisect_right([*accumulate(self.sizes[:records])], nbytes)

    def cut(self, start: int, stop: int) -> "Batch":
        """Records start to stop."""
        if start <= 0 and stop >= len(self):
            return self
        here = slice(start, stop)
        sizes = self.sizes[here]
        parts = cut_parts(self.parts, sum(self.sizes[:start]), sum(sizes))
        return Batch(self.ids[here], self.keys[here], self.timestamps[here], self.transactions[here], sizes, parts)

    def pick(self, indexes: Sequence[int]) -> "Batch":
        """The records at `indexes`, which ascend."""
        runs: list[tuple[int, int]] = []
        for index in indexes:
            if runs and runs[-1][1] == index:
                runs[-1] = (runs[-1][0], index + 1)
            else:
                runs.append((index, index + 1))
        return Batch.join([self.cut(start, stop) for start, stop in runs])

    @staticmethod
    def join(batches: Sequence["Batch"]) -> "Batch":
        """All records of `batches`, in that order."""
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


class Joined(Sequence[T]):
    """Columns one behind the other, as one."""

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
            return self._cut(start, stop) if step == 1 else [self[place] for place in range(start, stop, step)]
        place = range(len(self))[index]
        number = bisect_right(self._ends, place)
        column = self.columns[number]
        return column[place - self._ends[number] + len(column)]

    def _cut(self, start: int, stop: int) -> "Joined[T]":
        columns = []
        for column in self.columns:
            if start < len(column) and stop > 0:
                columns.append(column[max(0, start) : stop])
            start, stop = start - len(column), stop - len(column)
        return Joined(columns)


def cut_parts(parts: Sequence[bytes | memoryview], skip: int, take: int) -> list[memoryview]:
    """`take` bytes of `parts` behind the first `skip`."""
    found = []
    for part in parts:
        piece = memoryview(part)[skip : skip + take]
        skip = max(0, skip - len(part))
        take -= len(piece)
        if len(piece):
            found.append(piece)
    return found


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of a batch. A record that is not named was delivered; none is named twice.

    retry        indexes of records to write again
    refused      index -> why the far end will never take that record
    state        what `open` needs to go on from here; it is saved with the cursor, in one transaction
    again_after  of a serial sink: write again after this many seconds, with an empty batch if need be
    noted        what is worth counting of the records that were delivered -> how many of them it is true of
    unknown      how many of those to write again may have been taken, and nobody can say; they are counted
    """

    retry: Sequence[int] = ()
    refused: dict[int, str] = field(default_factory=dict)
    state: str | None = None
    again_after: float | None = None
    noted: dict[str, int] = field(default_factory=dict)
    unknown: int = 0


class Sink(Protocol):
    """One destination. All calls come from one event loop; `write` may be called again before it returned, up to the
    sink's `in_flight`."""

    async def open(self, state: str | None) -> None:
        """Connect, and prove it. `state` is the last one saved, None where there is none.

        Raises Unavailable or Misconfigured; it is then called again later.
        """

    async def check(self) -> None:
        """Prove that `open` would do, and change nothing: another process may be running with this configuration.

        Raises Unavailable or Misconfigured.
        """

    async def write(self, batch: Batch) -> WriteResult:
        """Deliver `batch`. Raises a SinkError where nothing is known of any single record."""

    async def close(self) -> None:
        """Let go of everything. No write is under way; also called where open failed."""


class SerialSink(Sink, Protocol):
    """A sink whose state describes all that was written; see SinkType."""

    def saved(self, state: str) -> None:
        """`state` is saved: a crash from now on is followed by an `open` with it, or with a later one."""


class SinkError(Exception):
    """The base of what a sink raises."""


class Unavailable(SinkError):
    """The far end can't take it now. `retry_after` seconds is the least time to wait."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OutcomeUnknown(Unavailable):
    """Nobody can say whether the batch was taken: the reply was lost, or says nothing of it. Where it must not come
    `again`, its records become dead letters."""

    def __init__(self, message: str, retry_after: float = 0.0, again: bool = True) -> None:
        super().__init__(message, retry_after)
        self.again = again


class BatchRefused(SinkError):
    """The batch was refused as a whole, and nothing of it was taken."""


class Misconfigured(SinkError):
    """Only a person can mend it: credentials, rights, a missing topic."""


@dataclass(frozen=True, slots=True)
class RecordField:
    """A field that a record may have. type: string, long, double, boolean, timestamp, strings (an array of them)."""

    name: str
    type: Literal["string", "long", "double", "boolean", "timestamp", "strings"]
    doc: str
    always: bool = False


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What a sink is told besides its settings: its name, and the fields that records may have. Fields that start
    with one of `maps` are as many as users define."""

    name: str
    fields: Sequence[RecordField]
    maps: Sequence[RecordField]


class Settings(BaseModel):
    """A table of the configuration. Unknown keys are refused; values keep their TOML type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class SinkFactory(Protocol):
    def __call__(self, settings: Any, context: SinkContext) -> Sink: ...


@dataclass(frozen=True, slots=True)
class SinkType:
    """What a module of this package offers under the name SINK.

    serial    it is a SerialSink: one batch at a time, its state saved before the next is written, unless the journal can't
              save. The first batch after `open` is empty, so that there is a saved state before there is a record. Such a
              sink takes a batch in one write: it names what it refuses, neither raises BatchRefused nor asks for a retry
    delivery  defaults of [sinks.NAME.delivery] that differ from the loop's own
    """

    settings: type[Settings]
    create: SinkFactory
    serial: bool = False
    delivery: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Template:
    """A text with placeholders such as {name}, each an attribute of Transaction or a name that the caller fills."""

    text: str

    def names(self) -> set[str]:
        return set(re.findall(r"\{([^{}]*)\}", self.text))

    def fill(self, transaction: Transaction, **more: str) -> str:
        def value(match: re.Match[str]) -> str:
            return more[match[1]] if match[1] in more else str(getattr(transaction, match[1]))

        return re.sub(r"\{([^{}]*)\}", value, self.text)


def template(*placeholders: str) -> Any:
    """A pydantic validator for the text of a template that knows these placeholders."""

    def check(text: str) -> str:
        unknown = Template(text).names() - set(placeholders)
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in placeholders)
            raise ValueError(f"unknown placeholder {{{min(unknown)}}}; known are {known}")
        return text

    return AfterValidator(check)


_SIZES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_TIMES = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_LARGEST = 2**60
_LONGEST = 36_500 * 86_400.0


def _size(value: object) -> int:
    match = re.fullmatch(rf"{_NUMBER}\s*([A-Za-z]+)", value) if isinstance(value, str) else None
    if match is None or match[2] not in _SIZES:
        raise ValueError(f'write a size as a string like "64MiB"; units are {", ".join(_SIZES)}')
    size = float(match[1]) * _SIZES[match[2]]
    if size > _LARGEST:
        raise ValueError("a size is at most 1048576TiB")
    return round(size)


def _seconds(value: object) -> float:
    part = rf"{_NUMBER}\s*(ms|[smhd])\s*"
    if not isinstance(value, str) or not re.fullmatch(f"(?:{part})+", value):
        raise ValueError(f'write a time as a string like "500ms" or "23h55m"; units are {", ".join(_TIMES)}')
    seconds = sum(float(number) * _TIMES[unit] for number, unit in re.findall(part, value))
    if seconds > _LONGEST:
        raise ValueError("a time is at most 36500d")
    return seconds


Size = Annotated[int, BeforeValidator(_size)]
"""A number of bytes, written "64MiB"."""
Seconds = Annotated[float, BeforeValidator(_seconds)]
"""A time in seconds, written "500ms" or "23h55m"."""
