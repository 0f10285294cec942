"""kill -9 of a server under load, many times: every post answered 200 is in the files, and no record is there twice.

A failing run prints its seed; BTFEED_KILL_SEED repeats it.
"""

import gzip
import json
import os
import random
import shutil
import sqlite3
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from btfeed.posts.post import digest, event_id_prefix
from tests.sinks.drivers.file import read_avro
from tests.support.harness import Server, rounds, until
from tests.support.load import OCCURRENCES, Load

SINKS = ("ndjson", "gzip", "avro")
CONFIG = """
[sinks.ndjson]
type = "file"
directory = "{root}/ndjson"
rotate_size = "256KiB"
delivery = {{ max_records = 95, linger = "20ms" }}
[sinks.gzip]
type = "file"
directory = "{root}/gzip"
compression = "gzip"
rotate_size = "32KiB"
delivery = {{ max_records = 170, linger = "20ms" }}
[sinks.avro]
type = "file"
directory = "{root}/avro"
format = "avro"
compression = "deflate"
rotate_size = "64KiB"
delivery = {{ max_records = 500, linger = "20ms" }}
"""


def live(server: Server, load: Load, rng: random.Random) -> None:
    """Start the server, post to it, and kill it at a random moment: after some answers, however long these take."""
    server.start()
    stop = threading.Event()
    loaders = load.run(server.port, stop)
    enough = len(load.answered) + rng.randrange(20, 160)
    until(lambda: len(load.answered) >= enough, "posts answered")
    time.sleep(rng.uniform(0, 0.02))
    server.kill()
    stop.set()
    for thread in loaders:
        thread.join()


def backlog(server: Server, copy: Path) -> int:
    """Posts that the slowest sink has still to deliver, from the journal of a dead server."""
    shutil.copytree(server.directory / "journal", copy)
    with closing(sqlite3.connect(copy / "journal.db")) as db:
        (first,) = db.execute("SELECT min(seq) FROM sinks").fetchone()
        (posts,) = db.execute("SELECT count(*) FROM posts WHERE seq >= ?", (first,)).fetchone()
    return int(posts)


def ids(path: Path) -> list[str]:
    """event.id of each record in a file; a torn record raises."""
    data = path.read_bytes()
    if ".avro" in path.name:
        return [record["event_id"] for record in read_avro(data)] if data else []
    lines = (gzip.decompress(data) if ".gz" in path.name else data).splitlines()
    return [json.loads(line)["event.id"] for line in lines]


def delivered(server: Server) -> bool:
    return all(sink["backlog_posts"] == 0 for sink in server.status()["sinks"].values())


def check(directory: Path, load: Load) -> int:
    """Every answered record is there, and none twice. Returns how many unanswered posts are there too."""
    found = Counter(event_id for path in directory.iterdir() for event_id in ids(path))
    assert [event_id for event_id, number in found.items() if number > 1] == []
    for body in load.answered:
        prefix = event_id_prefix(digest(body))
        assert all(f"{prefix}{ordinal}" in found for ordinal in range(OCCURRENCES)), f"{prefix} was answered and is lost"
    return sum(f"{event_id_prefix(digest(body))}0" in found for body in load.unanswered)


@pytest.mark.parametrize("kills", [5, pytest.param(40, marks=pytest.mark.chaos)])
def test_kill_9_loses_and_doubles_nothing(tmp_path: Path, kills: int) -> None:
    """Killed at random moments, between accept and answer and between answer and delivery: each record is there once."""
    seed = int(os.environ.get("BTFEED_KILL_SEED") or time.time_ns() % 1_000_000)
    sys.stdout.write(f"seed {seed}\n")
    rng = random.Random(seed)
    server = Server(tmp_path / "server", CONFIG.format(root=tmp_path))
    load = Load(seed)
    backlogs: list[int] = []

    def hit() -> bool:
        return len(load.unanswered) > 0 and max(backlogs) > 0

    for kill in rounds(kills, hit, "a kill between a post and its answer, and one between an answer and its delivery"):
        live(server, load, rng)
        backlogs.append(backlog(server, tmp_path / f"journal-{kill}"))
    server.start()
    until(lambda: delivered(server), "everything delivered")
    assert server.stop() == 0
    accepted = [check(tmp_path / sink, load) for sink in SINKS]
    sys.stdout.write(f"{len(load.answered)} answered, {len(load.unanswered)} not, taken {accepted}, backlogs {backlogs}\n")
    assert load.refused == []
    assert len(load.answered) > 10 * kills
    assert len(set(accepted)) == 1
    for sink in SINKS:
        assert sum(not path.name.endswith(".open") for path in (tmp_path / sink).iterdir()) > 1, "nothing was rotated"
