"""The benchmarks: their statistics, and each kind of case once, as small as it can be."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiokafka import AIOKafkaProducer
from rich.console import Console

from benchmarks import __main__ as command_line
from benchmarks import end_to_end, far_ends, growth, job, suite
from benchmarks.end_to_end import Lost, Subject
from benchmarks.far_end import FarEnd
from benchmarks.load import KINDS, Load, Unique, occurrences_in
from benchmarks.measuring import Baseline, Round, Spread, cpu_seconds
from benchmarks.results import Case, Result, about
from benchmarks.workshop import Workshop
from btfeed.posts import admission, post
from btfeed.posts.bt_pb2 import BusinessTransactions

TINY = job.Plan(
    turns=1, rounds=1, once=(), occurrences=60, burst=0.01, sizes=(10,), few=(10,), paced=0.2, rates=(20,), backlogs=(0, 1),
    transactions=(1, 20), sinks=(1, 2), connections=(1, 2), codecs=("none",), minutes=0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on how long a server was warmed."""
    monkeypatch.setattr(end_to_end, "WARM", 200)
    monkeypatch.setattr(growth, "DRAIN", 0.5)
    monkeypatch.setattr(growth, "AT_ONCE", 20)


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with Workshop() as made:
        yield made


# The load


@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
@pytest.mark.parametrize("size", [1, 10, 1_000])
def test_a_load_holds_what_was_asked_for(kind: str, size: int, tmp_path: Path) -> None:
    """So many occurrences of that kind, and the same when it is read again."""
    load = Load.make(size, 2_000, kind)
    assert load.occurrences == sum(map(occurrences_in, load.bodies)) == 2_000
    assert load.per_post == size
    types = {part.type for body in load.bodies for part in BusinessTransactions.FromString(body).businessTransactions}
    assert types == ({KINDS.index(kind)} if kind in KINDS else {0, 1, 2})
    assert Load.read(load.save(tmp_path / "posts.btposts")) == load


def test_a_load_of_many_business_transactions_has_as_many_names() -> None:
    """However many posts they are spread over; each post has 100 of them."""
    load = Load.of_many(150, 2_000)
    parsed = [BusinessTransactions.FromString(body) for body in load.bodies]
    assert {len(message.businessTransactions) for message in parsed} == {100}
    assert len({part.name for message in parsed for part in message.businessTransactions}) == 150
    assert load.occurrences == 2_000


def test_no_two_posts_are_equal() -> None:
    """Each is a post that would be taken, with as many occurrences as the one it was made of."""
    unique = Unique(Load.make(10, 30).bodies)
    bodies = [b"".join(unique.next()) for _ in range(100)]
    assert len({post.digest(body) for body in bodies}) == 100
    assert {admission.admit(body, 10) for body in bodies} == {10}


# Measuring


def test_a_spread_says_what_the_rounds_gave() -> None:
    """Median, least and most, and where the middle half lies; also of one round."""
    assert Spread.of([5, 1, 2, 3, 4]) == Spread(3, 1, 5, 2, 4, 5)
    assert Spread.of([7]) == Spread(7, 7, 7, 7, 7, 1)


def test_a_round_stands_between_two_parses() -> None:
    """Its baseline is their mean."""
    load = Load.make(10, 100)
    baseline = Baseline(load.bodies, load.occurrences)
    before = baseline.measure()
    measured = baseline.round(10.0, before)
    assert measured.cost == 10.0
    assert measured.ratio == pytest.approx(10.0 / measured.baseline)
    assert measured.baseline > before / 2
    assert Round(6.0, 2.0).ratio == 3.0


def test_the_cpu_of_another_process_is_counted() -> None:
    """One that computes has some, and more than one that sleeps."""
    busy = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        assert 0.2 <= cpu_seconds(process.pid) < 20
        process.communicate(b"\n")


# Running


def run(text: str, plan: job.Plan = TINY) -> list[Case]:
    """The cases that have `text` in their name; none failed."""
    cases, failures = suite.run(plan, 1, lambda case: text in case.key, Console(file=sys.stderr))
    assert failures == {}
    assert cases
    return cases


@pytest.mark.parametrize(
    ("text", "quantities"),
    [
        ("stages: map (occurrences 10, posts mixed)", {"cpu_us", "x_parse", "wall_us", "allocations"}),
        ("stages: sink: file (occurrences 10, posts mixed)", {"cpu_us", "x_parse", "wall_us", "allocations"}),
        ("whole server: all (occurrences 10,", {"x_parse", "occurrences_per_s", "disk_bytes", "ack_p99.9_ms", "rss_mib"}),
        ("whole server: none (occurrences 10,", {"x_parse", "occurrences_per_s", "generator_busy"}),
        ("latency: file", {"ack_p50_ms", "ack_p99_ms", "ack_p99.9_ms", "generator_late_ms"}),
        ("load generator: black hole (occurrences 100)", {"posts_per_s", "generator_busy"}),
        ("bare client: kafka (compression none", {"x_bare", "rate_of_bare", "log_bytes"}),
        ("bare client: elasticsearch", {"x_bare", "rate_of_bare"}),
        ("sources: replay", {"occurrences_per_s", "cpu_us"}),
    ],
)
def test_a_case_of_each_kind_gives_its_quantities(text: str, quantities: set[str]) -> None:
    """One value for the round, and none below zero."""
    for case in run(text):
        assert quantities <= case.samples.keys(), case.key
        assert all(values and min(values) >= 0 for values in case.samples.values()), case.samples


def test_every_stage_can_be_measured() -> None:
    """On posts of one type, the records counted where there is a sink."""
    names = {case.name for case in run("posts visit")}
    assert {f"sink: {name}" for name in far_ends.FAR_ENDS} < names
    assert len(names) >= 13


def test_what_grows_is_measured() -> None:
    """A server that starts with a backlog answers at once, and costs of all that grows are told."""
    cases = {case.key: case for case in run("growth")}
    assert {case.name for case in cases.values()} == {"business transactions", "file sinks", "connections", "backlog"}
    waiting = cases["growth: backlog (mebibytes 1)"]
    assert waiting.median("journal_mib") >= 1
    assert waiting.median("first_answer_ms") > 0
    assert waiting.median("take_x_parse") > 0


def test_the_order_comes_from_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal seeds, equal orders; each turn has one of its own."""
    orders: list[list[str]] = []

    def note(one: job.Job, workshop: Workshop, show: object) -> None:
        orders[-1].append(one.case.key)

    monkeypatch.setattr(suite, "_run", note)
    for seed in (1, 1, 2):
        orders.append([])
        suite.run(replace(TINY, turns=2), seed, lambda case: case.group == "stages", Console(file=sys.stderr))
    half = len(orders[0]) // 2
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0][:half]) == sorted(orders[0][half:])
    assert orders[0][:half] != orders[0][half:]


def test_who_loses_records_has_no_figure(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A far end that counts fewer than were sent fails the case, and one that counts more does."""
    monkeypatch.setattr(end_to_end, "PATIENCE", 0.1)
    hole = workshop.black_hole("receiver")
    path = workshop.load(10, 60)
    for count in (lambda: 5, lambda: 10**9):
        subject = Subject(hole.said, hole.pid, FarEnd({}, count, lambda: 0))
        with pytest.raises(Lost, match="were sent"):
            list(end_to_end.bursts(subject, path, 1, 1, 0.01))


def test_a_sink_that_loses_has_no_figure_as_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its black hole has taken is compared with what was written."""
    monkeypatch.setattr(far_ends, "taken", lambda hole: 5)
    _, failures = suite.run(TINY, 1, lambda case: "sink: kafka (occurrences 10," in case.key, Console(file=sys.stderr))
    assert ["were written, 0 have arrived" in failure for failure in failures.values()] == [True]


@pytest.mark.parametrize("codec", [None, "gzip", "zstd"])
async def test_the_broker_that_forgets_counts_records(workshop: Workshop, codec: str | None) -> None:
    """Of every batch of a producer of aiokafka, compressed or not, to several topics at once."""
    hole = workshop.black_hole("kafka")
    before = far_ends.taken(hole)
    producer = AIOKafkaProducer(bootstrap_servers=hole.said, enable_idempotence=True, compression_type=codec)
    await producer.start()
    sent = [await producer.send(f"topic{number % 3}", b"x" * 200) for number in range(500)]
    await asyncio.gather(*sent)
    await producer.stop()
    assert far_ends.taken(hole) - before == 500


def test_a_burst_ends_with_its_last_record_not_with_the_counting() -> None:
    """Counting waits until nothing has arrived for a while, and is not part of what is measured."""
    began = time.perf_counter()
    counted: list[float] = []

    def count() -> int:
        counted.append(time.perf_counter())
        time.sleep(0.2)
        return 7

    arriving = FarEnd({}, count, lambda: min(3, int((time.perf_counter() - began) / 0.02)))
    ended = end_to_end.wait_for(Subject("", 0, arriving), 7)
    assert ended >= began + 0.06
    assert counted[0] >= ended + end_to_end.QUIET
    assert len(counted) == 1


def test_what_has_not_arrived_is_waited_for() -> None:
    """A pause of the far end does not end a burst: the records are counted again."""
    counts = iter([3, 3, 7])
    sizes = iter([1, 1, 2])
    stalling = FarEnd({}, lambda: next(counts), lambda: next(sizes, 3))
    end_to_end.wait_for(Subject("", 0, stalling), 7)
    assert next(counts, None) is None


def test_a_refused_post_is_an_error(workshop: Workshop) -> None:
    """A server that does not take a post is not measured."""
    hole = workshop.black_hole("bizevents")  # which answers 202
    with end_to_end.sender(workshop.load(10, 60), hole.said, 1, 10) as generator, pytest.raises(Lost, match="202"):
        generator.send(3)


def test_a_case_that_fails_is_told_and_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name and the reason are in the result."""

    def broken(*arguments: object, **more: object) -> None:
        raise Lost("7 were sent, 6 have arrived")

    monkeypatch.setattr(growth, "_fill", broken)
    cases, failures = suite.run(
        TINY, 1, lambda case: "backlog" in case.key or "replay" in case.key, Console(file=sys.stderr)
    )
    assert [case.name for case in cases] == ["replay"]
    assert set(failures.values()) == {"Lost: 7 were sent, 6 have arrived"}


def test_what_a_case_wrote_is_removed_and_what_is_kept_stays() -> None:
    """Directories go with the case, those of servers that are kept with the workshop."""
    with Workshop() as workshop:
        passing = workshop.directory()
        kept = workshop.kept("kept", lambda: nullcontext(workshop.directory()))
        workshop.clear()
        assert (passing.exists(), kept.exists()) == (False, True)
    assert not kept.exists()


def test_lines_are_counted_once_as_files_grow_and_are_renamed(tmp_path: Path) -> None:
    """A file that is finished is the one that was open."""
    lines = far_ends.Lines(tmp_path)
    file = tmp_path / "a.ndjson.open"
    file.write_bytes(b"{}\n" * 3)
    assert (lines.size(), lines.count()) == (9, 3)
    with file.open("ab") as more:
        more.write(b"{}\n" * 2)
    file.rename(tmp_path / "a.ndjson")
    assert (lines.size(), lines.count(), lines.count()) == (15, 5, 5)


def test_too_little_room_is_told_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Which case needs how much, and where."""
    monkeypatch.setattr(suite, "disk_usage", lambda where: SimpleNamespace(free=5 * 2**30))
    arguments = ["run", "--full", "--only", "growth: backlog", "--out", str(tmp_path / "r.json")]
    assert command_line.main(arguments) == 2
    said = capsys.readouterr().err
    assert "growth: backlog (mebibytes 10000) needs 14 GiB of free disk" in said
    assert "has 5.0" in said


def test_a_result_is_drawn(tmp_path: Path) -> None:
    """Each picture that it has something for, and a page that needs no other file."""
    cases = run("whole server: none (occurrences 10,") + run("stages: digest (occurrences 10, ") + run("latency")
    cases += run("stages: sink: bizevents (occurrences 10, ")
    made = Result(about("make bench", 1), cases)
    made.save(tmp_path / "r.json")
    assert command_line.main(["draw", str(tmp_path / "r.json")]) == 0
    there = {path.stem for path in (tmp_path / "r").glob("*.png")}
    assert there == {"throughput", "stages", "sinks", "latency"}
    assert {path.stem for path in (tmp_path / "r").glob("*.svg")} == there
    text = (tmp_path / "r" / "index.html").read_text()
    assert text.count("<svg") == len(there)
    assert made.about["commit"] in text
    assert 'id="raw"' in text
    assert "src=" not in text
    assert "<link" not in text
