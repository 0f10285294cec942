"""Sending: when posts are sent, how often, and how outcomes are counted."""

import asyncio

import pytest

from btfeed.traffic.sending import (
    FIRST_RETRY_DELAY,
    MAX_ATTEMPTS,
    MAX_REASONS,
    LatencyHistogram,
    Outcome,
    ScheduledPost,
    Sender,
    SendSummary,
)
from tests.support.clock import FakeClock


class FakeTarget:
    """A target with prepared outcomes; once they are used up, every post is accepted. times: when each body was sent."""

    measures_latency = True

    def __init__(self, *outcomes: Outcome, clock: FakeClock | None = None) -> None:
        self.outcomes = list(outcomes)
        self.bodies: list[bytes] = []
        self.times: list[float] = []
        self._clock = clock or FakeClock()

    async def __aenter__(self) -> "FakeTarget":
        return self

    async def __aexit__(self, *exception: object) -> None:
        pass

    async def send(self, body: bytes) -> Outcome:
        self.bodies.append(body)
        self.times.append(self._clock.now)
        return self.outcomes.pop(0) if self.outcomes else Outcome(200)


LOST, UNREACHABLE, REFUSED = Outcome(None, "lost"), Outcome(None, "unreachable", sent=False), Outcome(400, "400 Bad")


# In time


async def test_posts_are_sent_when_they_are_due() -> None:
    """Never earlier, on all connections together."""
    clock = FakeClock()
    target = FakeTarget(clock=clock)
    sender = Sender(target, connections=3, clock=clock)
    sending = asyncio.create_task(sender.send(ScheduledPost(b"", due=number / 50) for number in range(6)))
    await clock.advance(1.0)
    assert target.times == pytest.approx([0.0, 0.02, 0.04, 0.06, 0.08, 0.1])
    assert (await sending).seconds == pytest.approx(0.1)


async def test_after_a_stop_no_post_is_sent() -> None:
    """Also if the sender waits for the next post to become due."""
    clock, stop = FakeClock(), asyncio.Event()
    target = FakeTarget(clock=clock)
    sender = Sender(target, stop=stop, clock=clock)
    sending = asyncio.create_task(sender.send(iter([ScheduledPost(b"1"), ScheduledPost(b"2", due=3600.0)])))
    await clock.advance(3599.0)
    assert target.bodies == [b"1"]
    stop.set()
    assert (await sending).posts == 1
    assert target.bodies == [b"1"]


async def test_retries_wait_twice_as_long_each_time_and_then_give_up() -> None:
    """A post without an answer is sent MAX_ATTEMPTS times in total."""
    clock = FakeClock()
    target = FakeTarget(*[UNREACHABLE] * 20, clock=clock)
    sending = asyncio.create_task(Sender(target, retry=True, clock=clock).send(iter([ScheduledPost(b"1")])))
    await clock.advance(60.0)
    delays = [later - earlier for earlier, later in zip(target.times, target.times[1:], strict=False)]
    assert delays == pytest.approx([FIRST_RETRY_DELAY * 2**number for number in range(MAX_ATTEMPTS - 1)])
    summary = await sending
    assert (summary.refused, summary.retries) == ({"unreachable": 1}, MAX_ATTEMPTS - 1)


# Outcomes


async def test_a_post_without_an_answer_is_unknown_and_not_sent_again() -> None:
    """It may have been accepted. Without a connection it was not, so it counts as refused."""
    target = FakeTarget(LOST, UNREACHABLE, REFUSED)
    refused: list[tuple[bytes, Outcome]] = []
    sender = Sender(target, on_refused=lambda body, outcome: refused.append((body, outcome)))
    summary = await sender.send(map(ScheduledPost, [b"1", b"2", b"3", b"4"]))
    assert target.bodies == [b"1", b"2", b"3", b"4"]
    assert (summary.posts, summary.unknown) == (1, {"lost": 1})
    assert summary.refused == {"unreachable": 1, "400 Bad": 1}
    assert refused == [(b"2", UNREACHABLE), (b"3", REFUSED)]


async def test_with_retry_a_post_is_sent_again_until_it_is_answered() -> None:
    """Any answer ends it, also one that refuses the post."""
    clock = FakeClock()
    target = FakeTarget(LOST, UNREACHABLE, Outcome(200), REFUSED, clock=clock)
    sending = asyncio.create_task(Sender(target, retry=True, clock=clock).send(map(ScheduledPost, [b"1", b"2"])))
    await clock.advance(60.0)
    summary = await sending
    assert target.bodies == [b"1", b"1", b"1", b"2"]
    assert (summary.posts, summary.unknown.total(), summary.refused.total(), summary.retries) == (1, 0, 1, 2)


async def test_if_one_attempt_is_unknown_the_outcome_stays_unknown() -> None:
    """Even if there is no connection for the later attempts."""
    clock = FakeClock()
    target = FakeTarget(LOST, *[UNREACHABLE] * 20, clock=clock)
    sending = asyncio.create_task(Sender(target, retry=True, clock=clock).send(map(ScheduledPost, [b"1"])))
    await clock.advance(60.0)
    summary = await sending
    assert len(target.bodies) == MAX_ATTEMPTS
    assert (summary.unknown, summary.refused) == ({"lost": 1}, {})


def test_latencies_are_precise_to_two_percent() -> None:
    """Without any answers there is no latency."""
    latencies = LatencyHistogram()
    assert latencies.quantile(0.5) is None
    for milliseconds in range(1, 1001):
        latencies.add(milliseconds / 1000)
    assert latencies.quantile(0.5) == pytest.approx(0.5, rel=0.02)
    assert latencies.quantile(0.99) == pytest.approx(0.99, rel=0.02)


def test_the_summary_for_json_lists_all_reasons() -> None:
    """Refused and unknown posts are counted separately, and listed together by reason."""
    summary = SendSummary(seconds=1.0)
    for outcome in (LOST, REFUSED, REFUSED, Outcome(200)):
        summary.add(ScheduledPost(b"abc", occurrences=5), outcome)
    found = summary.as_dict()
    assert (found["posts"], found["occurrences"], found["bytes"]) == (1, 5, 3)
    assert (found["refused"], found["unknown"], found["answers"]) == (2, 1, {"lost": 1, "400 Bad": 2})


def test_reasons_without_end_do_not_fill_the_memory() -> None:
    """Once there are many, further ones are counted together."""
    summary = SendSummary()
    for number in range(2 * MAX_REASONS):
        summary.add(ScheduledPost(b""), Outcome(400, f"400 request {number}"))
    assert len(summary.refused) == MAX_REASONS + 1
    assert (summary.refused.total(), summary.refused["other reasons"]) == (2 * MAX_REASONS, MAX_REASONS)
