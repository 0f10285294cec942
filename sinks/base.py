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

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from sinks.batch import Batch
from sinks.settings import Settings


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of a batch. A record that is not named was delivered; none is named twice.

    retry        indexes of records to write again
    refused      index -> why the far end will never take that record
    state        what `open` needs to go on from here; it is saved with the cursor, in one transaction
    again_after  of a serial sink: write again after this many seconds, with an empty batch if need be
    flagged      what is worth counting of the records that were delivered -> how many of them it is true of
    unknown      how many of those to write again may have been taken, and nobody can say; they are counted
    """

    retry: Sequence[int] = ()
    refused: dict[int, str] = field(default_factory=dict)
    state: str | None = None
    again_after: float | None = None
    flagged: dict[str, int] = field(default_factory=dict)
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
