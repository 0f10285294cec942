"""The sink contract: a sink takes batches of records and says what became of each record.

A sink has four methods: `open` connects, `write` delivers one batch, `close` disconnects, and `check` tests the
connection without changing anything, for `btfeed check`. The delivery loop (btfeed/delivery/loop.py) batches, retries,
counts and keeps dead letters for all sinks. A sink only has to classify the answers of the system that it writes to,
with a WriteResult or one of these errors:

    SinkError
    ├── Unavailable         the other system can't take the batch now; the loop writes it again
    │   ├── OutcomeUnknown  the batch may have been taken, for example because the reply was lost
    │   └── StartAgain      nothing of what was written since the last commit is there; transactional sinks only
    ├── BatchRefused        the batch contains an unacceptable record, but the reply doesn't say which; the loop halves it
    └── Misconfigured       a person has to act; the loop keeps the records, waits and reports it

An error concerns everything that the sink writes to. A sink with several destinations, such as topics or indexes, names the
records of one that takes nothing in `WriteResult.blocked` instead, so that the others get theirs.

Any other exception is a bug in the sink: the loop logs it with its traceback, counts it, and treats it as Unavailable.

A sink is a module or package in `sinks` that offers its SinkType as SINK. docs/sinks/writing-a-sink.md shows one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from sinks.batch import Batch
from sinks.settings import Settings
from sinks.shared.clock import SYSTEM_CLOCK, Clock


@dataclass(frozen=True, slots=True)
class Blocked:
    """A destination that takes nothing until a person acts. destination: its kind and name, such as `topic orders`."""

    destination: str
    reason: str


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of a batch. Every record that is not in `retry`, `refused` or `blocked` was delivered.

    retry        indexes of records to write again
    refused      index -> reason, of records that the other system will never take; they become dead letters
    blocked      index -> the record's destination, which takes nothing, and why. The record waits aside until it does;
                 see ManyDestinations
    state        what the next `open` needs to continue from here; saved with the cursor in one transaction
    again_after  serial sinks only: call `write` again after this many seconds, if necessary with an empty batch
    flagged      how many delivered records have a property worth counting, such as {"duplicate": 3}; shown as the metric
                 btfeed_sink_flagged_total
    unknown      how many of the records in `retry` may have been taken
    """

    retry: Sequence[int] = ()
    refused: dict[int, str] = field(default_factory=dict)
    state: str | None = None
    again_after: float | None = None
    flagged: dict[str, int] = field(default_factory=dict)
    unknown: int = 0
    blocked: dict[int, Blocked] = field(default_factory=dict)


class Sink(Protocol):
    """One destination. All calls come from one event loop, up to `in_flight` calls of `write` at a time."""

    async def open(self, state: str | None) -> None:
        """Connect, and check that records can be written. `state` is the last one that was saved, or None.

        Raises Unavailable or Misconfigured; the loop then calls it again later.
        """

    async def check(self) -> None:
        """Check that `open` would succeed. Changes nothing: a running server may use the same configuration.

        Raises Unavailable or Misconfigured.
        """

    async def write(self, batch: Batch) -> WriteResult:
        """Deliver `batch`. Raises a SinkError if there is no result for individual records.

        A write that a stop, a pause or a reload does not wait for any longer is cancelled. A sink may then raise
        OutcomeUnknown instead of CancelledError, so that the loop counts the records or keeps them as dead letters.
        """

    async def close(self) -> None:
        """Release all resources. Also called after `open` failed; never called during a `write`."""


class SerialSink(Sink, Protocol):
    """A sink whose state covers everything that it has written; see SinkType."""

    def saved(self, state: str) -> None:
        """The journal has saved `state`: after a crash, `open` gets this state or a later one."""

    async def leave(self, state: str) -> None:
        """Instead of `open`: another process continues this part, from where `state` was saved on. What was written after
        that is written again there. Raises Unavailable or Misconfigured."""


class Offsets(NamedTuple):
    """What a consumer group of Kafka is to save of a partition that it reads."""

    group: str
    topic: str
    partition: int
    offset: int
    metadata: str


class TransactionalSink(Sink, Protocol):
    """A sink whose writes take effect when `commit` returns, together with what the journal saves; see SinkType. `open`
    ends what the last owner of its transactions has begun. `write` and `commit` may raise StartAgain."""

    async def commit(self, saved: Offsets, deleted: Sequence[tuple[str, bytes]]) -> None:
        """End the transaction of all writes since the last commit. It also saves `saved`, and deletes what compacted topics
        have under a key. deleted: topic and key."""


class ManyDestinations(Sink, Protocol):
    """A sink that returns `blocked`. While a destination is blocked, the loop asks where records would go."""

    def destinations(self, batch: Batch) -> Sequence[str]:
        """The destination of each record, named as in `Blocked`. A pure function of the records."""


class DescribingSink(Sink, Protocol):
    """A sink that sends more of a record than its JSON, such as a topic or an index that depends on it."""

    def describe(self, batch: Batch) -> Sequence[Mapping[str, Any]]:
        """For each record, what goes with it, for people who look at records before or while they are sent. The values can
        be encoded as JSON. A pure function of the records: it connects to nothing, and may be called before `open`."""


class SinkError(Exception):
    """Base class of the errors that a sink raises."""


class Unavailable(SinkError):
    """The other system can't take the batch now. The loop begins no write for at least `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OutcomeUnknown(Unavailable):
    """The batch may have been taken. The loop counts its records, and writes them again or, if not `again`, keeps them as
    dead letters."""

    def __init__(self, message: str, retry_after: float = 0.0, again: bool = True) -> None:
        super().__init__(message, retry_after)
        self.again = again


class StartAgain(Unavailable):
    """A transaction has failed, or another process owns them now: nothing that was written since the last commit is there.
    The loop opens the sink again, and begins where the journal says."""


class BatchRefused(SinkError):
    """The batch was refused as a whole: no record of it was taken."""


class Misconfigured(SinkError):
    """A person has to act: wrong credentials, a missing privilege, a missing topic."""


@dataclass(frozen=True, slots=True)
class RecordField:
    """A field that records may have. always: whether every record has it. strings: an array of them."""

    name: str
    type: Literal["string", "long", "double", "boolean", "timestamp", "strings"]
    doc: str
    always: bool = False


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What a sink gets besides its settings.

    name    the NAME in [sinks.NAME]
    part    serial sinks: what this object has to keep apart from the other ones of that name, which other partitions and
            machines have: its files, for example. "" if it is the only one
    fields  the fields that records may have
    maps    prefixes of fields whose names users define, such as `appmon.measure.`
    clock   for deadlines, pauses and dates
    transactional_id
            transactional sinks: the name of the owner of its transactions, which its object has alone; in a check, one
            that no other object has
    """

    name: str
    fields: Sequence[RecordField]
    maps: Sequence[RecordField]
    clock: Clock = SYSTEM_CLOCK
    part: str = ""
    transactional_id: str = ""


class JournalCluster(Protocol):
    """Settings of a sink that can write to the Kafka cluster that the journal is in."""

    @property
    def cluster(self) -> str | None:
        """ "journal" if it does."""

    def with_journal(self, bootstrap_servers: str, security: Any) -> Settings:
        """These, with the way to that cluster. security: sinks.kafka.access.SecuritySettings."""


class SinkFactory(Protocol):
    """Creates a sink from its validated settings. Connects to nothing."""

    def __call__(self, settings: Any, context: SinkContext) -> Sink: ...


@dataclass(frozen=True, slots=True)
class SinkType:
    """What a module offers as SINK.

    settings  the table [sinks.NAME]; its docstring has a line `key  meaning` for each key, from which the docs are made
    create    usually the sink's class
    serial    the sink is a SerialSink: the loop writes one batch at a time, and saves its state before it writes the next,
              unless the journal fails. The first batch after `open` is empty, so that a state is saved before any record
              is written. `write` of such a sink takes the whole batch: it doesn't raise BatchRefused or return `retry`
    transactional
              whether, with these settings, the sink is a TransactionalSink: the loop writes one batch at a time, and ends
              its transaction before it writes the next. For sinks that write to the cluster that the journal is in
    delivery  defaults of [sinks.NAME.delivery] that differ from the general ones
    example   what a first configuration sets, with examples as values, and references such as "${TOKEN}" for secrets.
              `btfeed init` writes it, and a reference for each other required key
    """

    settings: type[Settings]
    create: SinkFactory
    serial: bool = False
    transactional: Callable[[Any], bool] = lambda settings: False
    delivery: dict[str, Any] = field(default_factory=dict)
    example: dict[str, Any] = field(default_factory=dict)
