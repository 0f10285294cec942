"""Mapped posts: each post is decoded and mapped once, for all sinks that are near the head of the journal.

Mapping runs on threads of its own, so that the event loop can answer posts meanwhile: as many as there are processors for
the native mapper. Small posts are mapped in groups, since handing one to a thread costs more than mapping it. A mapped post
is kept until each sink has taken it, within a budget of bytes, beyond which the least recently used go first. So sinks
near the head share the work, and a sink far behind maps again what the others have taken, without using more memory.
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
class MappedPost:
    """A post as records. dead_letters: occurrences that validation rejected, or the post itself if it can't be mapped.
    nbytes: what it takes in memory, approximately."""

    received: int
    batch: Batch
    dead_letters: list[DeadLetter]
    nbytes: int


Key = tuple[int, int]
"""A post's partition and number."""
Group = dict[Key, MappedPost]
"""Posts that were mapped together."""


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
        self._posts: OrderedDict[Key, MappedPost] = OrderedDict()
        self._had: dict[Key, int] = {}  # how many sinks have taken a post, for those that at least one has taken
        self._pending: dict[Key, asyncio.Task[Group]] = {}
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

    async def map(self, partition: int, entry: Entry, following: Iterable[Entry] = ()) -> MappedPost:
        """The post in `entry`, mapped now or for another sink. Also begins to map as many of the entries `following` as
        keep all threads busy, since they will be asked for next."""
        key = partition, entry.seq
        while True:
            post = self._posts.get(key)
            if post is None:
                if key not in self._pending:
                    self._begin(partition, entry, following)
                post = (await asyncio.shield(self._pending[key])).get(key)  # None: its group ended early; begin another
            if post:
                self._count_use(key)
                return post

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
        """Begin one group per thread, the first one with `entry`."""
        groups, size = [[entry]], len(entry.post.body)
        for other in following:
            if size >= self._group_bytes:
                if len(groups) == self._mapper.threads:
                    break
                groups.append([])
                size = 0
            key = partition, other.seq
            if key not in self._posts and key not in self._pending:
                groups[-1].append(other)
                size += len(other.post.body)
        for group in filter(None, groups):
            keys = [(partition, each.seq) for each in group]
            self._pending |= dict.fromkeys(keys, asyncio.create_task(self._map(partition, group)))
            begun = self._begun.get(partition, 0)
            self._uncounted.update(key for key in keys if key[1] > begun)
            self._begun[partition] = max(begun, group[-1].seq)

    async def _map(self, partition: int, group: Sequence[Entry]) -> Group:
        """Map at least the first of them."""
        try:
            given = [(entry.post.body, entry.digest) for entry in group]
            run = asyncio.get_running_loop().run_in_executor
            mapping = run(self._threads, self._mapper.map_all, given, self._group_mapped)
            posts: Group = {}
            counts = Counts()
            for entry, mapped in zip(group, await mapping, strict=False):
                key = partition, entry.seq
                posts[key] = self._mapped_post(key, entry, mapped, counts)
                self._keep(key, posts[key])
            self._count(counts)
            return posts
        finally:
            for entry in group:
                del self._pending[partition, entry.seq]

    def _mapped_post(self, key: Key, entry: Entry, mapped: MappingResult | Exception, counts: Counts) -> MappedPost:
        """counts: of its group."""
        received = entry.post.received
        if isinstance(mapped, Exception):
            if not isinstance(mapped, Malformed):
                event = "bug in mapping, post kept as dead letter"
                self._warnings.error(event, repr(type(mapped)), post=entry.seq, exc_info=mapped)
            dead_letters = [_unmappable(entry, mapped)]
            mapped = MappingResult(Batch(), [], Counts())
        else:
            dead_letters = [
                DeadLetter("record", "", refused.reason, received, refused.body, 1, refused.id, refused.key,
                           refused.timestamp, refused.transaction, cause="invalid")
                for refused in mapped.refused
            ]  # fmt: skip
        if key in self._uncounted:
            self._uncounted.discard(key)
            counts.add(mapped.counts)
            if dead_letters:
                self._count_dead_letters(dead_letters)
            transactions = mapped.batch.transactions or [refused.transaction for refused in mapped.refused]
            if transactions:
                self._metrics.details.mapped(transactions[0].server, received, mapped.counts.occurrences)
        nbytes = mapped.batch.nbytes + sum(len(dead_letter.body) for dead_letter in dead_letters)
        records = 1 + len(mapped.batch) + len(dead_letters)
        return MappedPost(received, mapped.batch, dead_letters, nbytes + records * RECORD_OVERHEAD)

    def _keep(self, key: Key, post: MappedPost) -> None:
        self._posts[key] = post
        self._total += post.nbytes
        while self._total > self._budget and len(self._posts) > 1:
            self._drop(next(iter(self._posts)))

    def _count_use(self, key: Key) -> None:
        """One more sink has taken it. Drops it after the last one."""
        had = self._had.get(key, 0) + 1
        if key not in self._posts:
            return
        if had >= (self._takers[key[0]] or self._sinks):
            self._drop(key)
        else:
            self._had[key] = had
            self._posts.move_to_end(key)

    def _drop(self, key: Key) -> None:
        self._total -= self._posts.pop(key).nbytes
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

    def _count_dead_letters(self, dead_letters: list[DeadLetter]) -> None:
        for cause, number in Counter(dead_letter.cause for dead_letter in dead_letters).items():
            self._metrics.dead_letters.labels("", cause).inc(number)
            self._warnings.warn(KEPT, cause, number, sink="", cause=cause, reason=dead_letters[-1].reason)


def _unmappable(entry: Entry, error: Exception) -> DeadLetter:
    """The dead letter of a post that can't be mapped."""
    reason = str(error) if isinstance(error, Malformed) else f"mapping failed: {error!r}"
    event_id = event_id_prefix(entry.digest)  # so that it is kept once, however many sinks meet it
    return DeadLetter("post", "", reason, entry.post.received, entry.post.body, event_id=event_id, cause="malformed")
