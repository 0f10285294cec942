"""The journal in Kafka as the app sees it: an intake, the outlets of each sink, and the dead letters.

A process that only receives has no outlets and no dead letters, one that only delivers no intake and no spill. Kafka need
not be there when the journal opens: what needs it begins as soon as it is, and says so until then.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import structlog

from btfeed.journal.base import DeadLetter, DeadLetters, JournalUnavailable, Kept
from btfeed.journal.kafka import clients
from btfeed.journal.kafka.cluster import MAX_BODY, Cluster
from btfeed.journal.kafka.consumer import Consumer, ConsumerSettings
from btfeed.journal.kafka.group import KafkaOutlets
from btfeed.journal.kafka.group_consumer import GroupConsumer
from btfeed.journal.kafka.intake import CLOSED, KafkaIntake
from btfeed.journal.kafka.letters import Letters
from btfeed.journal.kafka.reading import AGAIN
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.journal.kafka.shared import TUNING, Shared, Tuning
from btfeed.posts.post import Post
from btfeed.telemetry.metrics import Metrics
from btfeed.worker import Worker
from sinks.settings import Settings
from sinks.shared.clock import SYSTEM_CLOCK, Clock

log = structlog.get_logger()


class KafkaJournal:
    """See btfeed.journal.base.Journal, and btfeed.journal.create.create. Needs a running event loop."""

    def __init__(
        self,
        settings: KafkaJournalSettings,
        starts: Mapping[str, str],
        metrics: Metrics,
        max_occurrences: int,
        *,
        max_body: int = MAX_BODY,
        receives: bool = True,
        delivers: bool = True,
        clock: Clock = SYSTEM_CLOCK,
        tuning: Tuning = TUNING,
        worker: Worker | None = None,
    ) -> None:
        self._shown = metrics.kafka_journal  # from now on
        self._shown.retention.set(settings.retention)
        self.settings = settings
        self._starts = starts
        self._metrics = metrics
        self._clock = clock
        self._closed = asyncio.Event()
        self._intake = KafkaIntake(settings, metrics, max_body, clock=clock, worker=worker) if receives else None
        self._cluster = Cluster(settings, max_body, clock)
        self._delivers = delivers
        self._letters = Letters(settings, metrics, max_occurrences, clock=clock)
        self._shared = Shared(settings, metrics, self._letters, self._start_consumer, self._closed, clock, tuning)
        self._outlets: dict[str, KafkaOutlets] = {}
        self._ready = asyncio.Event()  # topics exist, and the dead letters were read
        self._problem = "Kafka does not answer"
        self._preparing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        if self._intake:
            await self._intake.open()
        if self._delivers:
            self._preparing = asyncio.create_task(self._prepare(), name="topics and dead letters")

    async def _prepare(self) -> None:
        """Make the topics and read the dead letters, trying until it works."""
        told = ""
        while True:
            try:
                with clients.unavailable():
                    await self._cluster.prepare(self._cluster.names.topics)
                    self._problem = "the topic of dead letters is still being read"
                    await self._letters.open()
                break
            except JournalUnavailable as error:
                self._problem = str(error)
                if self._problem != told:
                    log.warning("can't use the journal's topics, retrying", error=self._problem)
                told = self._problem
                await self._clock.sleep(AGAIN)
        self._ready.set()

    async def _until_ready(self) -> None:
        """Raises JournalUnavailable if Kafka is away, or if a person has to act."""
        if self._closed.is_set() or not self._delivers:
            raise JournalUnavailable(CLOSED if self._closed.is_set() else "this process does not deliver")
        if not self._ready.is_set():
            try:
                async with self._clock.timeout(self.settings.request_timeout):
                    await self._ready.wait()
            except TimeoutError:
                raise JournalUnavailable(self._problem) from None

    async def _start_consumer(self, sink: str, settings: ConsumerSettings) -> Consumer:
        await self._until_ready()
        consumer = await GroupConsumer.start(self._cluster.access, settings, self._metrics.kafka_journal, sink, self._clock)
        try:
            await consumer.know([self._cluster.names.posts, self._cluster.names.retries])
        except BaseException:
            await consumer.stop()
            raise
        return consumer

    # Posts go in

    @property
    def refusing(self) -> str | None:
        if self._closed.is_set():
            return CLOSED
        return self._intake.refusing if self._intake else "this process does not receive posts"

    def append(self, post: Post) -> "asyncio.Future[bytes]":
        return self._receiving().append(post)

    async def add_dead_letter(self, dead_letter: DeadLetter) -> None:
        await self._receiving().add_dead_letter(dead_letter)

    def _receiving(self) -> KafkaIntake:
        if self._closed.is_set() or self._intake is None:
            raise JournalUnavailable(CLOSED if self._closed.is_set() else "this process does not receive posts")
        return self._intake

    # Posts go out

    def outlets(self, sink: str) -> KafkaOutlets:
        self._outlets[sink] = KafkaOutlets(sink, self._starts[sink], self._shared)
        return self._outlets[sink]

    def problems(self) -> Mapping[str, str]:
        """Sinks of which a person has to know something, such as that another process has the name of this one -> what."""
        return {sink: outlets.problem for sink, outlets in self._outlets.items() if outlets.problem}

    def leave(self) -> None:
        """Give up the memberships at `close`, so that other processes take over at once instead of after a session. For a
        process that does not come back."""
        self._shared.leaving = True

    # Dead letters and pauses

    def dead_letters(self) -> AbstractContextManager[DeadLetters]:
        """The dead letters for other threads, see Letters.view."""
        return self._letters.view()

    async def kept(self) -> Sequence[Kept]:
        await self._until_ready()
        return await self._letters.kept()

    async def paused(self) -> Mapping[str, int]:
        await self._until_ready()
        return await self._letters.paused()

    async def pause(self, sink: str) -> None:
        await self._until_ready()
        await self._letters.pause(sink)

    async def resume(self, sink: str) -> None:
        await self._until_ready()
        await self._letters.resume(sink)

    # The rest

    async def reconfigure(self, settings: Settings, starts: Mapping[str, str], max_occurrences: int) -> None:
        assert isinstance(settings, KafkaJournalSettings)
        if self._closed.is_set():
            raise JournalUnavailable(CLOSED)
        if self._delivers:
            for sink in starts.keys() - self._starts.keys():
                await KafkaOutlets(sink, starts[sink], self._shared).begin_group()
        self._starts = starts
        self._outlets = {sink: outlets for sink, outlets in self._outlets.items() if sink in starts}
        self.settings = self._shared.settings = settings
        self._letters.reconfigure(max_occurrences)
        if self._intake:
            self._intake.reconfigure(settings)

    async def answer(self) -> None:
        """The event loop answers; that Kafka does not is no hang of this process."""
        if self._closed.is_set():
            raise JournalUnavailable(CLOSED)
        if self._intake:
            await self._intake.answer()

    async def close(self) -> None:
        self._closed.set()
        if self._preparing:
            self._preparing.cancel()
            await asyncio.wait({self._preparing})
        if self._intake:
            await self._intake.idle()  # each ends within its timeout
            await self._intake.close()
        await self._letters.close()
        await self._cluster.close()
