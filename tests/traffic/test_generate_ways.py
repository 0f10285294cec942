"""Options of generate: seeds, histories, live posts, and the command."""

import asyncio
import re
import signal
import subprocess
from datetime import UTC, datetime
from itertools import takewhile
from math import sqrt
from pathlib import Path
from typing import Any

import pytest

from btfeed.posts import files as postfile
from btfeed.posts.admission import admit
from btfeed.posts.bt_pb2 import BtOccurrence
from btfeed.traffic import profile
from btfeed.traffic.generate import DEFAULT_BEGIN, GenerateOptions, generate
from btfeed.traffic.sending import Sender
from tests.commands.test_main import invoke
from tests.support.clock import FakeClock
from tests.support.harness import BTFEED, DEADLINE, Server, until
from tests.traffic.test_generate import HOUR, Z, messages
from tests.traffic.test_sending import FakeTarget


def small(**settings: Any) -> list[bytes]:
    options = GenerateOptions(profile.load("web-shop"), **({"visits": 50} | settings))
    return [post.body for post in generate(options)]


def test_equal_seeds_give_equal_bytes() -> None:
    """Different seeds give different bytes."""
    assert small(seed=1) == small(seed=1)
    assert small(seed=1) != small(seed=2)


def test_equal_seeds_give_equal_files(tmp_path: Path) -> None:
    """The command writes the same file twice, gzipped or not, with the posts that the module generates."""
    for name in ("a.btposts", "b.btposts", "a.btposts.gz", "b.btposts.gz"):
        assert invoke("generate", "web-shop", "--flows", 50, "--seed", 1, "--out", tmp_path / name).exit_code == 0
    assert (tmp_path / "a.btposts").read_bytes() == (tmp_path / "b.btposts").read_bytes()
    assert (tmp_path / "a.btposts.gz").read_bytes() == (tmp_path / "b.btposts.gz").read_bytes()
    assert list(postfile.read(tmp_path / "a.btposts.gz")) == small(seed=1)


@pytest.mark.slow
def test_a_history_contains_exactly_what_arrives_in_its_time() -> None:
    """Visits that began earlier and end in its first minutes are included, as on a server that has always run."""
    begin, end = DEFAULT_BEGIN + 20 * HOUR, DEFAULT_BEGIN + 21 * HOUR
    occurrences = [
        (transaction.type, occurrence)
        for message in messages(generate(GenerateOptions(profile.load("flight-search"), begin=begin, end=end)))
        for transaction in message.businessTransactions
        for occurrence in transaction.occurrences
    ]
    visits = [occurrence for kind, occurrence in occurrences if kind == 2]
    assert all(begin <= visit.endTime < end for visit in visits)
    assert any(visit.startTime < begin for visit in visits)
    assert all(occurrence.startTime < end for _, occurrence in occurrences)
    assert sum(visit.endTime < begin + HOUR // 6 for visit in visits) > 100


def test_time_scale_shortens_visits() -> None:
    """With a factor of 600, visits of days take minutes."""
    loaded = profile.load("loan-application")

    def longest(scale: float) -> int:
        options = GenerateOptions(loaded, visits=200, time_scale=scale)
        return max(
            visit.endTime - visit.startTime
            for message in messages(generate(options))
            for transaction in message.businessTransactions if transaction.type == 2
            for visit in transaction.occurrences
        )  # fmt: skip

    assert longest(1) > 24 * HOUR
    assert longest(600) < HOUR


def test_a_rate_is_kept_whatever_the_hour() -> None:
    """The given number of visits begins per second, at night as well."""
    options = GenerateOptions(profile.load("web-shop"), visits=2_000, rate=10)
    starts = [
        visit.startTime
        for message in messages(generate(options))
        for transaction in message.businessTransactions if transaction.type == 2
        for visit in transaction.occurrences
    ]  # fmt: skip
    assert len(starts) == 2_000
    assert (max(starts) - DEFAULT_BEGIN) / 1000 == pytest.approx(200, rel=Z / sqrt(2_000))


def test_live_posts_are_due_when_appmon_would_send_them() -> None:
    """Posts are due in order, and none before its last occurrence has arrived."""
    posts = list(generate(GenerateOptions(profile.load("web-shop"), visits=50, live=True)))
    assert [post.due for post in posts] == sorted(post.due for post in posts)
    for post, message in zip(posts, messages(posts), strict=True):
        newest = max(max(o.startTime, o.endTime) for t in message.businessTransactions for o in t.occurrences)
        assert post.due >= (newest - DEFAULT_BEGIN) / 1000 - 0.001


def test_bulk_size_limits_posts() -> None:
    """No post has more occurrences, and full ones have exactly as many."""
    assert max(admit(body, 100) for body in small(bulk_size=7)) == 7


def test_purepaths_have_the_id_of_their_visit_if_the_profile_says_so() -> None:
    """By default they have none. Nothing else in the posts changes."""
    shop = profile.load("web-shop")
    with_id = shop.model_copy(update={"purepath_visit_id": True})

    def generated(chosen: profile.Profile) -> list[tuple[int, BtOccurrence]]:
        return [
            (transaction.type, occurrence)
            for message in messages(generate(GenerateOptions(chosen, visits=50)))
            for transaction in message.businessTransactions
            for occurrence in transaction.occurrences
        ]

    visit_of = {occurrence.purePathId: occurrence.visitId for kind, occurrence in generated(shop) if kind == 1}
    purepaths = [occurrence for kind, occurrence in generated(with_id) if kind == 0]
    first_of_an_action = [purepath for purepath in purepaths if purepath.purePathId in visit_of]
    assert len(first_of_an_action) == len(visit_of)
    assert all(purepath.visitId == visit_of[purepath.purePathId] for purepath in first_of_an_action)
    assert {purepath.visitId for purepath in purepaths} == set(visit_of.values())
    for purepath in purepaths:
        purepath.ClearField("visitId")
    assert purepaths == [occurrence for kind, occurrence in generated(shop) if kind == 0]


async def test_live_posts_are_sent_when_they_are_due() -> None:
    """While the clock stands still nothing is sent; an hour later all posts of that hour are."""
    clock = FakeClock()
    options = GenerateOptions(profile.load("web-shop"), live=True)
    due = [post.due for post in takewhile(lambda post: post.due <= 3600, generate(options))]
    target, stop = FakeTarget(clock=clock), asyncio.Event()
    sending = asyncio.create_task(Sender(target, stop=stop, clock=clock).send(generate(options)))
    await clock.advance(0.0)
    assert target.times == []
    await clock.advance(3600.0)
    assert target.times == pytest.approx(due)
    stop.set()
    assert (await sending).posts == len(due)


def test_a_server_accepts_generated_posts(server: Server) -> None:
    """It delivers a record for every occurrence, and finds no violations."""
    result = invoke("generate", "web-shop", server.url, "--flows", 40, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    occurrences = sum(admit(body, 100) for body in small(visits=40))
    assert f'"occurrences": {occurrences}, ' in result.stdout
    records = server.delivered(occurrences)
    assert {record["event.category"] for record in records} == {"purepath", "user_action", "visit"}
    assert server.status()["violations"] == []


@pytest.mark.slow
def test_live_posts_are_sent_until_a_signal(server: Server) -> None:
    """Their times are around now. SIGINT ends the command with a summary and exit status 0."""
    command = [*BTFEED, "generate", "web-shop", server.url, "--rate", "200", "--time-scale", "10000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    records = server.delivered(300)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (0, "")
    assert re.match(r"\d+ posts accepted \(\d+ occurrences\) in ", out)
    assert {record["event.category"] for record in records} == {"purepath", "user_action", "visit"}
    begun = datetime.fromisoformat(records[0]["timestamp"])
    assert abs((datetime.now(UTC) - begun).total_seconds()) < 2 * DEADLINE


def test_live_to_a_file_can_be_followed(tmp_path: Path) -> None:
    """Each post is in the file as soon as it is due."""
    path = tmp_path / "a.btposts"
    arguments = ["--rate", "200", "--time-scale", "10000", "--bulk-size", "5", "--out", str(path)]
    command = [*BTFEED, "generate", "web-shop", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: path.exists() and path.stat().st_size > 100, "the first post")
    process.terminate()
    assert process.communicate(timeout=DEADLINE)[1] == b""
    assert process.returncode == 0
    assert all(1 <= admit(body, 5) <= 5 for body in postfile.read(path))
