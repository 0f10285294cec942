"""Dead letters of a cluster: kept by any process, listed by any other, retried by the one whose turn it is."""

import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.kafka import shared
from tests.support import posts
from tests.support.halves import Half, total
from tests.support.harness import BTFEED, DEADLINE, complete_lines, until

MALFORMED = b"\x0a\xff\xff\xff"
CONFIG = """
[receiver]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[validation]
unexpected = "dead-letter"
[journal]
type = "kafka"
bootstrap_servers = "{bootstrap}"
prefix = "{prefix}"
instance = "{instance}"
partitions = 2
replication_factor = 1
min_insync_replicas = 1
session_timeout = "6s"
spill = false
[sinks.a]
type = "file"
directory = "{files}/a"
delivery = {{ linger = "20ms" }}
[sinks.b]
type = "file"
directory = "{files}/b"
delivery = {{ linger = "20ms" }}
"""

pytestmark = pytest.mark.kafka


class Cluster:
    """One process that receives, and two that deliver to the sinks a and b."""

    def __init__(self, directory: Path) -> None:
        self.files = directory / "files"
        prefix = f"t{uuid.uuid4().hex[:10]}"
        self.halves = [
            Half(
                command,
                directory / instance,
                CONFIG.format(bootstrap=shared().bootstrap, prefix=prefix, instance=instance, files=self.files),
            )
            for command, instance in (("receive", "front"), ("deliver", "one"), ("deliver", "two"))
        ]
        self.front, self.one, self.two = self.halves

    def run(self, *arguments: object) -> str:
        """What `btfeed dead-letters` prints, on the receiver's machine."""
        command = [*BTFEED, "dead-letters", *map(str, arguments), "-c", str(self.front.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True).stdout

    def caught_up(self) -> bool:
        """Whether both sinks have had every post. Until then, one may meet a record whose dead letter was deleted."""
        command = [*BTFEED, "status", "--cluster", "--json", "-c", str(self.front.config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
        return [each["lag"] for each in json.loads(done.stdout)["groups"]] == [0, 0]

    def shown(self, half: Half | None = None) -> list[dict[str, Any]]:
        """What a process shows on its page, the oldest first."""
        letters: list[dict[str, Any]] = json.loads((half or self.front).get("/dead-letters"))["letters"]
        return letters[::-1]

    def records(self, sink: str) -> list[str]:
        files = (self.files / sink).glob("*.ndjson*")
        lines = [line for path in files for line in complete_lines(path.read_text("utf-8"))]
        return [json.loads(line)["event.id"] for line in lines]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    for half in cluster.halves:
        half.start()
    yield cluster
    for half in cluster.halves:
        if half.process:
            half.kill()


def test_dead_letters_are_those_of_all_processes(cluster: Cluster) -> None:
    """A refused post of the receiver, and a record that validation held back: one letter, though both sinks met it. Every
    process shows them. A retry that one process is asked for is done by any, for each sink once."""
    assert cluster.front.post(MALFORMED)[0] == 400
    assert cluster.front.post(posts.sample_purepath())[0] == 200
    until(lambda: len(cluster.shown()) == 2, "both are dead letters")
    until(cluster.caught_up, "both sinks have met the record")
    refused, invalid = map(json.loads, cluster.run("list", "--json").splitlines())
    assert (refused["cause"], invalid["cause"], invalid["sink"]) == ("malformed", "invalid", "")
    for half in cluster.halves:
        assert [each["id"] for each in cluster.shown(half)] == [refused["id"], invalid["id"]]
    for half in (cluster.one, cluster.two):
        assert total(half.samples(), "btfeed_dead_letters_kept") == 2
    assert cluster.records("a") == cluster.records("b") == []
    assert cluster.run("retry", invalid["id"]) == "1 marked for retry\n"
    until(lambda: [len(cluster.records(sink)) for sink in "ab"] == [1, 1], "both sinks have it")
    assert cluster.records("a") == cluster.records("b") == [invalid["event_id"]]
    until(lambda: [each["id"] for each in cluster.shown()] == [refused["id"]], "only the post is left")
    cluster.run("export", "--delete")
    assert [cluster.shown(half) for half in cluster.halves] == [[], [], []]
    assert [half.stop() for half in cluster.halves] == [0, 0, 0]
