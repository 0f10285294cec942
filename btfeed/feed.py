"""The journal as the sinks see it: mapped posts, each decoded and mapped once for all sinks near the head.

Mapping runs on threads of its own, so that the event loop answers posts meanwhile: the native one on as many as there are
processors, several posts at a time; whoever asks gets them in the journal's order. What was mapped is kept, the least
recently used going first, up to a budget of bytes: sinks near the head share it, a sink far behind maps again what the
others have long had, and costs no more memory for it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import structlog

from btfeed.journal.base import DeadLetter, Entry
from btfeed.mapping import Counts, Mapped
from btfeed.metrics import Metrics
from btfeed.post import Malformed, event_id_prefix
from btfeed.schema import DIMENSIONS, VALUES
from btfeed.transcode import PostMapper
from sinks.base import Batch

log = structlog.get_logger()

BUDGET = 64 * 2**20
"""Bytes of mapped posts that are kept."""
RECORD_OVERHEAD = 400
"""Bytes that a record takes beside its body, about; a post without records as much."""


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


class Feed:
    """Mapped posts by their number in the journal."""

    def __init__(self, mapper: PostMapper, metrics: Metrics, budget: int = BUDGET) -> None:
        self._mapper = mapper
        self._metrics = metrics
        self._budget = budget
        self._threads = ThreadPoolExecutor(mapper.threads, thread_name_prefix="mapping")
        self._others = mapper.threads - 1  # posts that are worth mapping beside the one that is asked for
        self._posts: OrderedDict[int, MappedPost] = OrderedDict()
        self._pending: dict[int, asyncio.Task[MappedPost]] = {}
        self._total = 0
        self._counted = 0  # posts up to this number are in the metrics, or will be when they are mapped

    async def map(self, entry: Entry, following: Iterable[Entry] = ()) -> MappedPost:
        """What the post in `entry` became, now or when another sink asked. Of those `following`, which will be asked for,
        as many are begun as can be mapped beside it."""
        post = self._posts.get(entry.seq)
        task = None if post else self._begin(entry)
        for other in islice(following, self._others):
            if other.seq not in self._posts:
                self._begin(other)
        if task:
            return await asyncio.shield(task)
        assert post
        self._posts.move_to_end(entry.seq)
        return post

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, entry: Entry) -> "asyncio.Task[MappedPost]":
        task = self._pending.get(entry.seq)
        if task is None:
            first = entry.seq > self._counted
            self._counted = max(entry.seq, self._counted)
            task = self._pending[entry.seq] = asyncio.create_task(self._map(entry, first))
            task.add_done_callback(lambda _: self._pending.pop(entry.seq))
        return task

    async def _map(self, entry: Entry, first: bool) -> MappedPost:
        """Map a post, and count it where it is the `first` time."""
        body, digest = entry.post.body, entry.post.digest
        try:
            mapped = await asyncio.get_running_loop().run_in_executor(self._threads, self._mapper.map, body, digest)
        except Exception as error:
            if not isinstance(error, Malformed):
                log.exception("a bug in mapping; the post is kept with the dead letters", post=entry.seq)
            reason = str(error) if isinstance(error, Malformed) else f"mapping failed: {error!r}"
            prefix = event_id_prefix(digest)  # so that it is kept once, however many sinks come by
            letter = DeadLetter("post", "", reason, entry.post.received, body, event_id=prefix)
            mapped, letters = Mapped(Batch(), [], Counts()), [letter]
        else:
            letters = [
                DeadLetter("record", "", refused.reason, entry.post.received, refused.body, 1, refused.id, refused.key,
                           refused.timestamp, refused.transaction)
                for refused in mapped.refused
            ]  # fmt: skip
        if first:
            self._count(mapped.counts, letters)
        post = MappedPost(entry.seq, entry.post.received, mapped.batch, letters)
        self._keep(post)
        return post

    def _keep(self, post: MappedPost) -> None:
        self._posts[post.seq] = post
        self._total += post.nbytes
        while self._total > self._budget and len(self._posts) > 1:
            _, oldest = self._posts.popitem(last=False)
            self._total -= oldest.nbytes

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
