"""The whole server: another process posts over HTTP, and a far end counts the records that arrive.

`btfeed serve` runs as users run it, on all cores; the load generator is pinned to the last one. Throughput is measured in
bursts of a few seconds: the load generator sends as fast as answers come, and a burst ends when its last record has arrived
at the far end. Each burst is a round between two parses (see measuring.py), in this process. CPU is that of each process,
as the kernel counts it; bytes are those that the kernel wrote to disk.

At the end of each turn the arrived records are compared with those that were sent. A server that lost any has no figure.
"""

import json
import sqlite3
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.far_end import FarEnd
from benchmarks.far_ends import toml
from benchmarks.job import Sample
from benchmarks.load import Load, occurrences_in
from benchmarks.measuring import Baseline, bytes_written, cpu_seconds, cpu_seconds_of_all
from benchmarks.workshop import Child, Workshop, child
from tests.support.harness import Server, peak_memory

SECONDS = 0.7
"""Duration of a round against the black hole."""
WARM_POSTS = 500
"""The most posts before the first burst. They compile plans, open connections and begin files."""
LOST_AFTER = 120.0
"""Seconds without another record after which the missing records count as lost."""
POLL = 0.01
"""Seconds between two looks at the far end's progress."""
SETTLED = 0.3
"""Seconds without an arrival, after which the records are counted. It is longer than sinks linger."""
RECOUNT_EVERY = 0.5
"""Seconds until the next count, if there were too few."""
MEBIBYTE = 2**20


class Lost(Exception):
    """Fewer records arrived than were answered with 200, or more."""


@dataclass
class Subject:
    """A server that is measured, btfeed or a peer. admin_url: of btfeed. lag: seconds for which it may do nothing before it
    delivers what it has."""

    url: str
    pid: int
    far_end: FarEnd
    lost_after: float = LOST_AFTER
    admin_url: str = ""
    lag: float = 0.0


@contextmanager
def btfeed(workshop: Workshop, far_end: FarEnd | None, more: str = "", plain: bool = False) -> Iterator[Subject]:
    """`btfeed serve` with the sinks of this far end. Without a far end it has no sink, and the posts in its journal count.

    more: further TOML for [journal]. plain: without the native transcoder.
    """
    sinks = toml(far_end.sinks) if far_end else ""
    environment = {"BTFEED_PLAIN": "1"} if plain else {}
    with Server(workshop.directory(), sinks, journal=more, environment=environment) as server:
        if far_end is None:
            journal = Journal(server.directory)
            far_end = FarEnd({}, journal.count, journal.last)
        yield Subject(server.url, server.pid, far_end, admin_url=server.admin_url)


class Journal:
    """Counts the occurrences in the journal of a running server."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "journal" / "journal.db"
        self._read = self._found = 0

    def last(self) -> int:
        """The number of the last post."""
        with self._reading() as reader:
            (number,) = reader.execute("SELECT max(seq) FROM posts").fetchone()
        return number or 0

    def count(self) -> int:
        """The occurrences in all posts. Each post is read once, also over several calls."""
        with self._reading() as reader:
            for seq, body in reader.execute("SELECT seq, body FROM posts WHERE seq > ?", (self._read,)):
                self._read, self._found = seq, self._found + occurrences_in(body)
        return self._found

    def _reading(self) -> AbstractContextManager[sqlite3.Connection]:
        return closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True))


class Sender:
    """The load generator, and how many occurrences it has sent."""

    def __init__(self, process: Child, per_post: int) -> None:
        self._process = process
        self._per_post = per_post
        self.pid: int = json.loads(process.said)["pid"]
        self.sent = 0  # occurrences

    def send(self, posts: int, rate: float | None = None) -> dict[str, Any]:
        """See Generator.run. Raises Lost if a post was refused."""
        command = {"posts": posts} if rate is None else {"posts": posts, "rate": rate}
        summary: dict[str, Any] = json.loads(self._process.ask(json.dumps(command)))
        if summary["refused"]:
            raise Lost(f"posts were refused: {summary['refused']}")
        self.sent += posts * self._per_post
        return summary


@contextmanager
def sender(load: Path, url: str, connections: int, per_post: int) -> Iterator[Sender]:
    with child("benchmarks.generator", load, url, connections) as process:
        yield Sender(process, per_post)


def bursts(subject: Subject, path: Path, connections: int, rounds: int, seconds: float, warm: int) -> Iterator[Sample]:
    """Send as fast as answers come: a sample for each of `rounds` bursts of about `seconds`, after `warm` occurrences."""
    load = Load.read(path)
    baseline = Baseline(load.bodies, load.occurrences)
    with sender(path, subject.url, connections, load.per_post) as generator:
        posts = posts_in(subject, generator, load.per_post, seconds, warm)
        for _ in range(rounds):
            before = baseline.measure()
            sample = _burst(subject, generator, posts, posts * load.per_post)
            yield baseline.round(sample.pop("cpu_us"), before).sample() | sample
        _verify(subject, generator.sent)
    yield {"rss_mib": peak_memory(subject.pid) / MEBIBYTE}


def posts_in(subject: Subject, generator: Sender, per_post: int, seconds: float, warm: int) -> int:
    """Warm the server, and find how many posts take about `seconds`."""
    posts = min(WARM_POSTS, max(2, warm // per_post))
    while True:
        started = time.perf_counter()
        summary = generator.send(posts)
        took: float = max(summary["seconds"], wait_for(subject, generator.sent) - started - subject.lag)
        times = seconds / took
        if times < 2:  # otherwise most of the time may have been a sink's linger
            return max(2, round(posts * times))
        posts = round(posts * min(8.0, times))


def _burst(subject: Subject, generator: Sender, posts: int, occurrences: int) -> Sample:
    written, cpu = bytes_written(subject.pid), cpu_seconds(subject.pid)
    others, started = cpu_seconds_of_all(subject.far_end.pids), time.perf_counter()
    summary = generator.send(posts)
    took = wait_for(subject, generator.sent) - started
    each = 1e6 / occurrences
    sample = {
        "cpu_us": (cpu_seconds(subject.pid) - cpu) * each,
        "occurrences_per_s": occurrences / took,
        "acknowledged_per_s": occurrences / summary["seconds"],
        "disk_bytes": (bytes_written(subject.pid) - written) / occurrences,
        "generator_cpu_us": summary["cpu"] * each,
        "generator_busy": summary["cpu"] / summary["seconds"],
    }
    for name, spent in cpu_seconds_of_all(subject.far_end.pids).items():
        sample[f"{name} cpu_us"] = (spent - others[name]) * each
    return sample | latencies(summary)


def latencies(summary: Mapping[str, Any]) -> Sample:
    return {f"ack_{name}_ms": value for name, value in summary["latency_ms"].items()}


def wait_for(subject: Subject, records: int) -> float:
    """When the last of this many records arrived, as a time of time.perf_counter() that is exact to POLL. Raises Lost.

    Counting would take CPU from the measured server, so records are counted only after nothing has arrived for SETTLED.
    """
    last, grown, due = -1, 0.0, 0.0
    while True:
        asked, now, moment = time.perf_counter(), subject.far_end.progress(), time.perf_counter()
        if now != last:
            last, grown, due = now, moment, moment + SETTLED
        elif asked >= due:
            found = subject.far_end.count()
            if found >= records:
                return grown
            if moment - grown > subject.lost_after:
                raise Lost(f"{records} were sent, {found} have arrived")
            due = moment + RECOUNT_EVERY
        time.sleep(POLL)


def _verify(subject: Subject, sent: int) -> None:
    time.sleep(SETTLED)
    arrived = subject.far_end.count()
    if arrived != sent:
        raise Lost(f"{sent} were sent, {arrived} have arrived")


def paced(subject: Subject, path: Path, rate: float, seconds: float, warm: int, connections: int = 64) -> Iterator[Sample]:
    """Send `rate` posts per second, however slow the answers are. A latency counts from when the post was due."""
    per_post = Load.read(path).per_post
    with sender(path, subject.url, connections, per_post) as generator:
        generator.send(min(WARM_POSTS, max(2, warm // per_post)))
        wait_for(subject, generator.sent)
        cpu, posts = cpu_seconds(subject.pid), max(1, round(rate * seconds))
        summary = generator.send(posts, rate)
        wait_for(subject, generator.sent)
        spent = cpu_seconds(subject.pid) - cpu
        _verify(subject, generator.sent)
    sample = {"cpu_us": spent / posts / per_post * 1e6, "generator_late_ms": summary["late_ms"]}
    yield sample | latencies(summary) | {"rss_mib": peak_memory(subject.pid) / MEBIBYTE}


def black_hole(workshop: Workshop, path: Path, connections: int, rounds: int, warm: int) -> Iterator[Sample]:
    """What the load generator reaches if nothing is done with its posts."""
    hole = workshop.black_hole("receiver")
    load = Load.read(path)
    with sender(path, hole.said, connections, load.per_post) as generator:
        posts = min(WARM_POSTS, max(2, warm // load.per_post))
        posts = round(posts * min(50.0, SECONDS / generator.send(posts)["seconds"]))
        for _ in range(rounds):
            summary = generator.send(posts)
            yield {
                "posts_per_s": posts / summary["seconds"],
                "occurrences_per_s": posts * load.per_post / summary["seconds"],
                "generator_busy": summary["cpu"] / summary["seconds"],
            }


def first_answer(url: str, body: bytes) -> float:
    """Seconds that one post takes, with its connection."""
    started = time.perf_counter()
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=LOST_AFTER) as answer:
        assert answer.status == 200
    return time.perf_counter() - started
