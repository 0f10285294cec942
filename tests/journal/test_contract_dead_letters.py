"""The contract of every journal, as far as dead letters go."""

import asyncio
from dataclasses import replace

from btfeed.journal.base import (
    ALL,
    Commit,
    DeadLetter,
    Kept,
    Selection,
    Wants,
)
from tests.journal.drivers import (
    Driver,
    destinations,
    opened,
    read_every,
    retries,
    with_dead_letters,
)
from tests.journal.journals import dead_letter, wanting
from tests.support.harness import DEADLINE, until_async
from tests.support.posts import mixed


async def test_a_record_is_kept_once_per_sink(driver: Driver) -> None:
    """The same record of another sink is another dead letter. Rejected posts are kept each time."""
    rejected = DeadLetter("post", "", "malformed", 1, b"body")
    async with opened(driver, "a", "b") as it:
        cursor, _ = await it.outlets["a"][0].cursor()
        await it.outlets["a"][0].commit(Commit(cursor, None, [dead_letter(1)]))
        await it.outlets["a"][0].commit(Commit(cursor, None, [dead_letter(1, reason="again")]))
        await it.outlets["b"][0].commit(Commit(cursor, None, [dead_letter(1, "b")]))
        await it.journal.add_dead_letter(rejected)
        await it.journal.add_dead_letter(rejected)
        with driver.dead_letters() as dead_letters:
            kept = list(dead_letters.select())
        assert len({each.id for each in kept}) == 4
        assert [replace(each, id=0) for each in kept] == [dead_letter(1), dead_letter(1, "b"), rejected, rejected]


async def test_dead_letters_are_selected_by_sink_and_id(driver: Driver) -> None:
    """Both must match; the oldest come first; `count` agrees."""
    kept = [dead_letter(1), dead_letter(2, "b"), dead_letter(3), dead_letter(4, "")]
    async with with_dead_letters(driver, *kept) as (_, dead_letters):
        ids = {each.event_id: each.id for each in dead_letters.select()}
        assert list(ids) == ["id-1", "id-2", "id-3", "id-4"]
        for selection, expected in [
            (ALL, kept),
            (Selection("a"), [kept[0], kept[2]]),
            (Selection(""), [kept[3]]),
            (Selection("another"), []),
            (Selection(None, [ids["id-2"], ids["id-3"]]), [kept[1], kept[2]]),
            (Selection("b", {ids["id-2"], ids["id-3"]}), [kept[1]]),
            (Selection(cause="expired"), []),
            (Selection("a", cause="refused"), [kept[0], kept[2]]),
            (Selection("a", [ids["id-3"]], "refused"), [kept[2]]),
        ]:
            assert [replace(each, id=0) for each in dead_letters.select(selection)] == expected
            assert dead_letters.count(selection) == len(expected)


async def test_the_newest_dead_letters_come_first(driver: Driver) -> None:
    """As many as wanted, and then those before them; posts and records of one cause too."""
    post = DeadLetter("post", "", "it is no post", 1, b"body", cause="malformed")
    kept = [dead_letter(1), dead_letter(2, "b"), dead_letter(3), replace(dead_letter(4, ""), cause="malformed")]
    async with with_dead_letters(driver, *kept) as (it, dead_letters):
        await it.journal.add_dead_letter(post)
        assert [replace(each, id=0) for each in dead_letters.newest(2)] == [post, kept[3]]
        first = dead_letters.newest(2)[-1].id
        assert [each.event_id for each in dead_letters.newest(10, before=first)] == ["id-3", "id-2", "id-1"]
        assert [each.event_id for each in dead_letters.newest(1, Selection("a", cause="refused"))] == ["id-3"]
        assert [each.event_id for each in dead_letters.newest(9, Selection("", cause="malformed"))] == [None, "id-4"]
        assert not dead_letters.newest(9, Selection("a", cause="expired"))


async def test_dead_letters_that_come_while_they_are_read_are_not_selected(driver: Driver) -> None:
    """`select` gives those that were there when it was called, so it ends on a busy server."""
    async with with_dead_letters(driver, dead_letter(1), dead_letter(2)) as (it, dead_letters):
        selected = dead_letters.select()
        found = [next(selected)]
        await it.journal.add_dead_letter(DeadLetter("post", "", "malformed", 1, b"body"))
        assert [each.event_id for each in [*found, *selected]] == ["id-1", "id-2"]


async def test_dead_letters_are_deleted_by_id(driver: Driver) -> None:
    """Also while they are read. Ids that don't exist are ignored."""
    async with with_dead_letters(driver, *(dead_letter(number) for number in range(5))) as (_, dead_letters):
        for each in dead_letters.select():
            if each.event_id != "id-3":
                dead_letters.delete([each.id, 9_999])
        assert [each.event_id for each in dead_letters.select()] == ["id-3"]


async def test_what_is_marked_is_retried(driver: Driver) -> None:
    """By its sink, until a commit says what became of it."""
    async with with_dead_letters(driver, *(dead_letter(number) for number in range(3))) as (it, dead_letters):
        assert await retries(it, "a") == []
        assert dead_letters.retry(Selection("a"), wanting("a", "b")) == 3
        marked = await retries(it, "a")
        assert [each.event_id for each in marked] == ["id-0", "id-1", "id-2"]
        assert len(await retries(it, "a", 2)) == 2
        assert await retries(it, "b") == []
        outlet = it.outlets["a"][0]
        cursor, _ = await outlet.cursor()
        first, second = marked[0].id, marked[1].id
        await outlet.commit(Commit(cursor, redelivered=[first], refused_again={second: "still"}))
        assert [each.event_id for each in await retries(it, "a")] == ["id-2"]
        kept = {each.event_id: (each.tries, each.reason) for each in dead_letters.select()}
        assert kept == {"id-1": (2, "still"), "id-2": (1, "refused")}


async def test_marks_survive_a_restart(driver: Driver) -> None:
    """A server that starts later retries them."""
    async with with_dead_letters(driver, dead_letter(1)) as (_, dead_letters):
        dead_letters.retry(ALL, wanting("a"))
    async with opened(driver, "a") as it:
        assert [each.event_id for each in await retries(it, "a")] == ["id-1"]


async def test_a_record_without_a_sink_is_retried_by_all_sinks(driver: Driver) -> None:
    """Each sink then has a dead letter of its own."""
    async with with_dead_letters(driver, dead_letter(1, "")) as (it, dead_letters):
        assert dead_letters.retry(ALL, wanting("a", "b")) == 1
        assert sorted(each.sink for each in dead_letters.select()) == ["a", "b"]
        assert [each.event_id for sink in "ab" for each in await retries(it, sink)] == ["id-1", "id-1"]


async def test_a_record_without_a_sink_is_retried_by_those_that_want_it(driver: Driver) -> None:
    """As their filters say. If there is no such sink, it can't be marked."""
    kept = [dead_letter(1, ""), replace(dead_letter(2, ""), transaction=None)]
    sinks: dict[str, Wants] = {"a": lambda transaction: transaction.name == "name", "b": lambda _: False}
    async with with_dead_letters(driver, *kept) as (it, dead_letters):
        assert dead_letters.retry(ALL, sinks) == 1
        assert [(each.event_id, each.sink) for each in dead_letters.select()] == [("id-2", ""), ("id-1", "a")]
        assert [each.event_id for sink in "ab" for each in await retries(it, sink)] == ["id-1"]


async def test_dead_letters_are_counted(driver: Driver) -> None:
    """By sink and cause, those of no sink and rejected posts too, with the time of the oldest; also after a restart."""
    kept = [replace(dead_letter(number), time=50 + number, cause="expired") for number in range(3)]
    kept += [dead_letter(7, "b"), replace(dead_letter(8, "", reason="missing key"), cause="invalid")]
    async with with_dead_letters(driver, *kept) as (it, dead_letters):
        await it.journal.add_dead_letter(DeadLetter("post", "", "malformed", 9, b"body", cause="malformed"))
        dead_letters.delete([each.id for each in dead_letters.select() if each.event_id == "id-0"])
    async with opened(driver, "a", "b") as it:
        assert sorted(await it.journal.kept()) == [
            Kept("", "invalid", 1, 1), Kept("", "malformed", 1, 9), Kept("a", "expired", 2, 51), Kept("b", "refused", 1, 1)
        ]  # fmt: skip


async def test_many_dead_letters_come_back_as_they_were(driver: Driver) -> None:
    """However they are stored: of any size, of several sinks, with reasons and keys of their own."""

    def letter(number: int) -> DeadLetter:
        body = b'{"timestamp":"2013-01-16T10:05:57.840Z","n":%d,"x":"%s"}' % (number, b"x" * (number * 37 % 9_000))
        return DeadLetter(
            "record", "ab"[number % 2], f"reason {number}", number, body, 1 + number % 3, f"id-{number}", f"key-{number}",
            -number, dead_letter(1).transaction if number % 5 else None, cause="refused" if number % 7 else "expired",
        )  # fmt: skip

    kept = [letter(number) for number in range(300)]
    async with with_dead_letters(driver, *kept) as (_, dead_letters):
        assert [replace(each, id=0) for each in dead_letters.select()] == kept
        half = list(dead_letters.select())[::2]
        dead_letters.delete([each.id for each in half])
        assert [replace(each, id=0) for each in dead_letters.select()] == kept[1::2]


async def test_what_cannot_be_retried_is_left_as_it_is(driver: Driver) -> None:
    """Records of a sink that is not configured, without a valid timestamp, or whose body is no longer JSON."""
    kept = [
        dead_letter(1, "gone"),
        replace(dead_letter(2, ""), body=b'{"timestamp":5}'),
        replace(dead_letter(3, ""), body=b"{"),
    ]
    async with with_dead_letters(driver, *kept) as (it, dead_letters):
        assert dead_letters.retry(ALL, wanting("a", "b")) == 0
        assert [replace(each, id=0) for each in dead_letters.select()] == kept
        assert await retries(it, "a") == await retries(it, "b") == []


async def test_a_rejected_post_that_is_retried_is_appended(driver: Driver) -> None:
    """If it is valid now. Otherwise it stays, with its time, its cause, one more try and the new reason."""
    async with opened(driver, "a") as it:
        await it.journal.add_dead_letter(DeadLetter("post", "", "too strict", 1, mixed(3)))
        await it.journal.add_dead_letter(DeadLetter("post", "", "malformed: no", 1, b"nonsense", cause="malformed"))
        with driver.dead_letters() as dead_letters:
            assert dead_letters.retry(ALL, wanting("a")) == 2
            await until_async(lambda: dead_letters.count() == 1, "the dead letter of the valid post is deleted")
            await until_async(lambda: [each.tries for each in dead_letters.select()] == [2], "the other one was tried")
            (kept,) = dead_letters.select()
        assert kept.body == b"nonsense"
        assert (kept.time, kept.cause) == (1, "malformed")
        assert kept.reason.startswith("malformed: not a BusinessTransactions message")
        assert Kept("", "malformed", 1, 1) in await it.journal.kept()
        assert [each.body for each in await read_every(it.outlets["a"])] == [mixed(3)]


async def test_a_broken_gzip_keeps_its_reason(driver: Driver) -> None:
    """What is kept of it is compressed, so a retry can only say that it is no post."""
    async with opened(driver, "a") as it:
        await it.journal.add_dead_letter(DeadLetter("post", "", "broken gzip", 1, b"\x1f\x8b", cause="bad_gzip"))
        with driver.dead_letters() as dead_letters:
            assert dead_letters.retry(ALL, wanting("a")) == 1
            await until_async(lambda: [each.tries for each in dead_letters.select()] == [2], "it was tried again")
            assert [(each.cause, each.reason) for each in dead_letters.select()] == [("bad_gzip", "broken gzip")]


async def test_dead_letters_wait_for_a_destination(driver: Driver) -> None:
    """Counted and given by destination, the oldest first, without a mark for retry. Also after a restart."""
    waiting = [replace(dead_letter(number), destination=f"topic {number % 2}") for number in range(5)]
    async with with_dead_letters(driver, dead_letter(9), *waiting) as (it, _):
        assert await destinations(it, "b") == {}
    async with opened(driver, "a", "b") as it:
        assert await destinations(it, "a") == {"topic 0": 3, "topic 1": 2}
        found = [each for outlet in it.outlets["a"] for each in await outlet.waiting("topic 0", 2)]
        assert [replace(each, id=0) for each in found] == [waiting[0], waiting[2]]
        assert [each for outlet in it.outlets["b"] for each in await outlet.waiting("topic 0", 2)] == []
        assert await retries(it, "a") == []


async def test_what_was_delivered_waits_no_more(driver: Driver) -> None:
    """It is deleted. One that was refused for good is an operator's from then on."""
    waiting = [replace(dead_letter(number), destination="topic") for number in range(3)]
    async with with_dead_letters(driver, *waiting) as (it, dead_letters):
        ids = [each.id for each in dead_letters.select()]
        outlet = it.outlets["a"][0]
        cursor, _ = await outlet.cursor()
        await outlet.commit(Commit(cursor, redelivered=ids[:1], refused_again={ids[1]: "too large"}))
        assert await destinations(it, "a") == {"topic": 1}
        kept = [(each.event_id, each.destination, each.reason) for each in dead_letters.select()]
        assert kept == [("id-1", "", "too large"), ("id-2", "topic", "refused")]
        assert dead_letters.retry(ALL, wanting("a")) == 2
        async with asyncio.timeout(DEADLINE):
            while True:
                if ids[1] in [each.id for each in await retries(it, "a")]:  # a journal may let the other one wait on
                    break
                await asyncio.sleep(0.01)
        await outlet.commit(Commit(cursor, waiting_again={ids[1]: ("another", "missing"), ids[2]: ("topic", "closed")}))
        assert await retries(it, "a") == []
        assert await destinations(it, "a") == {"topic": 1, "another": 1}
        kept = [(each.event_id, each.destination, each.reason) for each in dead_letters.select()]
        assert kept == [("id-1", "another", "missing"), ("id-2", "topic", "closed")]


async def test_what_waits_keeps_the_time_since_when_it_waits(driver: Driver) -> None:
    """However often it is tried again, so that its age shows how long it waits. What did not wait before does so from now
    on."""
    kept = [replace(dead_letter(1), destination="topic", cause="waiting"), dead_letter(2)]
    async with with_dead_letters(driver, *kept) as (it, dead_letters):
        ids = {each.event_id: each.id for each in dead_letters.select()}
        waiting, refused = ids["id-1"], ids["id-2"]
        outlet = it.outlets["a"][0]
        cursor, _ = await outlet.cursor()
        for destination in ("topic", "another"):
            await outlet.commit(Commit(cursor, waiting_again={waiting: (destination, "closed")}))
            (found,) = dead_letters.select(Selection(ids=[waiting]))
            assert (found.time, found.tries > 1, found.destination) == (kept[0].time, True, destination)
            assert Kept("a", "waiting", 1, kept[0].time) in await it.journal.kept()
        await outlet.commit(Commit(cursor, waiting_again={refused: ("topic", "closed")}))
        (found,) = dead_letters.select(Selection(ids=[refused]))
        assert found.time > kept[1].time
        await outlet.commit(Commit(cursor, refused_again={waiting: "too large"}))
        (found,) = dead_letters.select(Selection(ids=[waiting]))
        assert found.time > kept[0].time
