"""`btfeed serve` with an Elasticsearch sink and real servers: kills on either side neither lose nor duplicate a record.

BTFEED_KILL_SEED repeats a run with the seed that it printed. `make chaos` runs the long form, marked chaos.
"""

import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from btfeed.posts.post import digest, event_id_prefix
from tests.servers.elasticsearch import EIGHT, NINE, Elasticsearch
from tests.sinks.drivers.elasticsearch import Place
from tests.support.harness import BTFEED, DEADLINE, Server, rounds, until
from tests.support.load import OCCURRENCES, Load
from tests.support.ports import free_port
from tests.support.posts import mixed

pytestmark = pytest.mark.elasticsearch
DELIVERY = 'max_records = 100\nin_flight = 4\nlinger = "20ms"\nretry_initial = "50ms"\nretry_max = "500ms"'
LONG = 180.0
"""Seconds to wait for what needs a server to restart."""

short_and_long = pytest.mark.parametrize("times", [2, pytest.param(12, marks=pytest.mark.chaos)])


def btfeed(directory: Path, place: Place, more: str = "", hosts: list[str] | None = None) -> Server:
    """A server with one sink `search`, with small batches and short pauses."""
    config = (
        f'[sinks.search]\ntype = "elasticsearch"\nhosts = {json.dumps(hosts or [place.server.url])}\n'
        f"index = {json.dumps(place.settings['index'])}\n{more}\n[sinks.search.delivery]\n{DELIVERY}\n"
    )
    return Server(directory, config)


def done(server: Server) -> None:
    until(lambda: server.status()["sinks"]["search"]["backlog_posts"] == 0, "everything settled", LONG)


def metric(server: Server, name: str) -> float:
    lines = [line for line in server.get("/metrics").splitlines() if line.startswith(f"btfeed_{name}" + "{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def seed_of_this_run() -> int:
    seed = int(os.environ.get("BTFEED_KILL_SEED") or time.time_ns() % 1_000_000)
    sys.stdout.write(f"seed {seed}\n")
    return seed


def assert_each_once(place: Place, load: Load) -> None:
    """Every acknowledged record is in exactly one document, and so is every record that was journaled without an answer."""
    found = Counter(document.id for document in place.server.documents(place.pattern))
    assert [event_id for event_id, number in found.items() if number > 1] == []
    answered = {f"{prefix}{ordinal}" for prefix in map(_prefix, load.answered) for ordinal in range(OCCURRENCES)}
    unanswered = {f"{prefix}{ordinal}" for prefix in map(_prefix, load.unanswered) for ordinal in range(OCCURRENCES)}
    assert answered - set(found) == set(), "answered, and lost"
    assert set(found) <= answered | unanswered
    sys.stdout.write(f"{len(answered)} records answered for, {len(found)} documents\n")


def _prefix(body: bytes) -> str:
    return event_id_prefix(digest(body))


def conflicts(place: Place) -> int:
    """How many writes found that their document existed. 0 while there is no index."""
    stats = place.server.must("GET", f"/{place.pattern}/_stats/indexing")["_all"]["primaries"]
    return int(stats["indexing"]["index_failed"]) if stats else 0


@contextmanager
def loaded(server: Server, load: Load) -> Iterator[None]:
    """Sends posts during the block."""
    stop = threading.Event()
    threads = load.run(server.port, stop)
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@short_and_long
def test_kill_9_of_btfeed_loses_and_doubles_nothing(tmp_path: Path, place: Place, times: int) -> None:
    """Killed at random moments under load, also between a bulk request and the saving of its cursor."""
    rng = random.Random(seed := seed_of_this_run())
    load = Load(seed)
    server = btfeed(tmp_path, place)
    kills = 0

    def hit() -> bool:
        return conflicts(place) > 0 and len(load.unanswered) > 0

    for _ in rounds(2 * times, hit, "a kill between a post and its answer, and one between a bulk and its saving"):
        server.start()
        with loaded(server, load):
            until(lambda: server.status()["sinks"]["search"]["delivered"] > 0, "something delivered")
            wanted = len(load.answered) + rng.randrange(1, 60)
            until(lambda wanted=wanted: len(load.answered) >= wanted, "so many posts answered")  # type: ignore[misc]
            server.kill()
        kills += 1
    server.start()
    done(server)
    assert server.stop() == 0
    sys.stdout.write(f"{kills} kills, {conflicts(place)} records written again\n")
    assert_each_once(place, load)


def test_a_rewind_writes_no_document_twice(tmp_path: Path, place: Place) -> None:
    """What the server has already, it drops by its id; what it lacks, it gets again."""
    with btfeed(tmp_path, place) as server:
        for seed in range(5):
            assert server.post(mixed(40, seed)) == (200, "")
        done(server)
        before = {document.id for document in place.server.documents(place.pattern)}
        assert len(before) == 200
        gone = place.server.documents(place.pattern)[:10]
        for document in gone:
            place.server.must("DELETE", f"/{document.index}/_doc/{document.id}")
        request = urllib.request.Request(
            f"{server.admin_url}/sinks/search/rewind", b'{"time": 0}', {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            assert json.load(answer)["partitions"][0]["again"] == 5
        until(lambda: server.status()["sinks"]["search"]["delivered"] == 400, "all of them again")
        assert metric(server, "sink_flagged_total") == 200 - len(gone)
        found = Counter(document.id for document in place.server.documents(place.pattern))
        assert found == dict.fromkeys(before, 1)


@pytest.fixture
def lonely(request: pytest.FixtureRequest) -> Iterator[Place]:
    """On a server of its own, which may be killed."""
    server = Elasticsearch(request.param)
    try:
        yield Place(server.start())
    finally:
        server.remove()


@contextmanager
def killed(server: Elasticsearch) -> Iterator[None]:
    server.kill()
    yield
    server.start()


@contextmanager
def restarted(server: Elasticsearch) -> Iterator[None]:
    server.stop()
    yield
    server.start()


@contextmanager
def frozen(server: Elasticsearch) -> Iterator[None]:
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


def held_up(
    tmp_path: Path, place: Place, faults: list[tuple[Callable[[Elasticsearch], AbstractContextManager[None]], int]]
) -> None:
    """Faults of the server under load, each until it was noticed and so many posts were answered meanwhile: in the end each
    record is there once."""
    load = Load(seed_of_this_run(), pause=0.05)
    with btfeed(tmp_path, place, 'timeout = "1s"') as server:
        with loaded(server, load):
            for fault, posts in faults:
                delivered = server.status()["sinks"]["search"]["delivered"]
                until(lambda d=delivered: server.status()["sinks"]["search"]["delivered"] > d, "delivering", LONG)  # type: ignore[misc]
                errors = metric(server, "sink_errors_total")
                with fault(place.server):
                    until(lambda e=errors: metric(server, "sink_errors_total") > e, "the fault is noticed", LONG)  # type: ignore[misc]
                    wanted = len(load.answered) + posts
                    until(lambda w=wanted: len(load.answered) >= w, "posts answered meanwhile", LONG)  # type: ignore[misc]
        done(server)
        unknown, duplicates = metric(server, "sink_unknown_total"), metric(server, "sink_flagged_total")
        sys.stdout.write(f"{unknown:.0f} records with an unknown outcome, {duplicates:.0f} were there already\n")
        assert metric(server, "dead_letters_total") == 0
        if frozen in [fault for fault, _ in faults]:
            assert unknown > 0
    assert load.refused == []
    assert_each_once(place, load)


@pytest.mark.parametrize("lonely", [EIGHT], indirect=True)
def test_a_node_that_stops_loses_and_doubles_nothing(tmp_path: Path, lonely: Place) -> None:
    """Frozen for longer than the timeout, then killed and restarted, under load."""
    held_up(tmp_path, lonely, [(frozen, 100), (killed, 30)])


@pytest.mark.chaos
@pytest.mark.parametrize("lonely", [NINE, EIGHT], indirect=True)
def test_a_node_that_stops_for_long_loses_and_doubles_nothing(tmp_path: Path, lonely: Place) -> None:
    """Frozen while 2,000 posts are answered, and killed or stopped and restarted, several times under load."""
    held_up(tmp_path, lonely, [(frozen, 2000), *[(killed, 50), (restarted, 50), (frozen, 250)] * 3])


def test_a_host_that_is_dead_costs_nothing(tmp_path: Path, place: Place) -> None:
    """One of two hosts is down: each record is there once, and the sink was never unavailable."""
    load = Load(seed_of_this_run())
    with btfeed(tmp_path, place, hosts=[f"http://127.0.0.1:{free_port()}", place.server.url]) as server:
        with loaded(server, load):
            until(lambda: len(load.answered) > 50, "posts")
        done(server)
        assert metric(server, "sink_errors_total") == 0
        assert "host unavailable, others are asked" in server.log(), "the dead host was never asked"
    assert_each_once(place, load)


def run(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*BTFEED, *arguments, "-c", str(server.config)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE)


def test_records_that_a_mapping_refuses_can_be_retried_later(tmp_path: Path, place: Place) -> None:
    """Only those records, with Elasticsearch's reason. When they are retried later, all are there."""
    body = mixed(300, start=time.time_ns() // 1_000_000)
    mapping = {"mappings": {"properties": {"appmon.visit.id": {"type": "integer"}}}}  # too small for AppMon's ids
    pattern = f"{place.prefix}-user_action-*"
    place.server.must("PUT", f"/_index_template/{place.prefix}", {"index_patterns": [pattern], "template": mapping})
    with btfeed(tmp_path, place, "manage_template = false") as server:
        assert server.post(body)[0] == 200
        done(server)
        letters = [json.loads(line) for line in run(server, "dead-letters", "list", "--json").stdout.splitlines()]
        assert len(letters) == 100 == metric(server, "sink_refused_total")
        assert all("document_parsing_exception" in letter["reason"] for letter in letters)
        assert len(place.records()) == 200
        place.server.must("DELETE", f"/_index_template/{place.prefix}")
        place.server.must("DELETE", f"/{pattern}")
        assert run(server, "dead-letters", "retry").returncode == 0
        until(lambda: len(place.records()) == 300, "all of them")
        assert run(server, "dead-letters", "list", "--json").stdout == ""


def test_indexes_that_take_nothing_stop_no_other(tmp_path: Path, place: Place) -> None:
    """One is closed and one is blocked for writing under load, over a restart and a kill: all other records arrive, and
    these do once their index takes them. Each is there once.
    """
    server = btfeed(tmp_path, place)

    def blocked() -> dict[str, str]:
        return {one["destination"]: one["reason"] for one in server.status()["sinks"]["search"]["blocked"]}

    bodies = [mixed(50, 1 + number) for number in range(40)]
    with server:
        assert server.post(mixed(300))[0] == 200
        done(server)
        visits, actions = (f"{place.prefix}-{one}-2013-01-16" for one in ("visit", "user_action"))
        place.server.must("POST", f"/{visits}/_close")
        place.server.must("PUT", f"/{actions}/_block/write")
        before = len(place.records())
        for body in bodies[:20]:
            assert server.post(body)[0] == 200
        done(server)
        assert blocked().keys() == {f"index {visits}", f"index {actions}"}
        assert "index_closed_exception" in blocked()[f"index {visits}"]
        assert "index write" in blocked()[f"index {actions}"]
        assert server.status()["sinks"]["search"]["state"] == "running"
        asked = tmp_path / "asked.toml"
        asked.write_text(f'[admin]\nlisten = "{server.admin_url.removeprefix("http://")}"\n')
        shown = subprocess.run([*BTFEED, "status", "-c", str(asked)], check=True, capture_output=True, text=True).stdout
        assert f"\n  index {visits}: takes nothing since 20" in shown
    server.start()
    until(lambda: blocked().keys() == {f"index {visits}", f"index {actions}"}, "still blocked")
    for body in bodies[20:30]:
        assert server.post(body)[0] == 200
    server.kill()
    with server:
        for body in bodies[30:]:
            assert server.post(body)[0] == 200
        done(server)
        waiting = len(run(server, "dead-letters", "list", "--json").stdout.splitlines())
        place.server.must("POST", f"/{visits}/_open")
        place.server.must("PUT", f"/{actions}/_settings", {"index.blocks.write": False})
        until(lambda: not blocked(), "open again", LONG)
        assert metric(server, "sink_blocked_destinations") == 0
        assert run(server, "dead-letters", "list", "--json").stdout == ""
    found = Counter(document.id for document in place.server.documents(place.pattern))
    ids = {f"{_prefix(body)}{ordinal}" for body in bodies for ordinal in range(50)}
    sys.stdout.write(f"{before} before, {waiting} waited\n")
    assert waiting > 500
    assert set(found) == ids | {f"{_prefix(mixed(300))}{ordinal}" for ordinal in range(300)}
    assert set(found.values()) == {1}


def test_check_says_what_is_wrong(tmp_path: Path, place: Place) -> None:
    """Exit status, one line on stdout, and warnings on stderr only."""
    good = run(btfeed(tmp_path, place), "check")
    assert (good.returncode, good.stdout.splitlines()[-1]) == (0, "sinks.search: ok, an elasticsearch sink that could open")
    bad = run(btfeed(tmp_path, place, hosts=[f"http://127.0.0.1:{free_port()}"]), "check")
    assert bad.returncode == 1
    assert bad.stdout.splitlines()[-1].startswith("sinks.search: failed, unavailable: can't connect to 127.0.0.1:")
    assert "event" not in bad.stdout
