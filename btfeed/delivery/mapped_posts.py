"""The journal as the sinks see it: mapped posts, each decoded and mapped once for all sinks near the head.

Mapping runs on threads of its own, so that the event loop answers posts meanwhile: the native one on as many as there are
processors. Small posts go there in groups, since the way to a thread and back costs more than to map one. Whoever asks gets
them in the journal's order. What was mapped is kept until each sink has had it, the least recently used going first, up to
a budget of bytes: sinks near the head share it, a sink far behind maps again what the others have long had, and costs no
more memory for it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from btfeed.journal.base import DeadLetter, Entry
from btfeed.posts.post import Malformed, event_id_prefix
from btfeed.records.mapper import PostMapper
from btfeed.records.result import Counts, MappingResult
from btfeed.records.schema import DIMENSIONS, VALUES
from btfeed.telemetry.metrics import Metrics
from sinks.batch import Batch

log = structlog.get_logger()

BUDGET = 64 * 2**20
"""Bytes of mapped posts that are kept."""
RECORD_OVERHEAD = 400
"""Bytes that a record takes beside its body, about; a post without records as much."""
GROUP_BYTES = 2**18
"""Bodies that are mapped at a time on one thread, about,"""
GROUP_MAPPED = 2**24
"""as long as they do not become more than this; what is left of the group is mapped when it is asked for."""


@dataclass(frozen=True, slots=True)
class MappedPost:
    """A post as records. dead_letters: its occurrences that are not to be delivered, or the post itself."""

    seq: int
    received: int
    batch: Batch
    dead_letters: list[DeadLetter]

    @property
    def nbytes(self) -> int:
        letters = sum(len(letter.body) for letter in self.dead_letters)
        records = 1 + len(self.batch) + len(self.dead_letters)
        return self.batch.nbytes + letters + records * RECORD_OVERHEAD


Group = dict[int, MappedPost]
"""Posts that were mapped together, by their number in the journal."""


class MappedPosts:
    """Mapped posts by their number in the journal, for so many `sinks`."""

    def __init__(self, mapper: PostMapper, metrics: Metrics, sinks: int, budget: int = BUDGET) -> None:
        self._mapper = mapper
        self._metrics = metrics
        self._sinks = sinks
        self._budget = budget
        self._threads = ThreadPoolExecutor(mapper.threads, thread_name_prefix="mapping")
        self._posts: OrderedDict[int, MappedPost] = OrderedDict()
        self._had: dict[int, int] = {}  # how many sinks have had those of them that some have
        self._pending: dict[int, asyncio.Task[Group]] = {}
        self._total = 0
        self._begun = 0  # the highest number that was begun
        self._uncounted: set[int] = set()  # posts up to there that are not in the metrics yet

    async def map(self, entry: Entry, following: Iterable[Entry] = ()) -> MappedPost:
        """What the post in `entry` became, now or when another sink asked. Of those `following`, which will be asked for,
        as many are begun as keep all threads busy."""
        seq = entry.seq
        while True:
            post = self._posts.get(seq)
            if post is None:
                if seq not in self._pending:
                    self._begin(entry, following)
                post = (await asyncio.shield(self._pending[seq])).get(seq)
            if post:
                self._let_go(post)
                return post

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, entry: Entry, following: Iterable[Entry]) -> None:
        """Begin a group for each thread, the first one with `entry`."""
        groups, size = [[entry]], len(entry.post.body)
        for other in following:
            if size >= GROUP_BYTES:
                if len(groups) == self._mapper.threads:
                    break
                groups.append([])
                size = 0
            if other.seq not in self._posts and other.seq not in self._pending:
                groups[-1].append(other)
                size += len(other.post.body)
        for group in filter(None, groups):
            seqs = [each.seq for each in group]
            self._pending |= dict.fromkeys(seqs, asyncio.create_task(self._map(group)))
            self._uncounted.update(seq for seq in seqs if seq > self._begun)
            self._begun = max(self._begun, seqs[-1])

    async def _map(self, group: Sequence[Entry]) -> Group:
        """The first of them at least."""
        try:
            given = [(entry.post.body, entry.digest) for entry in group]
            mapping = asyncio.get_running_loop().run_in_executor(self._threads, self._mapper.map_all, given, GROUP_MAPPED)
            posts = {}
            for entry, mapped in zip(group, await mapping, strict=False):
                posts[entry.seq] = self._mapped_post(entry, mapped)
                self._keep(posts[entry.seq])
            return posts
        finally:
            for entry in group:
                del self._pending[entry.seq]

    def _mapped_post(self, entry: Entry, mapped: MappingResult | Exception) -> MappedPost:
        received = entry.post.received
        if isinstance(mapped, Exception):
            malformed = isinstance(mapped, Malformed)
            if not malformed:
                log.error("a bug in mapping; the post is kept with the dead letters", post=entry.seq, exc_info=mapped)
            reason = str(mapped) if malformed else f"mapping failed: {mapped!r}"
            prefix = event_id_prefix(entry.digest)  # so that it is kept once, however many sinks come by
            letters = [DeadLetter("post", "", reason, received, entry.post.body, event_id=prefix)]
            mapped = MappingResult(Batch(), [], Counts())
        else:
            letters = [
                DeadLetter("record", "", refused.reason, received, refused.body, 1, refused.id, refused.key,
                           refused.timestamp, refused.transaction)
                for refused in mapped.refused
            ]  # fmt: skip
        if entry.seq in self._uncounted:
            self._uncounted.discard(entry.seq)
            self._count(mapped.counts, letters)
        return MappedPost(entry.seq, received, mapped.batch, letters)

    def _keep(self, post: MappedPost) -> None:
        self._posts[post.seq] = post
        self._total += post.nbytes
        while self._total > self._budget and len(self._posts) > 1:
            self._drop(next(iter(self._posts)))

    def _let_go(self, post: MappedPost) -> None:
        """One sink more has had it; the last one takes it along."""
        had = self._had.get(post.seq, 0) + 1
        if post.seq not in self._posts:
            return
        if had >= self._sinks:
            self._drop(post.seq)
        else:
            self._had[post.seq] = had
            self._posts.move_to_end(post.seq)

    def _drop(self, seq: int) -> None:
        self._total -= self._posts.pop(seq).nbytes
        self._had.pop(seq, None)

    def _count(self, counts: Counts, letters: list[DeadLetter]) -> None:
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
        metrics.lost_transactions.inc(max(0, counts.lost))
        for letter in letters:
            metrics.dead_letters.labels("", "invalid" if letter.kind == "record" else "malformed").inc()
