"""The benchmarks: their statistics, and one small case of each kind."""

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
from benchmarks import beside, end_to_end, far_ends, growth, job, suite, viewers
from benchmarks.end_to_end import Lost, Subject
from benchmarks.far_end import FarEnd
from benchmarks.load import KINDS, Load, Unique, occurrences_in
from benchmarks.measuring import Baseline, Round, Spread, cpu_seconds
from benchmarks.results import Case, Result, about
from benchmarks.workshop import Workshop, child
from btfeed.posts import admission, post
from btfeed.posts.bt_pb2 import BusinessTransactions
from tests.support.harness import Server

TINY = job.Plan(
    turns=1, rounds=1, once=(), occurrences=60, burst=0.01, sizes=(10,), few=(10,), viewed=0.1, paced=0.2, rates=(20,),
    backlogs=(1,), transactions=(20,), sinks=(2,), connections=(2,), codecs=("none",), minutes=0, load=2_000,
    warm=200, at_once=20, drain=0.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with Workshop() as made:
        yield made


# Load


@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
@pytest.mark.parametrize("size", [1, 10, 1_000])
def test_a_load_holds_what_was_asked_for(kind: str, size: int, tmp_path: Path) -> None:
    """The occurrences asked for, of that kind, and the same ones when it is read again."""
    load = Load.make(size, 2_000, kind)
    assert load.occurrences == sum(map(occurrences_in, load.bodies)) == 2_000
    assert load.per_post == size
    types = {part.type for body in load.bodies for part in BusinessTransactions.FromString(body).businessTransactions}
    assert types == ({KINDS.index(kind)} if kind in KINDS else {0, 1, 2})
    assert Load.read(load.save(tmp_path / "posts.btposts")) == load


def test_a_load_of_many_business_transactions_has_as_many_names() -> None:
    """Spread over all posts; each post has 100 of them."""
    load = Load.of_many(150, 2_000)
    parsed = [BusinessTransactions.FromString(body) for body in load.bodies]
    assert {len(message.businessTransactions) for message in parsed} == {100}
    assert len({part.name for message in parsed for part in message.businessTransactions}) == 150
    assert load.occurrences == 2_000


def test_no_two_posts_are_equal() -> None:
    """Each is a valid post, with as many occurrences as the one it was made from."""
    unique = Unique(Load.make(10, 30).bodies)
    bodies = [b"".join(unique.next()) for _ in range(100)]
    assert len({post.digest(body) for body in bodies}) == 100
    assert {admission.admit(body, 10) for body in bodies} == {10}


# Measuring


def test_a_spread_says_what_the_rounds_gave() -> None:
    """Median, least, most and the middle half, also of one round."""
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
    """The CPU of a process that computes for 0.2 s."""
    busy = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        assert 0.2 <= cpu_seconds(process.pid) < 20
        process.communicate(b"\n")


# Running


def run(*texts: str) -> list[Case]:
    """The cases with one of these texts in their key. None may fail."""
    cases, failures = suite.run(TINY, 1, lambda case: any(text in case.key for text in texts), Console(file=sys.stderr))
    assert failures == {}
    assert cases
    return cases


@pytest.mark.parametrize(
    ("text", "quantities"),
    [
        ("stages: map (occurrences 10, posts mixed)", {"cpu_us", "x_parse", "wall_us", "allocations"}),
        pytest.param(
            "stages: sink: file (occurrences 10, posts mixed)",
            {"cpu_us", "x_parse", "wall_us", "allocations"},
            marks=pytest.mark.slow,
        ),
        (
            "whole server: file (occurrences 10, connections 4",
            {"x_parse", "occurrences_per_s", "acknowledged_per_s", "disk_bytes", "ack_p99.9_ms", "rss_mib"},
        ),
        pytest.param(
            "whole server: none (occurrences 10,",
            {"x_parse", "occurrences_per_s", "generator_busy"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "latency: file", {"ack_p50_ms", "ack_p99_ms", "ack_p99.9_ms", "generator_late_ms"}, marks=pytest.mark.slow
        ),
        pytest.param(
            "load generator: black hole (occurrences 100)", {"posts_per_s", "generator_busy"}, marks=pytest.mark.slow
        ),
        pytest.param("sources: replay", {"occurrences_per_s", "cpu_us"}, marks=pytest.mark.slow),
        ("flows: report (format ndjson", {"x_scan", "x_scan_wall", "records_per_cpu_s", "cpu_us"}),
        pytest.param("flows: report (format extract", {"x_scan", "records_per_cpu_s", "cpu_us"}, marks=pytest.mark.slow),
        pytest.param("flows: trace", {"x_scan", "cpu_us"}, marks=pytest.mark.slow),
        pytest.param("flows: whole command", {"wall_ms", "rss_mib", "cpu_us"}, marks=pytest.mark.slow),
    ],
)
def test_a_case_of_each_kind_gives_its_quantities(text: str, quantities: set[str]) -> None:
    """Values of at least zero, for all of these quantities."""
    for case in run(text):
        check(case, quantities)


def check(case: Case, quantities: set[str]) -> None:
    """That there are values of at least zero, for all of these quantities."""
    assert quantities <= case.samples.keys(), case.key
    assert all(values and min(values) >= 0 for values in case.samples.values()), case.samples


@pytest.mark.kafka
@pytest.mark.elasticsearch
def test_cases_with_real_servers_give_their_quantities() -> None:
    """The same for those that need Kafka and Elasticsearch, which start once for all of them."""
    wanted = {
        "whole server: all (occurrences 10,": {"x_parse", "occurrences_per_s", "disk_bytes", "ack_p99.9_ms", "rss_mib"},
        "bare client: kafka (compression none": {"x_bare", "rate_of_bare", "log_bytes"},
        "bare client: elasticsearch": {"x_bare", "rate_of_bare"},
        "flows: report (format elasticsearch": {"x_composite", "step_docs_per_s", "wall_ms", "composite_ms"},
    }
    cases = run(*wanted)
    for text, quantities in wanted.items():
        assert any(text in case.key for case in cases), text
        for case in cases:
            if text in case.key:
                check(case, quantities)


@pytest.mark.slow
def test_a_sink_is_measured_beside_a_server_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By turns: both rates, and their ratio."""
    monkeypatch.setattr(beside, "PAIRS", 1)
    (case,) = run("file beside no sink")
    assert case.median("none posts_per_s") > 0
    ours = case.median("acknowledged_per_s") / beside.SIZE
    assert case.median("rate_of_none") == pytest.approx(ours / case.median("none posts_per_s"))
    assert case.median("x_none") == pytest.approx(case.median("cpu_us") / case.median("none cpu_us"))
    assert case.median("x_parse") > 0


@pytest.mark.slow
def test_every_stage_can_be_measured() -> None:
    """On posts of one type. The records that a sink wrote are counted."""
    names = {case.name for case in run("posts visit")}
    assert {f"sink: {name}" for name in far_ends.FAR_ENDS} < names
    assert len(names) >= 13


@pytest.mark.slow
def test_what_grows_is_measured() -> None:
    """Everything that grows has its costs; a server that starts with a backlog has its first answer."""
    cases = {case.key: case for case in run("growth")}
    assert {case.name for case in cases.values()} == {"business transactions", "file sinks", "connections", "backlog"}
    waiting = cases["growth: backlog (mebibytes 1)"]
    assert waiting.median("journal_mib") >= 1
    assert waiting.median("first_answer_ms") > 0
    assert waiting.median("take_x_parse") > 0


@pytest.mark.slow
def test_what_viewers_cost_is_measured() -> None:
    """Next to the same load without them."""
    (case,) = run("viewers")
    assert {"viewers_core_percent", "alone_core_percent", "viewed_core_percent", "pages", "rss_mib"} <= case.samples.keys()
    assert min(case.median(name) for name in ("alone_core_percent", "viewed_core_percent")) > 0


def test_what_the_records_account_for_is_no_cost_of_viewers() -> None:
    """Neither if the machine is slower with them, so that the same work takes more CPU."""
    alone = {"x_parse": 10.0, "parse_us": 0.3, "cpu_us": 3.0, "occurrences_per_s": 300_000.0, "ack_p99_ms": 1.0}
    slower = alone | {"parse_us": 0.4, "cpu_us": 4.0, "occurrences_per_s": 200_000.0, "pages": 9.0}
    assert viewers._pair(alone, slower)["viewers_core_percent"] == 0
    assert viewers._pair(alone, slower)["alone_core_percent"] == pytest.approx(90)
    more = slower | {"x_parse": 11.0, "cpu_us": 4.4}
    assert viewers._pair(alone, more)["viewers_core_percent"] == pytest.approx(8)
    assert viewers._pair(alone, more)["viewed_core_percent"] == pytest.approx(88)


def test_viewers_get_the_page_at_each_event(server: Server) -> None:
    """Each has it when it opens the page, and again by the time that it is ready."""
    with child("benchmarks.viewer", server.admin_url, 2) as process:
        assert process.said == "ready"
        assert int(process.ask("")) >= 4


def test_the_order_comes_from_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal seeds give equal orders; each turn has another order."""
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


@pytest.mark.slow
def test_a_server_that_loses_records_has_no_figure(workshop: Workshop) -> None:
    """The case fails if the far end counts fewer records than were sent, or more."""
    hole = workshop.black_hole("receiver")
    path = workshop.load(10, 60)
    for count in (lambda: 5, lambda: 10**9):
        subject = Subject(hole.said, hole.pid, FarEnd({}, count, lambda: 0), lost_after=0.1)
        with pytest.raises(Lost, match="were sent"):
            list(end_to_end.bursts(subject, path, 1, 1, 0.01, warm=200))


@pytest.mark.slow
def test_a_sink_that_loses_has_no_figure_as_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The records that its black hole took are compared with those that were written."""
    monkeypatch.setattr(far_ends, "taken", lambda hole: 5)
    _, failures = suite.run(TINY, 1, lambda case: "sink: kafka (occurrences 10," in case.key, Console(file=sys.stderr))
    assert ["were written, 0 have arrived" in failure for failure in failures.values()] == [True]


@pytest.mark.parametrize("codec", [None, "gzip", "zstd"])
async def test_the_broker_that_forgets_counts_records(workshop: Workshop, codec: str | None) -> None:
    """In every batch of aiokafka's producer, compressed or not, to several topics at once."""
    hole = workshop.black_hole("kafka")
    before = far_ends.taken(hole)
    producer = AIOKafkaProducer(bootstrap_servers=hole.said, enable_idempotence=True, compression_type=codec)
    await producer.start()
    sent = [await producer.send(f"topic{number % 3}", b"x" * 200) for number in range(500)]
    await asyncio.gather(*sent)
    await producer.stop()
    assert far_ends.taken(hole) - before == 500


def test_a_burst_ends_with_its_last_record_not_with_the_counting() -> None:
    """Counting waits until nothing has arrived for a while, and its time is not measured."""
    began = time.perf_counter()
    counted: list[float] = []

    def count() -> int:
        counted.append(time.perf_counter())
        time.sleep(0.2)
        return 7

    arriving = FarEnd({}, count, lambda: min(3, int((time.perf_counter() - began) / 0.02)))
    ended = end_to_end.wait_for(Subject("", 0, arriving), 7)
    assert ended >= began + 0.06
    assert counted[0] >= ended + end_to_end.SETTLED
    assert len(counted) == 1


def test_what_has_not_arrived_is_waited_for() -> None:
    """If the far end pauses, the burst goes on and the records are counted again."""
    counts = iter([3, 3, 7])
    sizes = iter([1, 1, 2])
    stalling = FarEnd({}, lambda: next(counts), lambda: next(sizes, 3))
    end_to_end.wait_for(Subject("", 0, stalling), 7)
    assert next(counts, None) is None


def test_a_refused_post_is_an_error(workshop: Workshop) -> None:
    """A server that refuses a post is not measured."""
    hole = workshop.black_hole("bizevents")  # which answers 202
    with end_to_end.sender(workshop.load(10, 60), hole.said, 1, 10) as generator, pytest.raises(Lost, match="202"):
        generator.send(3)


@pytest.mark.slow
def test_a_case_that_fails_is_reported_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The result has its name and the reason, and the traceback is printed."""

    def broken(*arguments: object, **more: object) -> None:
        raise Lost("7 were sent, 6 have arrived")

    monkeypatch.setattr(growth, "_fill", broken)
    cases, failures = suite.run(
        TINY, 1, lambda case: "backlog" in case.key or "replay" in case.key, Console(file=sys.stderr)
    )
    assert [case.name for case in cases] == ["replay"]
    assert set(failures.values()) == {"Lost: 7 were sent, 6 have arrived"}
    assert "in broken" in capsys.readouterr().err


def test_directories_of_a_case_are_removed_and_kept_ones_stay() -> None:
    """Directories go with the case; those of kept servers go with the workshop."""
    with Workshop() as workshop:
        passing = workshop.directory()
        kept = workshop.kept("kept", lambda: nullcontext(workshop.directory()))
        workshop.clear()
        assert (passing.exists(), kept.exists()) == (False, True)
    assert not kept.exists()


def test_lines_are_counted_once_as_files_grow_and_are_renamed(tmp_path: Path) -> None:
    """A finished file is the open one under another name."""
    lines = far_ends.Lines(tmp_path)
    file = tmp_path / "a.ndjson.open"
    file.write_bytes(b"{}\n" * 3)
    assert (lines.size(), lines.count()) == (9, 3)
    with file.open("ab") as more:
        more.write(b"{}\n" * 2)
    file.rename(tmp_path / "a.ndjson")
    assert (lines.size(), lines.count(), lines.count()) == (15, 5, 5)


def test_too_little_disk_space_is_reported_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With the case, what it needs, and what there is."""
    monkeypatch.setattr(suite, "disk_usage", lambda where: SimpleNamespace(free=5 * 2**30))
    arguments = ["run", "--full", "--only", "growth: backlog", "--out", str(tmp_path / "r.json")]
    assert command_line.main(arguments) == 2
    said = capsys.readouterr().err
    assert "growth: backlog (mebibytes 10000) needs 14 GiB of free disk" in said
    assert "has 5.0" in said


@pytest.mark.slow
def test_a_result_is_drawn(tmp_path: Path) -> None:
    """Each picture for which it has cases, on a page that needs no other file."""
    stage = {"x_parse": [1.0, 1.2], "allocations": [3.0]}
    parameters: dict[str, str | int | float] = {"occurrences": 1_000, "posts": "mixed"}
    server = {"occurrences_per_s": [9.0], "acknowledged_per_s": [9.0], "cpu_us": [2.0], "generator_busy": [0.1]}
    latencies = {f"ack_{point}_ms": [1.0] for point in ("p50", "p99", "p99.9", "max")}
    cases = [
        Case("whole server", "file", {"occurrences": 1_000}, server),
        Case(
            "whole server", "file", {"occurrences": 100, "connections": 1}, server | {"x_parse": [4.0], "ack_p99_ms": [1.0]}
        ),
        Case("load generator", "black hole", {"occurrences": 1_000}, {"occurrences_per_s": [20.0]}),
        Case("stages", "map", parameters, stage),
        Case("stages", "sink: bizevents", parameters, stage),
        Case("latency", "file", {"posts_per_s": 20}, latencies),
    ]
    made = Result(about("make bench", 1), cases)
    made.save(tmp_path / "r.json")
    assert command_line.main(["draw", str(tmp_path / "r.json")]) == 0
    there = {path.stem for path in (tmp_path / "r").glob("*.png")}
    assert there == {"throughput", "stages", "sinks", "latency"}
    assert {path.stem for path in (tmp_path / "r").glob("*.svg")} == there
    text = (tmp_path / "r" / "index.html").read_text()
    assert text.count("<svg") == len(there)
    assert "<td>100 over 1</td><td>btfeed, files</td>" in text
    assert made.about["commit"] in text
    assert 'id="raw"' in text
    assert "src=" not in text
    assert "<link" not in text
