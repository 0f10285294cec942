"""Posts that wait on this machine, and how they get to Kafka. A stand-in takes them, or does not."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from btfeed.journal.base import DeadLetter, JournalFull, JournalInUse, JournalUnavailable
from btfeed.journal.kafka import spill as spills
from btfeed.journal.kafka import spilled_letters
from btfeed.posts.post import digest
from btfeed.telemetry.samples import by_label
from tests.journal.journals import dead_letters, post
from tests.journal.kafka.spills import Taker, forwarding, opened, rejected, rejecting
from tests.support.harness import until_async


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other quickly."""
    monkeypatch.setattr(spills, "PAUSE", 0.001)
    monkeypatch.setattr(spilled_letters, "PAUSE", 0.001)


async def test_posts_are_forwarded_as_they_were_received(tmp_path: Path) -> None:
    """In order, with their digests, times and peers, and each once if nothing fails."""
    taker = Taker()
    async with opened(tmp_path, taker) as (spill, _):
        posts = [post(number) for number in range(30)]
        for each in posts:
            await spill.append(each)
        assert spill.posts == 30
        async with forwarding(spill):
            await until_async(lambda: not spill.posts, "all forwarded")
        assert taker.taken == [(each, digest(each.body), None) for each in posts]
        assert (taker.forwarded, taker.attempts) == (30, 30)


async def test_what_was_not_taken_is_sent_again(tmp_path: Path) -> None:
    """However often it fails, also over a restart. Nothing is passed over."""
    taker = Taker()
    posts = [post(number) for number in range(10)]
    async with opened(tmp_path, taker) as (spill, _):
        for each in posts:
            await spill.append(each)
        taker.fails = float("inf")
        async with forwarding(spill):
            await until_async(lambda: taker.attempts > 50, "many attempts")
        assert spill.posts == 10
    taker.fails = 3
    async with opened(tmp_path, taker) as (spill, _):
        assert spill.posts == 10
        await asyncio.wait_for(spill.run(until_empty=True), 10)
    assert set(taker.posts) == set(posts)
    assert taker.forwarded == 10


async def test_the_log_tells_what_is_left(tmp_path: Path) -> None:
    """How much of it was rejected, when it ends and when it starts, and what helps: a replay has no rejected posts."""
    letter = DeadLetter("post", "", "malformed: no", 1, b"no", cause="malformed")
    directory = str(tmp_path)
    with capture_logs() as logs:
        async with opened(tmp_path, Taker()) as (spill, _):
            await spill.refused.add(letter)
        async with opened(tmp_path, Taker()) as (spill, _):
            await spill.append(post(1))
    rejected = {"posts": 1, "refused": 1, "directory": directory, "log_level": "warning"}
    again, none = "start btfeed here again", "; `btfeed replay` has no rejected posts"
    assert [line for line in logs if line["log_level"] == "warning"] == [
        rejected | {"event": "posts are left in the spill", "hint": again + none},
        rejected | {"event": "posts of an earlier run wait in the spill"},
        rejected
        | {"event": "posts are left in the spill", "posts": 2}
        | {"hint": f"{again}, or `btfeed replay` this directory to another one{none}"},
    ]


async def test_a_post_that_was_sent_keeps_its_partition(tmp_path: Path) -> None:
    """Whether the receiver sent it or the spill did, and over a restart: it may be there already."""
    taker = Taker()
    taker.works = False
    taker.fails, taker.sent_to = 1, 2
    async with opened(tmp_path, taker) as (spill, _):
        await spill.append(post(0))
        await spill.append(post(1), partition=7)
        async with forwarding(spill):
            await until_async(lambda: not taker.fails, "the attempt")
    async with opened(tmp_path, taker) as (spill, _):
        await asyncio.wait_for(spill.run(until_empty=True), 10)
    assert {each.body: place for each, _, place in taker.taken} == {post(0).body: 2, post(1).body: 7}
    assert len(taker.posts) == 2


@pytest.mark.parametrize("works", [True, False])
async def test_a_partition_that_takes_nothing_holds_up_no_other(tmp_path: Path, works: bool) -> None:
    """Posts that may be in it wait at the end, until it takes them."""
    taker = Taker()
    taker.stuck, taker.works = 3, works
    async with opened(tmp_path, taker) as (spill, _):
        await spill.append(post(0), partition=3)
        for number in range(1, 5):
            await spill.append(post(number))
        async with forwarding(spill):
            await until_async(lambda: taker.forwarded == 4, "the others")
            assert spill.posts >= 1
            taker.stuck = None
            await until_async(lambda: not spill.posts, "all forwarded")
    assert sorted(each.body for each in taker.posts) == sorted(post(number).body for number in range(5))
    assert taker.forwarded == 5


async def test_one_post_finds_out_whether_kafka_works_again(tmp_path: Path) -> None:
    """While it is away, one is tried at a time: each attempt may leave a copy behind."""
    taker = Taker()
    taker.works = False
    async with opened(tmp_path, taker) as (spill, _):
        for number in range(10):
            await spill.append(post(number))
        async with forwarding(spill):
            await until_async(lambda: not spill.posts, "all forwarded")
        assert taker.at_a_time == 1
        taker.works = True
        for number in range(10, 20):
            await spill.append(post(number))
        async with forwarding(spill):
            await until_async(lambda: not spill.posts, "all forwarded")
        assert taker.at_a_time > 1


async def test_a_post_that_kafka_never_takes_holds_up_no_other(tmp_path: Path) -> None:
    """It is kept as a dead letter of the spill, which counts it: it was answered with 200."""
    taker = Taker()
    async with opened(tmp_path, taker) as (spill, metrics):
        for number, size in enumerate((200, 20_000, 200)):
            await spill.append(post(number, size))
        async with forwarding(spill):
            await until_async(lambda: not spill.posts, "all forwarded")
        assert by_label(metrics.dead_letters, "reason") == {"too_large": 1}
        assert taker.forwarded == 2
    (letter,) = dead_letters(tmp_path)
    assert (letter.body, letter.cause, letter.kind) == (post(1, 20_000).body, "too_large", "post")


async def test_a_post_that_kafka_rejects_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka works: the others are forwarded, those that come later too, over a restart. The log tells once what waits."""
    monkeypatch.setattr(spills, "AGAIN", 3600)
    taker = Taker()
    posts = [post(number) for number in range(100)]
    taker.rejects = {each.body for each in posts[:50]}
    taker.works = False
    with capture_logs() as logs:
        async with opened(tmp_path, taker) as (spill, _):
            for each in posts[:90]:
                await spill.append(each)
            async with forwarding(spill):
                await until_async(lambda: taker.forwarded == 40, "the others")
                await until_async(lambda: spill.posts == 50, "the rejected ones are left")
    async with opened(tmp_path, taker) as (spill, _):
        assert spill.posts == 50
        for each in posts[90:]:
            await spill.append(each)
        async with forwarding(spill):
            await until_async(lambda: taker.forwarded == 50, "those that come later")
    assert Counter(taker.posts) == Counter(posts[50:])
    (said,) = [line for line in logs if line["event"].startswith("Kafka rejects posts")]
    assert (said["error"], said["received"][:7], said["log_level"]) == ("not this one", "2023-11", "warning")


async def test_a_post_that_kafka_rejected_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then, however many others it still rejects. As soon as it takes one, those behind it are tried at once."""
    monkeypatch.setattr(spills, "AGAIN", 0.05)
    posts = [post(number) for number in range(100)]
    async with rejecting(tmp_path, posts) as (spill, taker), forwarding(spill):
        await until_async(lambda: taker.attempts > 300, "each was tried again")
        assert not taker.taken
        taker.rejects = {each.body for each in posts[:40]}
        await until_async(lambda: taker.forwarded == 60, "those that it takes now")
        taker.rejects = set()
        await until_async(lambda: not spill.posts, "all forwarded")
    assert Counter(taker.posts) == Counter(posts)


async def test_rejected_posts_are_tried_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch with one of them is sent again post by post, and new posts wait for it. More of them once they are taken."""
    monkeypatch.setattr(spills, "AGAIN", 0.01)
    async with rejecting(tmp_path, [post(number) for number in range(200)]) as (spill, taker), forwarding(spill):
        await until_async(lambda: taker.attempts > 200, "the first batch")
        taker.at_a_time = 0
        await until_async(lambda: taker.attempts > 600, "others")
        assert taker.at_a_time == spills.FEW
        taker.rejects = set()
        await until_async(lambda: not spill.posts, "all forwarded")
        assert taker.at_a_time > spills.FEW


async def test_a_full_spill_says_so(tmp_path: Path) -> None:
    """Posts are refused, until some are forwarded."""
    taker = Taker()
    async with opened(tmp_path, taker, max_size=2**20) as (spill, _):
        large = [post(number, 9_000) for number in range(200)]
        with pytest.raises(JournalFull, match=r"the spill is full \(journal.spill.max_size\)"):
            await asyncio.gather(*map(spill.append, large))
        assert "the spill refuses posts" in (spill.refusing or "")
        async with forwarding(spill):
            await until_async(lambda: not spill.posts, "all forwarded")
            await until_async(lambda: spill.refusing is None, "room")
        await spill.append(post(1))
        assert spill.nbytes > 0


async def test_rejected_posts_are_forwarded_too(tmp_path: Path) -> None:
    """Over a restart and attempts that fail, each once, as they were, once Kafka works. A topic that takes none while Kafka
    works is told of once."""
    taker = Taker()
    taker.works = False
    letters = [rejected(number) for number in range(20)]
    async with opened(tmp_path, taker) as (spill, _):
        for each in letters[:10]:
            await spill.refused.add(each)
        async with forwarding(spill):
            await spill.append(post(1))
            await until_async(lambda: not spill.posts, "the post, which has to find out whether Kafka works")
        assert (spill.waiting, taker.letters) == (10, [])
    taker.works, taker.fails = True, 30
    async with opened(tmp_path, taker) as (spill, _):
        assert spill.waiting == 10
        with capture_logs() as logs:
            async with forwarding(spill):
                await until_async(lambda: not spill.waiting, "all forwarded")
                for each in letters[10:]:
                    await spill.refused.add(each)
                await until_async(lambda: not spill.waiting, "those that came later")
        assert [each["error"] for each in logs if "retrying" in each["event"]] == ["no right"]
    said = [(each.reason, each.time, each.body, each.cause) for each in taker.letters]
    assert sorted(said) == sorted((each.reason, each.time, each.body, each.cause) for each in letters)
    assert (taker.forwarded, dead_letters(tmp_path)) == (21, [])


async def test_a_rejected_post_that_kafka_never_takes_holds_up_no_other(tmp_path: Path) -> None:
    """It stays a dead letter of the spill, also in a spill that is forwarded until it is empty."""
    taker = Taker()
    async with opened(tmp_path, taker) as (spill, _):
        for number, size in enumerate((200, 20_000, 200)):
            await spill.refused.add(rejected(number, size))
        await asyncio.wait_for(spill.run(until_empty=True), 10)
    assert sorted(each.time for each in taker.letters) == [0, 2]
    (letter,) = dead_letters(tmp_path)
    assert (letter.body, letter.cause, letter.destination) == (rejected(1, 20_000).body, "malformed", "")


async def test_rejected_posts_have_a_bound_of_their_own(tmp_path: Path) -> None:
    """The oldest go, and are counted; posts keep their room."""
    taker = Taker()
    async with opened(tmp_path, taker, max_size=2**20) as (spill, metrics):
        for number in range(40):
            await spill.refused.add(rejected(number, 50_000))
        await spill.append(post(1))
        evicted = by_label(metrics.dead_letters_evicted, "reason")["malformed"]
        await spill.measure()
        assert spill.refused.number == 40 - evicted < 21
    assert min(each.time for each in dead_letters(tmp_path)) == evicted


async def test_a_spill_belongs_to_one_process(tmp_path: Path) -> None:
    """A second one does not open. A closed one takes nothing."""
    async with opened(tmp_path, Taker()) as (spill, _):
        with pytest.raises(JournalInUse):
            async with opened(tmp_path, Taker()):
                pass
    with pytest.raises(JournalUnavailable, match="the spill failed"):
        await spill.append(post(1))
