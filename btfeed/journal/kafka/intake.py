"""How posts get into a journal in Kafka.

A post is durable when all replicas in sync have it. Where they don't within `timeout`, it is written to the spill
(spill.py), or refused where there is no spill.

- While Kafka is away, posts go to the spill at once. Kafka is back when it acknowledges a post of the spill; posts go to it
  from then on, while the rest of the spill is forwarded beside them. So the order of posts is not kept across a spill.
- Without a spill every post is tried, as long as there is a producer at all: it may be the one that succeeds. `refusing`
  says that Kafka is away meanwhile, so that a balancer asks another machine.
- Each second the brokers are asked whether any partition takes posts, so that this is known before the next post comes.
- Kafka need not be there when the intake opens. Its topics are made and checked when it is.
- A post that a broker rejects for what is in it, such as its time, says nothing of others: it alone goes to the spill.
- A post that is larger than the topic takes is not sent: with aiokafka, its partition would take nothing more.
"""

import asyncio
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path

import structlog

from btfeed.journal.base import DeadLetter, JournalError, JournalFull, JournalUnavailable, PostTooLarge
from btfeed.journal.kafka import refused
from btfeed.journal.kafka.appending import Appending
from btfeed.journal.kafka.cluster import MAX_BODY, Cluster
from btfeed.journal.kafka.lane import NotAcknowledged, Rejected
from btfeed.journal.kafka.left_over import forward_left_over
from btfeed.journal.kafka.messages import to_message
from btfeed.journal.kafka.sending import Sending
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.journal.kafka.spill import Kafka, Spill
from btfeed.journal.kafka.topics import MESSAGE_OVERHEAD, TopicState
from btfeed.journal.kafka.worker import spill_directories
from btfeed.posts.post import Post
from btfeed.posts.source import server_name
from btfeed.telemetry.metrics import Metrics
from btfeed.worker import Worker
from sinks.base import Misconfigured, SinkError
from sinks.shared.clock import SYSTEM_CLOCK, Clock

log = structlog.get_logger()

START_TIMEOUT = 10.0
"""Seconds that the brokers may take to make topics while the intake opens, if they can be reached."""
PROBE = 1.0
"""Seconds between two questions to the brokers whether they take posts."""
PROBE_TIMEOUT = 2.0
"""Seconds that the brokers may take to answer it."""
SURE = 2
"""How often in a row that has to fail before it counts. A single question may meet a broker that just stopped."""
PREPARE = 60
"""Probes between two looks at the topics' configuration."""
CLOSED = "the journal is closed"


class KafkaIntake:
    """See btfeed.journal.base.Intake. max_body: `receiver.max_body`. worker: which of several receivers on this machine it
    is. Needs a running event loop."""

    def __init__(
        self,
        settings: KafkaJournalSettings,
        metrics: Metrics,
        max_body: int = MAX_BODY,
        cluster: Cluster | None = None,
        worker: Worker | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._own = metrics.kafka_journal
        self._clock = clock
        self.cluster = cluster or Cluster(settings, max_body, clock)
        self._names = self.cluster.names
        self._sending = Sending(
            self.cluster.access,
            self._names.posts,
            settings.timeout,
            settings.request_timeout,
            settings.compression,
            clock,
            self._own.producers.inc,
            patient=settings.spill.enabled,
        )
        self._spill: Spill | None = None
        self._left_over: list[Path] = []
        self._spills: list[Spill] = []  # that are open
        if settings.spill.enabled:
            own, self._left_over = spill_directories(Path(settings.spill.directory), worker)
            self._spill = self._new_spill(own, metrics)
        self._own.spill_posts.set_function(self._waiting)
        self._own.spill_bytes.set_function(lambda: sum(spill.nbytes for spill in self._spills))
        self._away: str | None = None  # why Kafka takes no posts
        self._away_since = 0.0
        self._failed_at = float("-inf")  # when it last took no post, by the monotonic clock
        self._largest: int | None = None  # bytes of a body that the topic takes; None while that is not known
        self._max_message = 0
        self._said: tuple[str, ...] = ()  # warnings that were logged
        self._usable = asyncio.Event()  # not set before topics were checked, or while a person has to act
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self._appending = Appending(self, self._own.append_seconds.observe, clock)

    # Open and close

    async def open(self) -> None:
        """Return when Kafka takes posts, or after `timeout` if it can't be reached: posts go to the spill then, or are
        refused.

        Raises JournalUnavailable if the spill can't be used, or if topics are not safe and `strict` is set.
        """
        if self._spill:
            await self._spill.open()
            self._spills.append(self._spill)
        try:
            async with self._clock.timeout(self._settings.timeout):
                await self.cluster.connect()
            async with self._clock.timeout(START_TIMEOUT):
                await self._prepare()
        except Misconfigured as error:
            if self._settings.strict:
                await self.close()
                raise JournalUnavailable(str(error)) from None
            self._refuse_kafka(error)
        except (SinkError, TimeoutError) as error:
            self._kafka_failed(str(error) or "the brokers do not answer in time")
        self._own.up.set(not self._away)
        self._tasks.append(asyncio.create_task(self._run_sending(), name="producer"))
        self._tasks.append(asyncio.create_task(self._probe(), name="probe of the brokers"))
        if self._spill:
            self._tasks.append(asyncio.create_task(self._spill.run(), name="spill"))
        for path in self._left_over:
            left_over = forward_left_over(partial(self._new_spill, path), self._spills, self._clock)
            self._tasks.append(asyncio.create_task(left_over, name=f"spill {path.name}"))
        if not self._away:  # so that the first post does not have to wait for the producer
            await self._sending.tried.wait()

    async def close(self) -> None:
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for spill in self._spills:
            await spill.close()
        await self.cluster.close()

    # Spills

    def _new_spill(self, directory: Path, metrics: Metrics | None = None) -> Spill:
        kafka = Kafka(self._forward, self._send_letter, lambda: not self._away, self._own.forwarded_posts.inc)
        return Spill(directory, self._settings, metrics or Metrics(), kafka, self._clock)

    def _waiting(self) -> int:
        """Posts in all spills of this process, with rejected ones."""
        return sum(spill.waiting for spill in self._spills)

    async def answer(self) -> None:
        """See Journal.answer."""
        if self._closed:
            raise JournalUnavailable(CLOSED)
        if self._spill:
            await self._spill.answer()

    def reconfigure(self, settings: KafkaJournalSettings) -> None:
        """Go on with other settings: `timeout` and `partition_by`."""
        self._settings = settings
        self._sending.timeout = settings.timeout

    # Posts

    @property
    def refusing(self) -> str | None:
        if not self._away:
            return None
        return self._spill.refusing if self._spill else self._away_text()

    @property
    def away(self) -> str | None:
        """Why posts go to the spill, or are refused; None while Kafka takes them."""
        return self._away_text() if self._away else None

    def _away_text(self) -> str:
        since = datetime.fromtimestamp(self._away_since).astimezone().isoformat(timespec="seconds")
        return f"Kafka takes no posts since {since}: {self._away}"

    def append(self, post: Post) -> "asyncio.Future[bytes]":
        return self._appending.append(post)

    async def idle(self) -> None:
        """Return when all posts so far are durable, or have failed."""
        await self._appending.idle()

    def send(self, post: Post, digest: bytes) -> "asyncio.Future[None] | None":
        """See Ways."""
        with suppress(JournalError):
            self._check_size(post)
            return None if self._closed or self._away else self._put(post, digest)
        return None

    def sent(self) -> None:
        """See Ways."""
        if not self._spill:
            self._kafka_works()

    async def keep(self, post: Post, digest: bytes, sending: "asyncio.Future[None] | None") -> None:
        """See Ways."""
        if sending is None:
            if self._closed:
                raise JournalUnavailable(CLOSED)
            self._check_size(post)
            if self._away and self._spill:
                await self._keep_away(self._spill, post, digest)
                return
        try:
            await (sending or self._send(post, digest))
        except PostTooLarge:  # the topic took more when it was looked at last
            with suppress(SinkError, TimeoutError):
                async with self._clock.timeout(PROBE_TIMEOUT):
                    await self._look(whole=False)
            self._check_size(post)
            raise
        except NotAcknowledged as error:
            if not (self._spill and isinstance(error, Rejected)):
                self._kafka_failed(str(error))
            if not self._spill or self._closed:
                raise JournalUnavailable(self.away or str(error)) from None
            await self._spill_post(self._spill, post, error.partition, str(error))
        else:
            self.sent()

    async def _keep_away(self, spill: Spill, post: Post, digest: bytes) -> None:
        """Where the spill can't take a post, Kafka is asked after all."""
        try:
            await self._spill_post(spill, post)
        except JournalError:
            with suppress(NotAcknowledged):
                await self._send(post, digest)
                self._kafka_works()
                return
            raise

    async def _spill_post(self, spill: Spill, post: Post, partition: int | None = None, why: str = "") -> None:
        """partition: where the post may be already. why: what Kafka has said, unless it is away. Raises JournalFull or
        JournalUnavailable, with both reasons."""
        try:
            await spill.append(post, partition)
        except JournalFull as error:
            raise JournalFull(f"{error}, and {self.away or why}") from None
        except JournalUnavailable as error:
            raise JournalUnavailable(f"{error}; {self.away or why}") from None
        self._own.spilled_posts.inc()

    def _check_size(self, post: Post) -> None:
        if self._largest is not None and len(post.body) > self._largest:
            raise PostTooLarge(
                f"the post has {len(post.body)} bytes, and topic {self._names.posts} takes {self._largest} at most"
                f" (max.message.bytes {self._max_message}); raise that, or lower AppMon's bulk size"
            )

    async def _send(self, post: Post, digest: bytes, partition: int | None = None) -> None:
        if self._away and not self._usable.is_set():
            raise NotAcknowledged(self._away, None)
        await self._put(post, digest, partition)

    def _put(self, post: Post, digest: bytes, partition: int | None = None) -> "asyncio.Future[None]":
        route = (server_name(post.body) or post.peer.encode()) if self._settings.partition_by == "source" else digest
        return self._sending.put(*to_message(post, digest), route=route, partition=partition)

    async def _forward(self, post: Post, digest: bytes, partition: int | None) -> None:
        """Send a post of the spill. See spill.Kafka."""
        self._check_size(post)
        try:
            await self._send(post, digest, partition)
        except Rejected:  # by a broker, which takes others
            self._kafka_works()
            raise
        self._kafka_works()

    async def add_dead_letter(self, dead_letter: DeadLetter) -> None:
        """Keep a rejected post in the topic of these or, while that does not take it, in the spill."""
        if self._closed:
            raise JournalUnavailable(CLOSED)
        reason = self._away_text() if self._away else ""
        if not self._away:
            try:
                await self._send_letter(dead_letter)
                return
            except NotAcknowledged as error:
                reason = str(error)
        if not self._spill or self._closed:
            raise JournalUnavailable(reason)
        await self._spill.refused.add(dead_letter)
        self._own.spilled_posts.inc()

    async def _send_letter(self, letter: DeadLetter) -> None:
        message = refused.to_message(letter, round(self._clock.time() * 1000))
        await self._sending.put(*message, topic=self._names.refused)

    # Whether Kafka takes posts

    def _kafka_failed(self, reason: str) -> None:
        self._failed_at = self._clock.monotonic()
        if not self._away:
            self._away_since = self._clock.time()
            what = "they go to the spill" if self._spill else "they are refused"
            log.error("Kafka takes no posts", reason=reason, consequence=what)
        self._away = reason
        self._own.up.set(0)

    def _kafka_works(self) -> None:
        if self._away:
            seconds = round(self._clock.time() - self._away_since, 1)
            log.info("Kafka takes posts again", after_seconds=seconds, posts_in_the_spill=self._waiting())
        self._away = None
        self._own.up.set(1)

    def _refuse_kafka(self, error: Misconfigured) -> None:
        """Don't use Kafka until a person has acted."""
        self._usable.clear()
        self._kafka_failed(f"misconfigured: {error}")

    async def _run_sending(self) -> None:
        await self._usable.wait()
        await self._sending.run()

    async def _prepare(self) -> None:
        """Make and check the topics that the intake writes to. Raises Unavailable or Misconfigured."""
        states = await self.cluster.prepare([self._names.posts, self._names.refused])
        notes = [*self.cluster.warnings(states), *self.cluster.differences(states)]
        for note in notes:
            if note not in self._said:
                log.warning("topic of the journal is not as it should be", reason=note)
        self._said = tuple(notes)
        posts = states[self._names.posts]
        self._learn(posts)
        self._usable.set()

    def _learn(self, posts: TopicState) -> None:
        """Which partitions take posts, and how large they may be."""
        self._sending.sound = posts.sound
        self._sending.grown(len(posts.partitions))
        self._max_message = posts.max_message or 0
        self._largest = posts.max_message - MESSAGE_OVERHEAD if posts.max_message else None
        self._sending.limit(posts.max_message)

    async def _probe(self) -> None:
        """Ask the brokers again and again whether they take posts."""
        failures = rounds = 0
        while True:
            await self._clock.sleep(PROBE)
            rounds += 1
            for spill in self._spills:
                with suppress(JournalError):
                    await spill.measure()
            try:
                async with self._clock.timeout(PROBE_TIMEOUT):
                    obstacle = await self._look(whole=rounds % PREPARE == 0)
            except Misconfigured as error:
                self._refuse_kafka(error)
                continue
            except SinkError as error:
                obstacle = str(error)
            except TimeoutError:
                obstacle = f"the brokers do not answer in {PROBE_TIMEOUT:g} s"
            except Exception as error:
                log.error("bug in the probe of the brokers", exc_info=error)
                obstacle = repr(error)
            failures = failures + 1 if obstacle else 0
            if obstacle and failures >= SURE:
                self._kafka_failed(obstacle)
            elif not obstacle:
                self._may_work()

    async def _look(self, whole: bool) -> str | None:
        """Why no partition takes posts. whole: look at the topics' configuration, too."""
        if whole or not self._usable.is_set():
            await self._prepare()
        posts = (await self.cluster.topics([self._names.posts])).get(self._names.posts)
        if posts is None:
            self._usable.clear()  # it is made at the next look
            return f"topic {self._names.posts} does not exist"
        self._learn(posts)
        return posts.obstacle

    def _may_work(self) -> None:
        """The brokers say that they take posts. If some wait in the spill, the next one of them shows whether they do."""
        quiet = self._clock.monotonic() - self._failed_at >= PROBE * SURE
        shown_by_spill = self._spill and self._spill.posts and not self._spill.refusing
        if self._away and quiet and self._sending.up and not shown_by_spill:
            self._kafka_works()
