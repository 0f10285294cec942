"""Generate: seeds, histories, live posts, and where they go."""

import re
import signal
import subprocess
from datetime import UTC, datetime
from math import sqrt
from pathlib import Path
from typing import Any

import pytest

from btfeed.posts import files as postfile
from btfeed.posts.admission import admit
from btfeed.traffic import profile
from btfeed.traffic.generate import MONDAY, Order, generate
from tests.commands.test_main import invoke
from tests.support.harness import BTFEED, DEADLINE, Server, until
from tests.traffic.test_generate import HOUR, Z, messages


def small(**settings: Any) -> list[bytes]:
    order = Order(profile.load("web-shop"), **({"flows": 50} | settings))
    return [post.body for post in generate(order)]


def test_equal_seeds_give_equal_bytes() -> None:
    """And others give others."""
    assert small(seed=1) == small(seed=1)
    assert small(seed=1) != small(seed=2)


def test_equal_seeds_give_equal_files(tmp_path: Path) -> None:
    """Of the command, gzipped or not, in processes of their own; they are what the module makes."""
    for name in ("a.btposts", "b.btposts", "a.btposts.gz", "b.btposts.gz"):
        assert invoke("generate", "web-shop", "--flows", 50, "--seed", 1, "--out", tmp_path / name).exit_code == 0
    assert (tmp_path / "a.btposts").read_bytes() == (tmp_path / "b.btposts").read_bytes()
    assert (tmp_path / "a.btposts.gz").read_bytes() == (tmp_path / "b.btposts.gz").read_bytes()
    assert list(postfile.read(tmp_path / "a.btposts.gz")) == small(seed=1)


def test_a_history_has_all_that_arrives_in_its_time_and_nothing_else() -> None:
    """It begins as if it had always run: visits end in its first minutes that had begun before."""
    begin, end = MONDAY + 20 * HOUR, MONDAY + 21 * HOUR
    occurrences = [
        (transaction.type, occurrence)
        for message in messages(generate(Order(profile.load("flight-search"), begin=begin, end=end)))
        for transaction in message.businessTransactions
        for occurrence in transaction.occurrences
    ]
    visits = [occurrence for kind, occurrence in occurrences if kind == 2]
    assert all(begin <= visit.endTime < end for visit in visits)
    assert any(visit.startTime < begin for visit in visits)
    assert all(occurrence.startTime < end for _, occurrence in occurrences)
    assert sum(visit.endTime < begin + HOUR // 6 for visit in visits) > 100


def test_time_scale_makes_visits_shorter_and_actions_not() -> None:
    """Days become minutes."""
    loaded = profile.load("loan-application")

    def longest(scale: float) -> int:
        order = Order(loaded, flows=200, time_scale=scale)
        return max(
            visit.endTime - visit.startTime
            for message in messages(generate(order))
            for transaction in message.businessTransactions if transaction.type == 2
            for visit in transaction.occurrences
        )  # fmt: skip

    assert longest(1) > 24 * HOUR
    assert longest(600) < HOUR


def test_a_rate_is_kept_whatever_the_hour() -> None:
    """So many flows a second, within what chance allows; at night too."""
    order = Order(profile.load("web-shop"), flows=2_000, rate=10)
    starts = [
        visit.startTime
        for message in messages(generate(order))
        for transaction in message.businessTransactions if transaction.type == 2
        for visit in transaction.occurrences
    ]  # fmt: skip
    assert len(starts) == 2_000
    assert (max(starts) - MONDAY) / 1000 == pytest.approx(200, rel=Z / sqrt(2_000))


def test_live_posts_are_due_when_they_would_be_posted() -> None:
    """In the order of time, and none before what is in it has arrived."""
    posts = list(generate(Order(profile.load("web-shop"), flows=50, live=True)))
    assert [post.due for post in posts] == sorted(post.due for post in posts)
    for post, message in zip(posts, messages(posts), strict=True):
        newest = max(max(o.startTime, o.endTime) for t in message.businessTransactions for o in t.occurrences)
        assert post.due >= (newest - MONDAY) / 1000 - 0.001


def test_a_bulk_size_bounds_posts() -> None:
    """Seven occurrences each at most."""
    assert max(admit(body, 100) for body in small(bulk_size=7)) == 7


def test_a_server_takes_what_is_generated(server: Server) -> None:
    """Every record, without a violation."""
    result = invoke("generate", "web-shop", server.url, "--flows", 40, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    occurrences = sum(admit(body, 100) for body in small(flows=40))
    assert f'"occurrences": {occurrences}, ' in result.stdout
    records = server.delivered(occurrences)
    assert {record["event.category"] for record in records} == {"purepath", "user_action", "visit"}
    assert server.status()["violations"] == []


def test_live_goes_on_until_it_is_stopped(server: Server) -> None:
    """Records of now arrive while it runs; SIGINT ends it with a summary and exit 0."""
    command = [*BTFEED, "generate", "web-shop", server.url, "--rate", "200", "--time-scale", "10000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    records = server.delivered(300)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (0, "")
    assert re.match(r"\d+ posts, \d+ occurrences, 0 refused in ", out)
    assert {record["event.category"] for record in records} == {"purepath", "user_action", "visit"}
    begun = datetime.fromisoformat(records[0]["timestamp"])
    assert abs((datetime.now(UTC) - begun).total_seconds()) < 2 * DEADLINE


def test_live_to_a_file_can_be_followed(tmp_path: Path) -> None:
    """Each post is there when it is due."""
    path = tmp_path / "a.btposts"
    command = [
        *BTFEED,
        "generate",
        "web-shop",
        "--rate",
        "200",
        "--time-scale",
        "10000",
        "--bulk-size",
        "5",
        "--out",
        str(path),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: path.exists() and path.stat().st_size > 100, "the first post")
    process.terminate()
    assert process.communicate(timeout=DEADLINE)[1] == b""
    assert process.returncode == 0
    assert all(1 <= admit(body, 5) <= 5 for body in postfile.read(path))
