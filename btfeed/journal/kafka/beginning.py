"""Where a sink begins to read: as a whole when it is new, and each time when it is assigned partitions."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import partial

import structlog
from aiokafka import TopicPartition

from btfeed.journal.base import Cursor, Damaged, DeadLetter, JournalUnavailable, OutletGone
from btfeed.journal.kafka.commits import JoinedCommits
from btfeed.journal.kafka.consumer import NOBODY, Consumer, Member, Saved, Span
from btfeed.journal.kafka.metadata import Metadata
from btfeed.journal.kafka.outlet import AnyOutlet, KafkaOutlet, Membership, RetriesOutlet
from btfeed.journal.kafka.shared import Shared

log = structlog.get_logger()


async def begin_group(consumer: Consumer, posts: str, start: str) -> None:
    """Save where a new sink begins, in all partitions of the topic `posts` together, while its group has no members. A
    partition that is added later starts at its oldest post, whatever `start` says: posts may be in it before we know it."""
    places = consumer.partitions(posts)
    if await consumer.saved(places):
        return
    spans = await consumer.spans(places)
    first = {place: span.first if start == "oldest" else span.next for place, span in spans.items()}
    with suppress(OutletGone):  # the group has members: one of them did it
        await consumer.save(NOBODY, {place: Saved(offset, Metadata().text()) for place, offset in first.items()})


class Beginning:
    """Makes the outlets of one assignment, and knows what they meet."""

    def __init__(self, sink: str, shared: Shared, consumer: Consumer, member: Member) -> None:
        self._sink = sink
        self._shared = shared
        self._consumer = consumer
        self._member = member
        self._log = log.bind(sink=sink)

    async def outlets(self, places: Collection[TopicPartition], sure: bool) -> list[AnyOutlet]:
        """The outlets of these partitions, in their order. sure: whether it is believed if one ends before its cursor.
        Raises JournalUnavailable, or OutletGone if another assignment is under way."""
        consumer = self._consumer
        saved = await consumer.saved(places)
        spans = await consumer.spans(places)
        cursors = {place: _cursor(place, saved.get(place), spans[place], sure) for place in places}
        changed = {
            place: Saved(cursor.seq, metadata.text())
            for place, (cursor, metadata) in cursors.items()
            if place not in saved or saved[place].offset != cursor.seq or self._has_state(metadata)
        }
        if changed:  # so that a crash does not move it, and nothing is counted twice
            await consumer.save(self._member, changed)
        for place in changed.keys() & saved.keys():
            if saved[place].offset != changed[place].offset:
                self._tell_moved(place, saved[place].offset, changed[place].offset)
        return self._make(cursors, spans)

    def _has_state(self, metadata: Metadata) -> bool:
        """Whether the sink continues what a state of this process describes. Brokers do not tell of what another process
        was still saving. If it showed later, it would be newer than what the sink has: so the state is saved again. Sinks
        that write in transactions have none: what they were still saving has to count."""
        return self._shared.settings.instance_name in metadata.states

    def _make(
        self, cursors: Mapping[TopicPartition, tuple[Cursor, Metadata]], spans: Mapping[TopicPartition, Span]
    ) -> list[AnyOutlet]:
        membership = self._membership()
        found: list[AnyOutlet] = []
        for place, (cursor, metadata) in cursors.items():
            if place.topic == self._shared.names.posts:
                found.append(KafkaOutlet(membership, place, cursor, metadata, spans[place].first))
            else:
                self._consumer.seek(place, cursor.seq)
                self._consumer.pause(place)  # letters.py reads it
                found.append(RetriesOutlet(membership, place, cursor, metadata))
        return found

    def _membership(self) -> Membership:
        return Membership(
            self._sink,
            self._shared.names.group(self._sink),
            self._shared.settings.instance_name,
            self._consumer,
            self._shared.letters,
            JoinedCommits(partial(self._consumer.save, self._member)).save,
            self._shared.metrics.kafka_journal.repeated_posts.labels(self._sink).inc,
            self._keep_damaged,
            self._out_of_range,
            self._count_lost,
            self._shared.closed,
            self._shared.clock,
        )

    def _tell_moved(self, place: TopicPartition, before: int, now: int) -> None:
        """Say that a cursor was out of range. Those of retries are of no consequence: letters.py knows its marks."""
        if place.topic != self._shared.names.posts:
            return
        if now > before:
            self._shared.metrics.journal_dropped_posts.labels(self._sink).inc(now - before)
            self._log.error(
                "posts dropped before the sink had them: it was behind for longer than journal.retention",
                partition=place.partition, posts=now - before,
            )  # fmt: skip
        else:
            self._log.error(
                "the partition ends before the sink's cursor: brokers have lost posts; the sink goes on with the next one",
                partition=place.partition, cursor=before, next=now,
            )  # fmt: skip

    async def _out_of_range(self, outlet: KafkaOutlet, at: int) -> int:
        """Where an outlet goes on whose position is no longer in the partition."""
        span = (await self._consumer.spans([outlet.place]))[outlet.place]
        if at > span.next:
            raise JournalUnavailable(f"partition {outlet.partition} ends before the cursor")
        if at < span.first:
            self._tell_moved(outlet.place, at, span.first)
        return max(at, span.first)

    async def _keep_damaged(self, partition: int, damaged: Damaged) -> None:
        known = (partition, damaged.seq)
        if known in self._shared.damaged:  # by another sink, or this one before
            return
        reason = "damaged: its digest does not match"
        await self._shared.letters.add_post(DeadLetter("post", "", reason, damaged.received, damaged.body, cause="damaged"))
        self._shared.damaged.add(known)
        self._log.error("damaged post moved to the dead letters", partition=partition, post=damaged.seq)
        self._shared.metrics.journal_damaged_posts.inc()
        self._shared.metrics.dead_letters.labels(sink="", reason="damaged").inc()

    def _count_lost(self, partition: int, seq: int) -> None:
        if (partition, seq) not in self._shared.damaged:  # once for all sinks
            self._shared.damaged.add((partition, seq))
            self._shared.metrics.journal_lost_posts.inc()


def _cursor(place: TopicPartition, saved: Saved | None, span: Span, sure: bool) -> tuple[Cursor, Metadata]:
    """Where to go on, within what the partition has."""
    if saved is None:
        return Cursor(span.first), Metadata()
    metadata = Metadata.parse(saved.metadata)
    if span.first <= saved.offset <= span.next:
        return Cursor(saved.offset, metadata.ordinal), metadata
    if saved.offset > span.next and not sure:
        raise JournalUnavailable(f"partition {place.partition} seems to end before the cursor, asking again")
    return Cursor(span.first if saved.offset < span.first else span.next), metadata
