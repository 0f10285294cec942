"""`btfeed serve` with a bizevents sink and the stand-in for Dynatrace: no record is lost, and few are duplicated.

BTFEED_KILL_SEED repeats a run with the seed that it printed.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from btfeed.posts.post import digest, event_id_prefix
from tests.servers.bizevents import API_TOKEN, CLIENT_ID, CLIENT_SECRET, BizeventsServer, Fault
from tests.support.harness import BTFEED, DEADLINE, Server, rounds, until
from tests.support.posts import mixed

OCCURRENCES = 20
IN_FLIGHT = 4
RECORDS = 25
HOUR = 3_600_000
KILLS = 8
SECRETS = ("SECRETAPITOKEN", "SECRETOFCLIENT", "STANDINBEARER")
OAUTH = f'oauth = {{ client_id = "{CLIENT_ID}", client_secret = "${{SECRET}}", token_url = "%s" }}'


def btfeed(directory: Path, url: str, more: str = 'api_token = "${TOKEN}"', delivery: str = "") -> Server:
    """A server with one sink `biz`, with small batches and short pauses."""
    config = (
        f'[sinks.biz]\ntype = "bizevents"\nurl = "{url}"\n{more}\n[sinks.biz.delivery]\nmax_records = {RECORDS}\n'
        f'in_flight = {IN_FLIGHT}\nlinger = "20ms"\nretry_initial = "20ms"\nretry_max = "100ms"\n{delivery}\n'
    )
    secrets = {"TOKEN": API_TOKEN, "SECRET": CLIENT_SECRET, "NO_PROXY": "127.0.0.1"}
    return Server(directory, config, environment=secrets)


def post(server: Server, number: int, first: int = 0, age: int = HOUR) -> list[str]:
    """Send posts whose records are `age` milliseconds old. Returns the ids of all records."""
    ids = []
    for seed in range(first, first + number):
        body = mixed(OCCURRENCES, seed, start=time.time_ns() // 1_000_000 - age)
        assert server.post(body)[0] == 200
        ids += [f"{event_id_prefix(digest(body))}{ordinal}" for ordinal in range(OCCURRENCES)]
    return ids


def done(server: Server) -> None:
    until(lambda: server.status()["sinks"]["biz"]["backlog_posts"] == 0, "everything settled")


def letters(server: Server) -> list[dict[str, Any]]:
    command = [*BTFEED, "dead-letters", "list", "--json", "-c", str(server.config)]
    environment = os.environ | {"TOKEN": API_TOKEN, "SECRET": CLIENT_SECRET}
    listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE, env=environment)
    return [json.loads(line) for line in listed.stdout.splitlines()]


def metric(server: Server, name: str) -> float:
    lines = [line for line in server.get("/metrics").splitlines() if line.startswith(f"btfeed_{name}" + "{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def gaps(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


def test_a_partly_accepted_batch_is_never_sent_again(tmp_path: Path) -> None:
    """Only the events that Dynatrace lists become dead letters, with its message. Each event was sent once."""
    with BizeventsServer() as dynatrace:
        dynatrace.refuse = lambda event: "Value is odd" if event["event.id"].endswith(("-3", "-17")) else None
        with btfeed(tmp_path, dynatrace.url) as server:
            ids = post(server, 20)
            done(server)
            found = letters(server)
            assert metric(server, "sink_refused_total") == len(found) == 40
    assert {letter["event_id"] for letter in found} == {one for one in ids if one.endswith(("-3", "-17"))}
    assert {letter["reason"] for letter in found} == {"Value is odd"}
    assert sorted(one for request in dynatrace.sent for one in request.ids) == sorted(ids)
    assert any(request.status == 400 for request in dynatrace.sent)
    assert sorted([*dynatrace.ids, *(letter["event_id"] for letter in found)]) == sorted(ids)
    assert dynatrace.most_at_once <= IN_FLIGHT


def test_a_400_that_took_nothing_is_halved(tmp_path: Path) -> None:
    """The only bad record of a batch becomes a dead letter; its neighbors arrive, each once."""
    with BizeventsServer() as dynatrace:
        dynatrace.refuse_all = lambda events: (
            "poison" if any(event["event.id"].endswith("-7") for event in events) else None
        )
        with btfeed(tmp_path, dynatrace.url) as server:
            ids = post(server, 3)
            done(server)
            found = letters(server)
    assert {letter["event_id"] for letter in found} == {one for one in ids if one.endswith("-7")}
    assert {letter["reason"] for letter in found} == {"HTTP 400: poison"}
    assert sorted(dynatrace.ids) == sorted(one for one in ids if not one.endswith("-7"))


@pytest.mark.slow
def test_a_storm_loses_nothing_and_retry_after_is_obeyed(tmp_path: Path) -> None:
    """With 429 and 503 for a while, no retry comes too early, and in the end each record is there once."""
    with BizeventsServer() as dynatrace:
        storm = [Fault(status, {"Retry-After": "1"}, "later") for status in (429, 503)] * IN_FLIGHT
        with btfeed(tmp_path, dynatrace.url) as server:
            post_first = post(server, 1)
            done(server)
            dynatrace.faults.extend(storm)
            ids = post_first + post(server, 20)
            done(server)
            assert letters(server) == []
            assert metric(server, "sink_unknown_total") == 0
    refused: dict[str, list[float]] = {}
    for request in dynatrace.sent:
        refused.setdefault(request.ids[0], []).append(request.at)
    waited = [gap for times in refused.values() for gap in gaps(times)]
    assert len(waited) == len(storm)
    assert min(waited) >= 1.0
    assert sorted(dynatrace.ids) == sorted(ids)


@pytest.mark.slow
def test_lost_replies_double_with_equal_ids_only(tmp_path: Path) -> None:
    """If a connection breaks before the reply, or after a 500, records come again unchanged, and are counted."""
    with BizeventsServer() as dynatrace:
        dynatrace.faults.extend([Fault(drop=True, commit=True), Fault(500, commit=True), Fault(502), Fault(drop=True)] * 3)
        with btfeed(tmp_path, dynatrace.url) as server:
            ids = post(server, 20)
            done(server)
            assert letters(server) == []
            unknown = metric(server, "sink_unknown_total")
    assert set(dynatrace.ids) == set(ids)
    doubled = [one for one, number in Counter(dynatrace.ids).items() if number > 1]
    assert 0 < len(doubled) <= unknown
    bodies: dict[str, set[bytes]] = {}
    for event in dynatrace.accepted:
        bodies.setdefault(event.id, set()).add(event.raw)
    assert all(len(versions) == 1 for versions in bodies.values())


def test_on_unknown_dead_letter_sends_nothing_twice(tmp_path: Path) -> None:
    """What may be missing is in the dead letters."""
    more = 'api_token = "${TOKEN}"\non_unknown = "dead-letter"\ntimeout = "300ms"'
    with BizeventsServer() as dynatrace, btfeed(tmp_path, dynatrace.url, more) as server:
        ids = post(server, 1)
        done(server)
        dynatrace.faults.extend([Fault(drop=True, commit=True), Fault(500), Fault(delay=30, commit=True)])
        ids += post(server, 10, first=1)
        done(server)
        kept = {letter["event_id"] for letter in letters(server)}
        assert metric(server, "sink_unknown_total") == len(kept) > 0
    sent = Counter(one for request in dynatrace.sent for one in request.ids)
    assert set(sent.values()) == {1}
    assert {*dynatrace.ids, *kept} == set(ids)


def test_events_that_are_too_old_expire(tmp_path: Path) -> None:
    """After 23 h 55 min, so that Dynatrace does not drop them silently. Those in the future are counted."""
    with BizeventsServer() as dynatrace, btfeed(tmp_path, dynatrace.url) as server:
        fresh = post(server, 2)
        old = post(server, 2, first=2, age=24 * HOUR - HOUR // 30)
        ahead = post(server, 1, first=4, age=-HOUR)
        done(server)
        found = letters(server)
        assert metric(server, "sink_flagged_total") == len(ahead)
    assert {letter["event_id"] for letter in found} == set(old)
    assert {letter["reason"].partition(":")[0] for letter in found} == {"expired"}
    assert sorted(dynatrace.ids) == sorted(fresh + ahead)
    assert dynatrace.dropped == []


@pytest.mark.slow
def test_kill_9_loses_nothing(tmp_path: Path, quick: bool) -> None:
    """Killed at random moments under load: every acknowledged record is there, at most those in flight twice."""
    seed = int(os.environ.get("BTFEED_KILL_SEED") or time.time_ns() % 1_000_000)
    sys.stdout.write(f"seed {seed}\n")
    rng = random.Random(seed)
    ids: list[str] = []
    kills = 0
    with BizeventsServer() as dynatrace:
        dynatrace.always = Fault(delay=0.02)
        server = btfeed(tmp_path, dynatrace.url)

        def doubled() -> int:
            return len(dynatrace.ids) - len(set(dynatrace.ids))

        least = 3 if quick else KILLS
        for life in rounds(least, lambda: doubled() > 0, "a kill between an answer and its saving"):
            server.start()
            arrived = len(dynatrace.requests)
            ids += post(server, 10, first=life * 10)
            wanted = arrived + rng.randrange(1, 6)
            until(lambda wanted=wanted: len(dynatrace.requests) >= wanted, "requests under way")  # type: ignore[misc]
            server.kill()
            kills += 1
        server.start()
        done(server)
        assert server.stop() == 0
        assert set(dynatrace.ids) == set(ids)
        sys.stdout.write(f"{len(ids)} records, {doubled()} of them doubled over {kills} kills\n")
        assert doubled() <= kills * 2 * IN_FLIGHT * RECORDS


@pytest.mark.slow
def test_oauth_under_load_refreshes_once_at_a_time(tmp_path: Path) -> None:
    """All tokens expire, again and again, during writes: one new token each time, and no record is lost."""
    with BizeventsServer() as dynatrace:
        url = dynatrace.url + "/platform/classic/environment-api"
        with btfeed(tmp_path, url, OAUTH % dynatrace.token_url) as server:
            ids: list[str] = []
            for turn in range(4):
                ids += post(server, 10, first=turn * 10)
                done(server)
                assert len(dynatrace.tokens_given) == turn + 1
                dynatrace.end_tokens()
            assert letters(server) == []
    assert sorted(dynatrace.ids) == sorted(ids)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["token", "oauth"])
def test_secrets_appear_nowhere(tmp_path: Path, way: str) -> None:
    """Not in logs, /status, /metrics, /readyz or the output of check, although Dynatrace repeats the token."""
    with BizeventsServer() as dynatrace:
        more = 'api_token = "${TOKEN}"' if way == "token" else OAUTH % dynatrace.token_url
        path = "" if way == "token" else "/platform/classic/environment-api"
        body = f"{CLIENT_SECRET} STANDINBEARER0" if way == "oauth" else API_TOKEN
        dynatrace.faults.extend(Fault(status, body=body) for status in (400, 403, 429, 500, 302, 401))
        with btfeed(tmp_path, dynatrace.url + path, more) as server:
            post(server, 2)
            done(server)
            shown = [server.get(where) for where in ("/status", "/metrics", "/readyz")]
            shown.append(json.dumps(letters(server)))
            environment = os.environ | {"TOKEN": API_TOKEN + "x", "SECRET": CLIENT_SECRET + "x"}
            check = [*BTFEED, "check", "-c", str(server.config)]
            checked = subprocess.run(check, capture_output=True, text=True, check=False, timeout=DEADLINE, env=environment)
            assert (checked.returncode, "***" in checked.stdout) == (1, True)
            shown += [checked.stdout, checked.stderr, server.log()]
    assert any("***" in text for text in shown[:-3])
    assert not any(secret in text for text in shown for secret in SECRETS)


def test_check_refuses_a_token_for_the_platform(tmp_path: Path) -> None:
    """With what to write instead; exit status 1."""
    server = btfeed(tmp_path, "https://abc.apps.dynatrace.com")
    command = [*BTFEED, "check", "-c", str(server.config)]
    environment = os.environ | {"TOKEN": API_TOKEN}
    checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE, env=environment)
    assert checked.returncode == 1
    assert "sinks.biz: failed, misconfigured: the platform's URL does not accept api_token" in checked.stdout
    assert "https://ENV.live.dynatrace.com" in checked.stdout
