"""What an operator does to one sink while the others go on: pause, resume, rewind."""

import asyncio

import pytest
from structlog.testing import capture_logs

from btfeed.admin.control import Conflict, Rewind, UnknownSink
from btfeed.app.deliveries import Deliveries
from btfeed.app.sink_control import SinkControl
from btfeed.delivery.loop import Delivery
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.delivery.settings import DeliverySettings, FilterSettings
from btfeed.journal.base import LATEST, OLDEST, JournalUnavailable, Move, Outlet
from btfeed.journal.memory import MemoryJournal
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.sink_status import SinkStatus
from tests.support import posts
from tests.support.clock import FastClock, settle
from tests.support.fakes import FakeSink, mapper, post
from tests.support.harness import DEADLINE, until_async

PARTITIONS = 3
RECORDS = 2
"""Of each post."""


class Case:
    """Two sinks, "one" and "other", over a journal with three partitions."""

    def __init__(self, journal: MemoryJournal | None = None) -> None:
        self.journal = journal or MemoryJournal({"one": "oldest", "other": "oldest"}, PARTITIONS)
        self.metrics = Metrics()
        self.mapped_posts = MappedPosts(mapper(), self.metrics, sinks=2)
        self.deliveries = Deliveries(self.journal.outlets, self._create, grace=5.0)
        self.control = SinkControl(
            self.journal, self.deliveries, self.metrics, lambda sink: "fake", asyncio.Lock(), FastClock()
        )
        self.sent = 0

    def _create(self, name: str, outlet: Outlet, status: SinkStatus) -> Delivery:
        return Delivery(
            name, FakeSink(), False, DeliverySettings.model_validate({"linger": "5ms"}), FilterSettings(), outlet,
            self.mapped_posts, self.metrics, status, clock=FastClock(),
        )  # fmt: skip

    async def __aenter__(self) -> "Case":
        await self.journal.open()
        await self.control.load()
        for name in ("one", "other"):
            self.deliveries.start_sink(name)
        await settle()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.deliveries.stop()
        self.mapped_posts.close()
        await self.journal.close()

    async def post(self, number: int) -> None:
        for _ in range(number):
            self.sent += 1
            await self.journal.append(post(posts.mixed(RECORDS, self.sent)))

    def state(self, sink: str) -> str:
        return self.deliveries.statuses[sink].state

    async def delivered(self, sink: str, posts: int) -> None:
        status = self.deliveries.statuses[sink]
        await until_async(lambda: status.delivered == posts * RECORDS, f"{posts} posts, not {status.delivered / RECORDS}")

    async def caught_up(self, sink: str) -> None:
        ends = {(sink, part): len(entries) + 1 for part, entries in enumerate(self.journal.entries)}
        cursors = self.journal.cursors
        await until_async(lambda: all(cursors[key][0].seq == end for key, end in ends.items()), "everything is saved")

    def counted(self, action: str) -> float:
        return float(self.metrics.sink_actions.labels("one", action)._value.get())


async def test_a_paused_sink_gets_nothing_until_it_is_resumed() -> None:
    """Its posts are kept, and the other sink goes on. It says so once."""
    async with Case() as case:
        await case.post(10)
        await case.delivered("one", 10)
        with capture_logs() as logs:
            assert await case.control.pause("one")
            assert not await case.control.pause("one")
        assert [(entry["event"], entry["log_level"]) for entry in logs if entry.get("sink") == "one"] == [
            ("sink paused, the journal holds its posts", "warning")
        ]
        assert case.state("one") == "paused"
        assert list(case.control.paused) == ["one"]
        await case.post(10)
        await case.delivered("other", 20)
        assert case.deliveries.statuses["one"].delivered == 10 * RECORDS
        assert (await case.deliveries.backlog("one")).posts == 10
        assert await case.control.resume("one")
        assert not await case.control.resume("one")
        await case.delivered("one", 20)
        assert case.state("one") == "running"
        assert case.control.paused == {}
        assert (case.counted("pause"), case.counted("resume")) == (1, 1)


async def test_a_sink_stays_paused_when_it_or_the_server_starts_again() -> None:
    """As a reload stops and starts it, or after a restart. Its backlog and position are known."""
    async with Case() as case:
        await case.control.pause("one")
        await case.deliveries.stop_sink("one")
        case.deliveries.start_sink("one")
        await case.post(10)
        await case.delivered("other", 10)
        assert case.state("one") == "paused"
    async with Case(case.journal) as case:
        await case.post(5)
        await case.delivered("other", 5)
        assert (case.state("one"), case.deliveries.statuses["one"].delivered) == ("paused", 0)
        assert (await case.deliveries.backlog("one")).posts == 15
        assert await case.control.positions("one") == dict.fromkeys(range(PARTITIONS), 1)
        await case.control.resume("one")
        await case.delivered("one", 15)


async def test_a_rewound_sink_gets_its_posts_again() -> None:
    """From a time or from positions on; others don't notice. It is counted, and a warning."""
    async with Case() as case:
        await case.post(30)
        await case.delivered("one", 30)
        await case.caught_up("one")
        with capture_logs() as logs:
            moves = await case.control.rewind("one", Rewind(time=OLDEST))
        assert sum(move.again for move in moves) == 30
        assert logs[-1]["event"] == "sink rewound, it gets posts again"
        await case.delivered("one", 60)
        await case.caught_up("one")
        last = len(case.journal.entries[1])
        assert await case.control.rewind("one", Rewind(positions={1: last})) == [
            Move(1, case.journal.cursors["one", 1][0]._replace(seq=last), 1, 0, case.journal.entries[1][0].post.received)
        ]
        await case.delivered("one", 61)
        await case.delivered("other", 30)
        assert case.counted("rewind") == 2


async def test_a_paused_sink_can_be_rewound() -> None:
    """It stays paused, and gets the posts once it is resumed."""
    async with Case() as case:
        await case.post(10)
        await case.delivered("one", 10)
        await case.caught_up("one")
        await case.control.pause("one")
        await case.control.rewind("one", Rewind(time=OLDEST))
        await settle()
        assert (case.state("one"), case.deliveries.statuses["one"].delivered) == ("paused", 10 * RECORDS)
        await case.control.resume("one")
        await case.delivered("one", 20)


async def test_posts_are_skipped_only_on_purpose() -> None:
    """It says how many, and they are counted as skipped by that sink."""
    async with Case() as case:
        await case.control.pause("one")
        await case.post(10)
        with pytest.raises(Conflict, match=r"it would never get 10 posts\. To skip them for this sink"):
            await case.control.rewind("one", Rewind(time=LATEST))
        assert (await case.deliveries.backlog("one")).posts == 10
        with capture_logs() as logs:
            moves = await case.control.rewind("one", Rewind(time=LATEST, skip=True))
        assert sum(move.skipped for move in moves) == 10
        assert logs[-1]["event"] == "sink moved ahead, it never gets the posts skipped"
        assert case.metrics.summary()["skipped_posts"] == {"one": 10}
        await case.control.resume("one")
        await case.post(3)
        await case.delivered("one", 3)
        await case.delivered("other", 13)


async def test_what_can_not_be_done_changes_nothing() -> None:
    """An unknown sink, and a partition that is not here."""
    async with Case() as case:
        for action in (case.control.pause("none"), case.control.resume("none")):
            with pytest.raises(UnknownSink, match="no sink none is running: the sinks are one, other"):
                await action
        with pytest.raises(UnknownSink):
            await case.control.rewind("none", Rewind(time=OLDEST))
        with pytest.raises(Conflict, match="sink one has no partition 7 here"):
            await case.control.rewind("one", Rewind(positions={0: 1, 7: 1}))
        await case.post(3)
        await case.delivered("one", 3)


async def test_a_sink_goes_on_if_the_journal_fails_during_a_rewind(monkeypatch: pytest.MonkeyPatch) -> None:
    """From where it was."""
    async with Case() as case:
        await case.post(3)
        await case.delivered("one", 3)

        async def fail(self: object, to: object) -> None:
            raise JournalUnavailable("the disk failed")

        with monkeypatch.context() as patch:
            patch.setattr("btfeed.journal.memory.MemoryOutlet.move", fail)
            with pytest.raises(JournalUnavailable):
                await case.control.rewind("one", Rewind(time=OLDEST))
        await case.post(3)
        await case.delivered("one", 6)


async def test_a_sink_follows_what_another_process_does() -> None:
    """Which has the same journal. Each says so, and what a process did itself is told once."""
    async with Case() as case, Case(case.journal) as other:
        following = asyncio.create_task(other.control.follow())
        with capture_logs() as logs:
            await case.control.pause("one")
            await until_async(lambda: other.state("one") == "paused", "paused")
            assert list(other.control.paused) == ["one"]
            await until_async(lambda: other.state("other") == "running", "running")
            assert not await other.control.pause("one")
            await case.control.resume("one")
            await until_async(lambda: other.state("one") == "running", "resumed")
            assert other.control.paused == {}
        following.cancel()
    assert [entry["event"] for entry in logs if "another process" in entry["event"]] == [
        "sink paused by another process, the journal holds its posts",
        "sink resumed by another process",
    ]


async def test_following_outlasts_a_journal_that_does_not_answer() -> None:
    """What was paused stays paused."""
    async with Case() as case:
        await case.control.pause("one")
        answers = case.journal.paused
        asked = asyncio.Event()

        async def away() -> dict[str, int]:
            asked.set()
            raise JournalUnavailable("no broker replies")

        case.journal.paused = away  # type: ignore[method-assign]
        following = asyncio.create_task(case.control.follow())
        await asyncio.wait_for(asked.wait(), DEADLINE)
        assert case.state("one") == "paused"
        case.journal.paused = answers  # type: ignore[method-assign]
        await case.journal.resume("one")
        await until_async(lambda: case.state("one") == "running", "resumed")
        following.cancel()
