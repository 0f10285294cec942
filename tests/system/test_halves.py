"""A journal in Kafka, with processes that receive, deliver, or do both: each record arrives once, over restarts."""

import json
import os
import random
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException

from tests.servers.kafka import shared
from tests.sinks.drivers.kafka import read_topic
from tests.support import posts
from tests.support.halves import Half
from tests.support.harness import BTFEED, DEADLINE, complete_lines, until

RECORDS = 3
"""Of each post."""
SESSION = 6
"""Seconds."""
SEED = int(os.environ.get("BTFEED_SEED", "0")) or random.randrange(2**32)
CONFIG = """
[receiver]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[journal]
type = "kafka"
bootstrap_servers = "{bootstrap}"
prefix = "{prefix}"
instance = "{instance}"
partitions = 3
replication_factor = 1
min_insync_replicas = 1
session_timeout = "{session}s"
spill = {{ directory = "{{directory}}/spill" }}
[sinks.files]
type = "file"
directory = "{files}"
rotate_size = "20KiB"
delivery = {{ linger = "20ms" }}
[sinks.topics]
type = "kafka"
cluster = "journal"
topic = "{prefix}.out"
create_topics = true
partitions = 3
delivery = {{ linger = "20ms" }}
"""

pytestmark = pytest.mark.kafka


class Case:
    """Processes with one journal, whose file sinks share a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = directory / "files"
        self.kafka = shared()
        self.prefix = f"t{uuid.uuid4().hex[:10]}"
        self.sent = 0
        self.session = SESSION
        self.halves: list[Half] = []

    def half(self, command: str, instance: str) -> Half:
        """A process, not started yet. Each has a machine's directory of its own."""
        text = CONFIG.format(
            bootstrap=self.kafka.bootstrap, prefix=self.prefix, instance=instance, files=self.files, session=self.session
        )
        self.halves.append(Half(command, self.directory / f"{command}-{instance}", text))
        return self.halves[-1]

    def post(self, half: Half, number: int) -> None:
        for _ in range(number):
            self.sent += 1
            assert half.post(posts.mixed(RECORDS, self.sent))[0] == 200

    def sinks(self, half: Half, *arguments: str) -> str:
        """What `btfeed sinks` says to this process."""
        command = [*BTFEED, "sinks", *arguments, "--url", half.admin_url]
        return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True).stdout

    def file_ids(self) -> list[str]:
        try:
            lines = [line for path in self.files.glob("*.ndjson*") for line in complete_lines(path.read_text("utf-8"))]
        except FileNotFoundError:  # it was finished meanwhile
            return self.file_ids()
        return [json.loads(line)["event.id"] for line in lines]

    def topic_ids(self) -> list[str]:
        try:
            found = read_topic(self.kafka, f"{self.prefix}.out")
        except KafkaException:  # the topic is being made
            return []
        return [json.loads(message.value() or b"")["event.id"] for message in found]

    def arrived(self) -> None:
        """Return when everything that was posted is there. It is there once."""
        number = self.sent * RECORDS
        until(lambda: len(self.file_ids()) >= number, f"{number} records in files")
        until(lambda: len(self.topic_ids()) >= number, f"{number} records in the topic")
        for found in (self.file_ids(), self.topic_ids()):
            assert Counter(found).most_common(1)[0][1] == 1
            assert len(found) == number


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    found = Case(tmp_path)
    yield found
    for half in found.halves:
        if half.process:
            half.kill()


def test_serve_has_its_journal_in_kafka(case: Case) -> None:
    """It goes on after a restart where it was. /status knows all partitions, and the files are those of one instance."""
    one = case.half("serve", "one").start()
    case.post(one, 20)
    case.arrived()
    running = {"files": "running", "topics": "running"}
    until(lambda: {name: sink["state"] for name, sink in one.status()["sinks"].items()} == running, "all partitions run")
    shown = one.status()
    assert shown["ready"]
    assert one.stop() == 0
    one.start()
    case.post(one, 10)
    case.arrived()
    assert all("-one-" in path.name for path in case.files.iterdir())
    assert one.stop() == 0


def test_halves_share_the_work(case: Case) -> None:
    """A receiver, and two processes that deliver. One of these leaves, and the other takes over what it had; when the first
    comes again, both deliver. Nothing arrives twice."""
    case.session = 10 * SESSION  # so that only leaving can be why the other one takes over
    receiver = case.half("receive", "front").start()
    one, two = case.half("deliver", "one").start(), case.half("deliver", "two").start()
    case.post(receiver, 30)
    case.arrived()
    assert receiver.status()["sinks"] == {}
    assert one.stop() == 0
    command = [*BTFEED, "deliver", "-c", str(one.config), "--leave"]
    left = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True)
    assert left.stdout == "sink files: left\nsink topics: left\n"
    left = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True)
    assert left.stdout == "sink files: was no member\nsink topics: was no member\n"
    assert left.stderr == "no sink has a member one: `btfeed status --cluster` shows which there are\n"
    case.post(receiver, 20)
    case.arrived()
    one.start()
    case.post(receiver, 20)
    case.arrived()
    assert one.stop() == two.stop() == receiver.stop() == 0


def status(case: Case, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`btfeed status --cluster`, with the configuration of the first process."""
    command = [*BTFEED, "status", "--cluster", "-c", str(case.halves[0].config), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)


def overview(case: Case) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(status(case, "--json").stdout)
    return found


def test_the_brokers_tell_who_delivers_and_what_waits(case: Case) -> None:
    """Who delivers which partitions, and how many posts wait when nobody does."""
    receiver, deliverer = case.half("receive", "r"), case.half("deliver", "host1-1")
    with receiver:
        with deliverer:
            case.post(receiver, 5)
            case.arrived()
            until(lambda: all(each["lag"] == 0 for each in overview(case)["groups"]), "nothing behind")
            done = status(case)
            assert done.returncode == 0, done.stdout + done.stderr
            assert f"topic {case.prefix}.posts: 3 partitions, 1 replica each" in done.stdout
            assert "sink files: 1 process, 0 posts behind" in done.stdout
            assert "  host1-1 (127.0.0.1): partitions 0-2, 0 posts behind" in done.stdout
        case.post(receiver, 4)
        leave = [*BTFEED, "deliver", "-c", str(deliverer.config), "--leave"]
        subprocess.run(leave, check=True, timeout=DEADLINE, capture_output=True)
        found = overview(case)
        assert {each["sink"]: (each["members"], each["lag"]) for each in found["groups"]} == {
            "files": ([], 4), "topics": ([], 4),
        }  # fmt: skip
        assert 0 < found["groups"][0]["retention_left"] <= 7 * 86_400
        assert sum(each["lag"] for each in found["groups"][0]["partitions"]) == 4
        done = status(case)
        assert (done.returncode, "sink files: NOBODY DELIVERS, 4 posts behind" in done.stdout) == (1, True)


def test_a_pause_holds_in_every_process(case: Case) -> None:
    """Whichever was asked, also one that starts later. A rewind moves the partitions of one process, and says so."""
    receiver = case.half("receive", "front").start()
    one, two = case.half("deliver", "one").start(), case.half("deliver", "two").start()
    assert "All processes that deliver to it pause" in case.sinks(one, "pause", "files")
    until(lambda: two.status()["sinks"]["files"]["state"] == "paused", "paused in both")
    case.post(receiver, 10)
    until(lambda: len(case.topic_ids()) == 10 * RECORDS, "the other sink goes on")
    assert case.file_ids() == []
    case.sinks(two, "resume", "files")
    case.arrived()
    until(lambda: all(half.status()["sinks"]["files"]["positions"] for half in (one, two)), "both have partitions")
    told = case.sinks(one, "rewind", "files", "--to", "oldest")
    assert "other processes that deliver to it have other partitions: rewind it there, too" in told


@pytest.mark.chaos
def test_kills_double_nothing_in_files(case: Case) -> None:
    """Of processes that share a directory, with a file for a few records each: kill -9 comes between any two steps."""
    rng = random.Random(SEED)
    receiver = case.half("receive", "front").start()
    deliverers = [case.half("deliver", name).start() for name in ("one", "two")]
    for turn in range(8):
        case.post(receiver, 60)
        killed = deliverers[turn % 2]
        time.sleep(rng.uniform(0, 0.5))
        killed.kill()
        case.post(receiver, 60)
        if turn % 3 == 2:  # the other one takes over
            time.sleep(SESSION + 1)
        case.post(receiver, 10)
        killed.start()
    number = case.sent * RECORDS
    until(lambda: len(set(case.file_ids())) == number, f"{number} records in files", deadline=120)
    found = Counter(case.file_ids())
    assert found.most_common(1)[0][1] == 1, f"{SEED=}"
