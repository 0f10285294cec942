"""Destinations of a sink that take nothing: their records wait aside, and all others go on."""

import random
import sys
import time
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from btfeed.journal.memory import MemoryJournal
from sinks.base import Blocked, Unavailable, WriteResult
from sinks.batch import Batch
from tests.support.clock import FakeClock
from tests.support.fakes import FakeSink, ManyFakeSink, Rig
from tests.support.harness import until_async

VISIT, ACTION, PUREPATH = "visit", "user_action", "purepath"


def of(category: str, bodies: Sequence[bytes]) -> list[bytes]:
    """The records of a category."""
    return [body for body in bodies if b'"event.category":"%s"' % category.encode() in body]


async def test_one_destination_that_takes_nothing_does_not_stop_the_others() -> None:
    """The cursor goes on. The blocked destination is asked rarely, and later gets everything in order and once."""
    sink = ManyFakeSink("topic visit")
    async with Rig(sink, max_records=7) as rig:
        bodies = [body for seed in range(10) for body in await rig.post(30, seed)]
        await rig.saved(11)
        assert sink.taken(PUREPATH) == of(PUREPATH, bodies)
        assert sink.taken(ACTION) == of(ACTION, bodies)
        waiting = of(VISIT, bodies)
        assert len(waiting) >= 50
        assert sink.offered["topic visit"] < len(waiting) / 2
        assert [letter.body for letter in rig.dead_letters] == waiting
        assert {(letter.destination, letter.reason) for letter in rig.dead_letters} == {("topic visit", "closed")}
        assert rig.delivery.status.blocked["topic visit"].waiting == len(waiting)
        assert rig.delivery.status.state == "running"
        assert rig.sample("dead_letters_total", reason="waiting") == len(waiting)
        sink.shut.clear()
        await until_async(lambda: not rig.delivery.status.blocked, "open again")
        bodies += await rig.post(30, 10)
        await rig.saved(12)
    assert sink.taken(VISIT) == of(VISIT, bodies)
    assert len(sink.bodies) == len(bodies)
    assert rig.dead_letters == []


async def test_new_records_queue_behind_those_that_wait() -> None:
    """While they are written, also in the journal's order when its answers and commits are late."""
    sink = ManyFakeSink("topic visit")
    async with Rig(sink, max_records=5) as rig:
        bodies = await rig.post(60)
        await rig.saved(2)
        rig.outlet.held = {"commit"}
        bodies += await rig.post(60, 1)
        await until_async(lambda: sink.taken(PUREPATH) == of(PUREPATH, bodies), "the others went on")
        sink.shut.clear()
        bodies += await rig.post(60, 2)
        rig.outlet.held = set()
        await rig.saved(4)
        await until_async(lambda: not rig.delivery.status.blocked, "open again")
    assert sink.taken(VISIT) == of(VISIT, bodies)


async def test_an_answer_that_is_older_than_a_commit_opens_nothing() -> None:
    """The journal was asked before it saved what waits, and answers after that."""
    sink = ManyFakeSink("topic visit")
    async with Rig(sink) as rig:
        rig.outlet.held = {"commit", "waiting answered"}
        bodies = await rig.post(60)
        await until_async(lambda: "waiting answered" in rig.outlet.calls, "asked")
        rig.outlet.held = {"waiting answered"}
        await rig.saved(2)
        rig.outlet.calls.clear()
        rig.outlet.held = set()
        await until_async(lambda: rig.outlet.calls.count("waiting answered") > 1, "asked again")
        assert [*rig.delivery.status.blocked] == ["topic visit"]
        sink.shut.clear()
        await until_async(lambda: not rig.dead_letters, "nothing waits")
    assert sink.taken(VISIT) == of(VISIT, bodies)


async def test_what_waits_survives_a_restart() -> None:
    """And goes before what comes after it, although the destination is open at the start."""
    journal = MemoryJournal({})
    sink = ManyFakeSink("topic visit")
    async with Rig(sink, journal=journal, max_records=10) as rig:
        bodies = await rig.post(60)
        await rig.saved(2)
    waited = len(rig.dead_letters)
    assert waited == len(of(VISIT, bodies)) >= 10
    after = ManyFakeSink()
    rig = Rig(after, journal=journal, max_records=10)
    bodies += await rig.post(60, 1)
    async with rig:
        await rig.saved(3)
        await until_async(lambda: not rig.dead_letters, "nothing waits")
    assert after.taken(VISIT) == of(VISIT, bodies)
    assert sorted(sink.bodies + after.bodies) == sorted(bodies)


async def test_a_restart_while_it_is_blocked_shows_it_at_once() -> None:
    """With how many records wait, and soon with the reason. It is not taken for open before it was tried."""
    journal = MemoryJournal({})
    async with Rig(ManyFakeSink("topic visit"), journal=journal) as rig:
        bodies = await rig.post(30)
        await rig.saved(2)
    sink = ManyFakeSink("topic visit")
    async with Rig(sink, journal=journal) as rig:
        await until_async(lambda: rig.delivery.status.blocked, "shown")
        assert rig.delivery.status.blocked["topic visit"].waiting == len(of(VISIT, bodies))
        await until_async(lambda: rig.delivery.status.blocked["topic visit"].reason == "closed", "tried")
        assert len(rig.dead_letters) == len(of(VISIT, bodies))


async def test_it_is_tried_again_after_pauses_that_double() -> None:
    """With one record, up to retry_max."""
    clock, sink = FakeClock(), ManyFakeSink("topic visit")
    async with Rig(sink, clock=clock, linger="0s", retry_initial="1s", retry_max="60s") as rig:
        visits = len(of(VISIT, await rig.post(60)))
        await until_async(lambda: sink.offered["topic visit"] == visits, "written once")
        for _ in range(40):
            await clock.advance(30)
        tries = sink.offered["topic visit"] - visits
    assert 1200 / 60 < tries < 1200 / 30 + 40
    assert {letter.time for letter in rig.dead_letters} == {round(clock.epoch * 1000)}  # since when they wait
    assert {len(batch) for batch in sink.writes[1:]} == {1}


async def test_a_destination_is_told_of_when_it_is_blocked_and_when_it_opens() -> None:
    """In the log, once each."""
    sink = ManyFakeSink("topic visit")
    with capture_logs() as logs:
        async with Rig(sink, max_records=5) as rig:
            await rig.post(60)
            await rig.saved(2)
            sink.shut.clear()
            await until_async(lambda: not rig.delivery.status.blocked, "open again")
    told = [(line["log_level"], line["event"]) for line in logs if line.get("destination") == "topic visit"]
    assert told == [("error", "destination blocked, its records wait"), ("info", "destination open again")]


async def test_nothing_is_asked_while_all_destinations_are_open() -> None:
    """So it costs nothing."""
    sink = ManyFakeSink()
    async with Rig(sink) as rig:
        await rig.post(60)
        await rig.saved(2)
    assert sink.asked == 0


async def test_a_sink_of_which_nothing_goes_says_so() -> None:
    """It is misconfigured, with a reason, until one destination takes records."""
    sink = ManyFakeSink("topic visit", "topic user_action", "topic purepath")
    async with Rig(sink) as rig:
        await rig.post(60)
        await rig.post(60, 1)
        await rig.saved(3)
        assert rig.delivery.status.state == "misconfigured"
        assert "a destination that takes nothing (3 in all): topic " in str(rig.delivery.status.last_error)
        del sink.shut["topic purepath"]
        await until_async(lambda: rig.delivery.status.state == "running", "running")
        await until_async(lambda: "topic purepath" not in rig.delivery.status.blocked, "it has got what waited")
        assert sorted(rig.delivery.status.blocked) == ["topic user_action", "topic visit"]


async def test_a_cluster_that_is_away_makes_no_dead_letters() -> None:
    """Only what names one destination stands aside."""
    sink = FakeSink(*[Unavailable("away")] * 50)
    async with Rig(sink) as rig:
        bodies = await rig.post(20)
        await until_async(lambda: len(sink.writes) > 10, "tried")
        assert rig.dead_letters == []
        await rig.saved(2)
    assert sink.bodies == bodies


async def test_what_is_refused_after_it_waited_is_an_operator_s() -> None:
    """It does not keep the others from going."""
    sink = ManyFakeSink("topic visit")
    async with Rig(sink, max_records=10) as rig:
        visits = of(VISIT, await rig.post(60))
        await rig.saved(2)
        sink.answers += [lambda batch: WriteResult(refused={0: "too large"})]
        sink.shut.clear()
        await until_async(lambda: not rig.delivery.status.blocked, "open again")
    assert [(letter.body, letter.destination, letter.reason) for letter in rig.dead_letters] == [
        (visits[0], "", "too large")
    ]
    assert sink.taken(VISIT) == visits[1:]


async def test_an_operator_s_retry_of_what_waits_lets_it_wait_on() -> None:
    """In order, and without being written. What another reason made a dead letter waits, too."""
    sink = ManyFakeSink()
    sink.answers += [lambda batch: WriteResult(refused=dict.fromkeys(range(len(batch)), "odd"))]
    async with Rig(sink) as rig:
        bodies = await rig.post(40)
        await rig.saved(2)
        sink.shut["topic visit"] = "closed"
        bodies += await rig.post(40, 1)
        await rig.saved(3)
        offered = sink.offered["topic visit"]
        assert rig.retry_dead_letters() == 40 + len(of(VISIT, bodies[40:]))
        await until_async(lambda: not rig.journal.dead_letters.marked, "all retried")
        assert {letter.destination for letter in rig.dead_letters} == {"topic visit"}
        assert [letter.body for letter in rig.dead_letters] == of(VISIT, bodies)
        assert rig.delivery.status.blocked["topic visit"].waiting == len(of(VISIT, bodies))
        assert sink.offered["topic visit"] <= offered + len(sink.writes)
        sink.shut.clear()
        await until_async(lambda: not rig.delivery.status.blocked, "open again")
    assert sink.taken(VISIT) == of(VISIT, bodies)
    assert rig.dead_letters == []


async def test_records_go_where_a_new_configuration_sends_them() -> None:
    """What waited for a topic that is no longer used goes to the new one, or waits for that."""
    journal = MemoryJournal({})
    async with Rig(ManyFakeSink("topic visit"), journal=journal) as rig:
        bodies = await rig.post(60)
        await rig.saved(2)

    class Renamed(ManyFakeSink):
        def _names(self, batch: Batch) -> list[str]:
            return [name.replace("topic", "stream") for name in super()._names(batch)]

    sink = Renamed("stream visit")
    async with Rig(sink, journal=journal) as rig:
        await until_async(lambda: [*rig.delivery.status.blocked] == ["stream visit"], "they wait for another one")
        assert {letter.destination for letter in rig.dead_letters} == {"stream visit"}
        sink.shut.clear()
        await until_async(lambda: not rig.delivery.status.blocked, "open again")
    assert sink.taken(VISIT) == of(VISIT, bodies)


async def test_a_destination_whose_records_are_gone_opens() -> None:
    """An operator deleted them, or they had to make room."""
    sink = ManyFakeSink("topic visit")
    async with Rig(sink) as rig:
        await rig.post(60)
        await rig.saved(2)
        rig.journal.dead_letters.delete([letter.id for letter in rig.dead_letters])
        await until_async(lambda: not rig.delivery.status.blocked, "open again")


async def test_a_sink_that_names_no_destinations_in_advance_loses_nothing() -> None:
    """Its new records are written, and wait if they must."""
    open_now = False

    def answer(batch: Batch) -> WriteResult:
        visits = {i for i, transaction in enumerate(batch.transactions) if transaction.category == VISIT}
        return WriteResult(blocked={} if open_now else {index: Blocked("index visit", "closed") for index in visits})

    sink = FakeSink(always=answer)
    async with Rig(sink) as rig:
        bodies = await rig.post(60) + await rig.post(60, 1)
        await rig.saved(3)
        open_now = True
        await until_async(lambda: not rig.dead_letters, "nothing waits")
    assert sorted(sink.bodies) == sorted(bodies)


@pytest.mark.parametrize("in_flight", [1, 4])
async def test_destinations_that_come_and_go_get_each_record_once(in_flight: int) -> None:
    """With a journal that fails now and then, and restarts. One write at a time also keeps the order."""
    seed = time.time_ns() % 1_000_000
    sys.stdout.write(f"seed {seed}\n")
    rng = random.Random(seed)
    journal, sink = MemoryJournal({}), ManyFakeSink()
    bodies: list[bytes] = []
    for number in range(4):
        async with Rig(sink, journal=journal, in_flight=in_flight, max_records=6) as rig:
            for turn in range(10):
                shut = rng.sample(["topic visit", "topic purepath"], rng.randrange(3) if turn else 2)
                sink.shut = dict.fromkeys(shut, "closed")
                rig.outlet.failing = set(rng.sample(["commit", "waiting", "read"], rng.randrange(2) if turn else 0))
                bodies += await rig.post(20, number * 100 + turn)
                if not turn:
                    await until_async(lambda: rig.delivery.status.blocked, "blocked")
            rig.outlet.failing = set()
            sink.shut = {}
            await rig.saved(len(bodies) // 20 + 1)
            await until_async(lambda: not rig.delivery.status.blocked, "all open")
    assert sorted(sink.bodies) == sorted(bodies)
    assert rig.dead_letters == []
    if in_flight == 1:
        assert [sink.taken(category) for category in (VISIT, PUREPATH)] == [
            of(category, bodies) for category in (VISIT, PUREPATH)
        ]
