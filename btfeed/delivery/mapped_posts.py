"""Mapped posts: each post is decoded and mapped once, for all sinks that are near the head of the journal.

Mapping runs on threads of its own, so that the event loop can answer posts meanwhile: as many as there are processors for
the native mapper. Posts are mapped in groups, since handing one to a thread may cost more than mapping it. They stay
together as runs, since an object for each costs more, too. A run is kept until each sink has taken it, within a budget of
bytes, beyond which the least recently used go first. So sinks near the head share the work, and a sink far behind maps
again what the others have taken, without using more memory.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from btfeed.delivery.report import KEPT
from btfeed.journal.base import DeadLetter, Entry
from btfeed.posts.post import Malformed, event_id_prefix
from btfeed.records.mapper import PostMapper
from btfeed.records.result import Counts, MappingResult
from btfeed.records.schema import DIMENSIONS, VALUES
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.warnings import SummedWarnings
from sinks.batch import Batch

BUDGET = 64 * 2**20
"""Bytes of mapped posts to keep."""
RECORD_OVERHEAD = 400
"""Bytes that a record takes besides its body, approximately. A post without records takes as many."""
GROUP_BYTES = 2**19
"""Bytes of bodies that one thread maps at a time, approximately."""
GROUP_MAPPED = 2**24
"""Bytes of records after which a group ends early. The rest of it is mapped when it is asked for."""


@dataclass(frozen=True, slots=True)
class MappedRun:
    """A post as records, or several in a row. A post with dead letters is alone.

    seqs, received  the number of each post, and when it was received, in milliseconds since the epoch
    ends            the number of records up to the end of each post
    dead_letters    occurrences that validation rejected, or the post itself if it can't be mapped
    nbytes          what it takes in memory, approximately
    """

    seqs: Sequence[int]
    received: Sequence[int]
    ends: Sequence[int]
    batch: Batch
    dead_letters: list[DeadLetter]
    nbytes: int


Key = tuple[int, int]
"""A post's partition and number."""
Runs = dict[Key, MappedRun]
"""By each of their posts."""


class MappedPosts:
    """The mapped posts of all partitions. sinks: how many sinks take each post of a partition of which no delivery is
    `taking` posts."""

    def __init__(
        self,
        mapper: PostMapper,
        metrics: Metrics,
        sinks: int = 1,
        budget: int = BUDGET,
        *,
        group_bytes: int = GROUP_BYTES,
        group_mapped: int = GROUP_MAPPED,
    ) -> None:
        self._mapper = mapper
        self._metrics = metrics
        self._warnings = SummedWarnings()
        self._sinks = sinks
        self._takers: Counter[int] = Counter()  # by partition
        self._budget = budget
        self._group_bytes = group_bytes
        self._group_mapped = group_mapped
        self._threads = ThreadPoolExecutor(mapper.threads, thread_name_prefix="mapping")
        self._posts: OrderedDict[Key, MappedRun] = OrderedDict()  # by the first post
        self._runs: Runs = {}  # the same
        self._had: dict[Key, int] = {}  # how many sinks have taken a run, for those that at least one has taken
        self._pending: dict[Key, asyncio.Task[Runs]] = {}
        self._total = 0  # bytes of self._posts
        self._begun: dict[int, int] = {}  # the highest number whose mapping was begun, by partition
        self._uncounted: set[Key] = set()  # posts up to that number that are not in the metrics yet

    @contextmanager
    def taking(self, partition: int) -> Iterator[None]:
        """One more sink takes the posts of this partition in the block."""
        self._takers[partition] += 1
        try:
            yield
        finally:
            self._takers[partition] -= 1

    async def map(self, partition: int, entry: Entry, following: Sequence[Entry] = ()) -> MappedRun:
        """The run with the post in `entry`, mapped now or for another sink. Also begins to map as many of the entries
        `following` as keep all threads busy, since they will be asked for next. The run is taken when its last post is one
        of them."""
        key = partition, entry.seq
        while True:
            run = self._runs.get(key)
            if run is None:
                if key not in self._pending:
                    self._begin(partition, entry, following)
                run = (await asyncio.shield(self._pending[key])).get(key)  # None: its group ended early; begin another
            if run:
                if (following[-1] if following else entry).seq >= run.seqs[-1]:
                    self._count_use((partition, run.seqs[0]))
                return run

    async def preview(self, entries: Sequence[Entry]) -> Batch:
        """The records of these posts, for display: they are not counted, and what can't be mapped is left out."""
        given = [(entry.post.body, entry.digest) for entry in entries]
        run = asyncio.get_running_loop().run_in_executor
        mapped = await run(self._threads, self._mapper.map_all, given, self._group_mapped)
        return Batch.concat([each.batch for each in mapped if isinstance(each, MappingResult)])

    async def use(self, mapper: PostMapper) -> None:
        """Map with `mapper` from now on. Call this while nothing asks for posts. Each post still counts once."""
        await asyncio.gather(*self._pending.values(), return_exceptions=True)
        self._mapper = mapper
        for key in list(self._posts):
            self._drop(key)

    def close(self) -> None:
        self._warnings.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, partition: int, entry: Entry, following: Iterable[Entry]) -> None:
        """Begin one group per thread, the first one with `entry`. Ends before a post that is mapped, or counted, already if
        `entry` is not, so that each group is posts in a row that count alike."""
        begun = self._begun.get(partition, 0)

        def counts(seq: int) -> bool:
            return seq > begun or (partition, seq) in self._uncounted

        groups, size, alike = [[entry]], len(entry.post.body), counts(entry.seq)
        for other in following:
            if size >= self._group_bytes:
                if len(groups) == self._mapper.threads:
                    break
                groups.append([])
                size = 0
            key = partition, other.seq
            if key in self._runs or key in self._pending or counts(other.seq) is not alike:
                break
            groups[-1].append(other)
            size += len(other.post.body)
        for group in filter(None, groups):
            keys = [(partition, each.seq) for each in group]
            self._pending |= dict.fromkeys(keys, asyncio.create_task(self._map(partition, group)))
            if alike:
                self._uncounted.update(keys)
            self._begun[partition] = max(self._begun.get(partition, 0), group[-1].seq)

    async def _map(self, partition: int, group: Sequence[Entry]) -> Runs:
        """Map at least the first of them."""
        try:
            given = [(entry.post.body, entry.digest) for entry in group]
            run = asyncio.get_running_loop().run_in_executor
            mapping = run(self._threads, self._mapper.map_all, given, self._group_mapped)
            runs: Runs = {}
            counts = Counts()
            place = 0
            for mapped in await mapping:
                following = place + (len(mapped.ends) or 1 if isinstance(mapped, MappingResult) else 1)
                runs |= self._keep(partition, self._run(partition, group[place:following], mapped, counts))
                place = following
            self._count(counts)
            return runs
        finally:
            for entry in group:
                del self._pending[partition, entry.seq]

    def _run(
        self, partition: int, entries: Sequence[Entry], mapped: MappingResult | Exception, counts: Counts
    ) -> MappedRun:
        """counts: of its group."""
        received = [entry.post.received for entry in entries]
        if isinstance(mapped, Exception):
            (entry,) = entries
            if not isinstance(mapped, Malformed):
                event = "bug in mapping, post kept as dead letter"
                self._warnings.error(event, repr(type(mapped)), post=entry.seq, exc_info=mapped)
            dead_letters = [_unmappable(entry, mapped)]
            mapped = MappingResult(Batch(), [], Counts())
        else:
            dead_letters = [
                DeadLetter("record", "", refused.reason, received[0], refused.body, 1, refused.id, refused.key,
                           refused.timestamp, refused.transaction, cause="invalid")
                for refused in mapped.refused
            ]  # fmt: skip
        batch, seqs = mapped.batch, [entry.seq for entry in entries]
        ends = mapped.ends or [len(batch)]
        if (partition, seqs[0]) in self._uncounted:
            self._uncounted.difference_update((partition, seq) for seq in seqs)
            counts.add(mapped.counts)
            if dead_letters:
                self._count_dead_letters(dead_letters)
            self._count_sources(mapped, ends, received)
        nbytes = batch.nbytes + sum(len(dead_letter.body) for dead_letter in dead_letters)
        records = len(seqs) + len(batch) + len(dead_letters)
        return MappedRun(seqs, received, ends, batch, dead_letters, nbytes + records * RECORD_OVERHEAD)

    def _keep(self, partition: int, run: MappedRun) -> Runs:
        """Returns it by each of its posts."""
        found = dict.fromkeys([(partition, seq) for seq in run.seqs], run)
        self._posts[partition, run.seqs[0]] = run
        self._runs |= found
        self._total += run.nbytes
        while self._total > self._budget and len(self._posts) > 1:
            self._drop(next(iter(self._posts)))
        return found

    def _count_use(self, key: Key) -> None:
        """One more sink has taken the run that begins with this post. Drops it after the last one."""
        had = self._had.get(key, 0) + 1
        if key not in self._posts:
            return
        if had >= (self._takers[key[0]] or self._sinks):
            self._drop(key)
        else:
            self._had[key] = had
            self._posts.move_to_end(key)

    def _drop(self, key: Key) -> None:
        run = self._posts.pop(key)
        for seq in run.seqs:
            del self._runs[key[0], seq]
        self._total -= run.nbytes
        self._had.pop(key, None)

    def _count(self, counts: Counts) -> None:
        metrics = self._metrics
        for category, number in counts.occurrences.items():
            metrics.occurrences.labels(category).inc(number)
        for (transaction, field, rule), number in counts.violations.items():
            metrics.count_violations(transaction, field, rule, number)
        for name, number in counts.left_out.items():
            prefixes = [p.record for p in (VALUES, DIMENSIONS) if name.startswith(p.record)]
            metrics.left_out.labels(prefixes[0] if prefixes else name).inc(number)
        for (field, kind), number in counts.mismatches.items():
            metrics.mismatches.labels(field, kind).inc(number)
        for message, number in counts.unknown_fields.items():
            metrics.unknown_fields.labels(message).inc(number)
        metrics.invalid_utf8.inc(counts.invalid_utf8)
        metrics.lost_transactions.inc(counts.lost)

    def _count_sources(self, mapped: MappingResult, ends: Sequence[int], received: Sequence[int]) -> None:
        """By server: it is part of each business transaction, so that a post without records may not tell it."""
        transactions = mapped.batch.transactions or [refused.transaction for refused in mapped.refused]
        if not transactions:
            return
        last: dict[str, int] = {}
        posts: Counter[str] = Counter()
        for start, end, when in zip((0, *ends[:-1]), ends, received, strict=True):
            if start < end or mapped.refused:
                server = transactions[start].server
                last[server] = when
                posts[server] += 1
        for server, when in last.items():
            occurrences = mapped.counts.occurrences
            if len(last) > 1:
                occurrences = Counter(each.category for each in transactions if each.server == server)
            self._metrics.details.mapped(server, when, occurrences, posts[server])

    def _count_dead_letters(self, dead_letters: list[DeadLetter]) -> None:
        for cause, number in Counter(dead_letter.cause for dead_letter in dead_letters).items():
            self._metrics.dead_letters.labels("", cause).inc(number)
            self._warnings.warn(KEPT, cause, number, sink="", cause=cause, reason=dead_letters[-1].reason)


def _unmappable(entry: Entry, error: Exception) -> DeadLetter:
    """The dead letter of a post that can't be mapped."""
    reason = str(error) if isinstance(error, Malformed) else f"mapping failed: {error!r}"
    event_id = event_id_prefix(entry.digest)  # so that it is kept once, however many sinks meet it
    return DeadLetter("post", "", reason, entry.post.received, entry.post.body, event_id=event_id, cause="malformed")
