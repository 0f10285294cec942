"""Posts of one turn of the event loop are appended together, and have a task only if Kafka does not take them at once."""

import asyncio

import pytest

from btfeed.journal.base import JournalFull
from btfeed.journal.kafka.appending import Appending
from btfeed.journal.kafka.lane import NotAcknowledged
from btfeed.posts.post import Post, digest
from tests.journal.journals import post
from tests.support.clock import FakeClock
from tests.support.harness import until_async


class Ways:
    """Sends posts, and keeps what is not acknowledged. refused: why `keep` fails."""

    def __init__(self) -> None:
        self.away = False
        self.broken: Post | None = None
        self.refused: Exception | None = None
        self.sending: list[tuple[Post, bytes, asyncio.Future[None]]] = []
        self.kept: list[tuple[Post, bytes, str]] = []
        self.acknowledged = 0

    def send(self, post: Post, digest: bytes) -> "asyncio.Future[None] | None":
        if post == self.broken:
            raise ZeroDivisionError
        if self.away:
            return None
        self.sending.append((post, digest, asyncio.get_running_loop().create_future()))
        return self.sending[-1][2]

    def sent(self) -> None:
        self.acknowledged += 1

    async def keep(self, post: Post, digest: bytes, sending: "asyncio.Future[None] | None") -> None:
        self.kept.append((post, digest, str(sending.exception()) if sending else "away"))
        if self.refused:
            raise self.refused


class Run:
    """One with its ways. seconds: what was observed."""

    def __init__(self) -> None:
        self.ways, self.clock, self.seconds = Ways(), FakeClock(), list[float]()
        self.appending = Appending(self.ways, self.seconds.append, self.clock)

    async def begin(self, *numbers: int) -> "list[asyncio.Future[bytes]]":
        """Append these posts, and let them be sent."""
        outcomes = [self.appending.append(post(number)) for number in numbers]
        await asyncio.sleep(0)
        return outcomes


async def test_acknowledged_posts_have_no_task() -> None:
    """They have their digests, and the time that they took is observed."""
    run = Run()
    outcomes = await run.begin(1, 2, 3)
    assert [each[:2] for each in run.ways.sending] == [(post(n), digest(post(n).body)) for n in (1, 2, 3)]
    assert len(asyncio.all_tasks()) == 1
    await run.clock.advance(0.5)
    for _, _, sending in run.ways.sending:
        sending.set_result(None)
    assert await asyncio.gather(*outcomes) == [digest(post(n).body) for n in (1, 2, 3)]
    assert (run.seconds, run.ways.acknowledged, run.ways.kept) == ([0.5] * 3, 3, [])


@pytest.mark.parametrize("refused", [None, JournalFull("full")])
@pytest.mark.parametrize("away", [True, False])
async def test_what_is_not_acknowledged_is_kept(away: bool, refused: Exception | None) -> None:
    """Whether it was sent or not. If that fails, the outcome says why."""
    run = Run()
    run.ways.away, run.ways.refused = away, refused
    (outcome,) = await run.begin(1)
    if not away:
        run.ways.sending[0][2].set_exception(NotAcknowledged("no leader", None))
    found = (await asyncio.gather(outcome, return_exceptions=True))[0]
    assert found == (refused or digest(post(1).body))
    assert run.ways.kept == [(post(1), digest(post(1).body), "away" if away else "no leader")]
    assert (len(run.seconds), run.ways.acknowledged) == (0 if refused else 1, 0)


async def test_a_bug_costs_one_post() -> None:
    """Its outcome is the bug, and the others are sent."""
    run = Run()
    run.ways.broken = post(1)
    outcomes = await run.begin(0, 1, 2)
    for _, _, sending in run.ways.sending:
        sending.set_result(None)
    found = await asyncio.gather(*outcomes, return_exceptions=True)
    assert [repr(each) for each in found] == [repr(digest(post(0).body)), "ZeroDivisionError()", repr(digest(post(2).body))]
    await run.appending.idle()


async def test_idle_is_when_all_have_an_outcome() -> None:
    """Also those whose caller was cancelled."""
    run = Run()
    await run.appending.idle()
    outcomes = await run.begin(1, 2)
    idle = asyncio.ensure_future(run.appending.idle())
    outcomes[0].cancel()
    run.ways.sending[0][2].set_result(None)
    await asyncio.sleep(0)
    assert not idle.done()
    run.ways.sending[1][2].set_exception(NotAcknowledged("no leader", 3))
    await until_async(idle.done, "idle")
    assert outcomes[1].result() == digest(post(2).body)
    assert outcomes[0].cancelled()
