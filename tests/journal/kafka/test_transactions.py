"""An outlet whose sink saves in transactions, without brokers."""

from collections.abc import Sequence

import pytest

from btfeed.journal.base import Backlog, Commit, Cursor
from btfeed.journal.kafka.consumer import Saved
from btfeed.journal.kafka.metadata import Metadata
from btfeed.telemetry.samples import total
from sinks.base import Offsets, StartAgain
from tests.journal.journals import dead_letter
from tests.journal.kafka.fake_consumer import FakeBrokers, group_of, outlet_of, place, posts
from tests.support.clock import settle
from tests.support.harness import until_async


async def test_a_commit_in_a_transaction() -> None:
    """The transaction saves the offset, and deletes what was redelivered; other letters are durable before. What earlier
    owners of the transactions have saved is read again."""
    brokers = FakeBrokers()
    brokers.add(*posts(1, 2))
    async with outlet_of(brokers) as (it, outlet):
        sent: list[tuple[Offsets, Sequence[tuple[str, bytes]]]] = []

        async def send(saved: Offsets, deleted: Sequence[tuple[str, bytes]]) -> None:
            assert [commit.redelivered for _, commit in it.letters.applied] == [()]
            assert it.letters.replaced == []
            sent.append((saved, deleted))

        await outlet.commit_in(Commit(Cursor(1, 4), "state", [dead_letter(1)], redelivered=[5]), send)
        metadata = Metadata(4, {"one": "state"}).text()
        assert sent == [(Offsets("btfeed.a", "btfeed.posts", 0, 1, metadata), [("btfeed.dead-letters", b"5")])]
        assert await outlet.cursor() == (Cursor(1, 4), "state")
        assert it.letters.replaced == [b"5"]
        brokers.saved[place(0)] = Saved(2, "")
        assert it.letters.settlements == 0
        await outlet.refresh()
        assert await outlet.cursor() == (Cursor(2), None)
        assert it.letters.settlements == 1


async def test_a_transaction_that_fails_saves_nothing() -> None:
    """The delivery begins again where the journal says."""
    brokers = FakeBrokers()
    brokers.add(*posts(1))
    async with outlet_of(brokers) as (it, outlet):

        async def fail(saved: Offsets, deleted: Sequence[tuple[str, bytes]]) -> None:
            raise StartAgain("fenced")

        with pytest.raises(StartAgain):
            await outlet.commit_in(Commit(Cursor(1), redelivered=[5]), fail)
        assert (await outlet.cursor())[0] == Cursor(0)
        assert it.letters.replaced == [], "so that they are retried"


@pytest.mark.parametrize("transactional", [True, False])
async def test_only_transactions_save_their_cursor(transactional: bool) -> None:
    """Another process may have moved it further than this one knows. So copies are passed over without saving it."""
    brokers = FakeBrokers()
    brokers.add(*posts(1, 1, 1))
    async with group_of(brokers) as it:
        consumer = await it.joined()
        brokers.saved[place(0)] = Saved(1, "")
        (outlet,) = await it.assigned(place(0))
        await until_async(lambda: consumer.position(place(0)) == 3, "the copies are read")
        await settle()
        assert brokers.saved[place(0)].offset == 1, "while nobody delivers"
        if transactional:
            await outlet.refresh()
        assert (await outlet.cursor())[0] == Cursor(1)
        brokers.add(*posts(1))
        await until_async(lambda: total(it.metrics.kafka_journal.repeated_posts) == 3, "the next copy is read")
        await settle()
        assert brokers.saved[place(0)].offset == (1 if transactional else 4)
        assert await outlet.backlog() == Backlog(0, 0.0)
