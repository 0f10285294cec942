"""Results of the benchmarks: how they are compared, drawn, and read again."""

from pathlib import Path

import pytest
from rich.progress import Progress

from benchmarks import __main__ as command_line
from benchmarks import compare, figures, findings, page, plots
from benchmarks.progress import Remaining
from benchmarks.results import Case, Result


def result(**medians: list[float]) -> Result:
    """A result with a case for each keyword, of these rounds."""
    return Result({}, [Case("g", name, {}, {"x_parse": values}) for name, values in medians.items()])


# Comparing


@pytest.mark.parametrize(
    ("base", "new", "verdict"),
    [
        ([10, 10, 10], [10.5, 10.5, 10.5], "same"),
        ([10, 10, 10], [12, 12, 12], "worse"),
        ([12, 12, 12], [10, 10, 10], "better"),
        ([9, 10, 15, 16], [11, 15, 16, 17], "noise"),
        ([9, 11], [10.9, 13], "noise"),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], "same"),
    ],
)
def test_a_verdict_needs_more_than_noise(base: list[float], new: list[float], verdict: str) -> None:
    """The change exceeds the threshold, and the middle halves of both do not overlap."""
    (found,) = compare.compare(result(a=base), result(a=new), 0.1)
    assert found.verdict == verdict


@pytest.mark.parametrize(("change", "worse"), [(1.0, 1), (1.3, 30)])
def test_few_rounds_are_worse_if_they_change_more_than_others(change: float, worse: int) -> None:
    """Two runs of one program differ by a few percent in each case. A change of all cases is not noise."""
    noise = [1 + 0.03 * ((place * 7) % 5 - 2) for place in range(30)]
    noise[4], noise[5] = 1.13, 1.8  # the first can be noise, the second cannot
    base = Result({}, [Case("g", str(place), {}, {"x_parse": [10.0, 10.1]}) for place in range(30)])
    cases = [
        Case("g", str(place), {}, {"x_parse": [10 * of * change, 10.1 * of * change]}) for place, of in enumerate(noise)
    ]
    found = [one.verdict for one in compare.compare(base, Result({}, cases), 0.1)]
    assert (found[5], found.count("worse") >= worse) == ("worse", True)
    assert (found[4] == "noise") == (change == 1.0)


def test_a_higher_rate_is_better() -> None:
    """If a case has no ratio, its rate is compared."""
    base = Result({}, [Case("g", "a", {}, {"occurrences_per_s": [100.0] * 3})])
    new = Result({}, [Case("g", "a", {}, {"occurrences_per_s": [50.0] * 3})])
    assert [one.verdict for one in compare.compare(base, new, 0.1)] == ["worse"]
    assert [one.verdict for one in compare.compare(new, base, 0.1)] == ["better"]


@pytest.mark.parametrize(("new", "status"), [([10.0] * 3, 0), ([20.0] * 3, 1), ([5.0] * 3, 0)])
def test_compare_exits_with_1_if_a_case_is_worse(
    new: list[float], status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints every case, including those that the new result lacks."""
    result(a=[10.0] * 3, gone=[1.0]).save(tmp_path / "base.json")
    result(a=new).save(tmp_path / "new.json")
    assert command_line.main(["compare", str(tmp_path / "base.json"), str(tmp_path / "new.json")]) == status
    printed = capsys.readouterr().out
    assert "g: a" in printed
    assert "only in the base: g: gone" in printed
    assert f"1 compared, {status} worse" in printed


def test_results_that_cannot_be_compared_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file, a file that is not a result, and results without a case in common."""
    (tmp_path / "no.json").write_text('{"cases": 1}')
    result(a=[1.0]).save(tmp_path / "a.json")
    result(b=[1.0]).save(tmp_path / "b.json")
    for other, told in (("nowhere.json", "No such file"), ("no.json", "is not a result"), ("b.json", "no case in common")):
        assert command_line.main(["compare", str(tmp_path / "a.json"), str(tmp_path / other)]) == 2
        assert told in capsys.readouterr().err


# Interpreted and drawn


@pytest.mark.parametrize(
    ("least", "most", "verdict"),
    [
        ([3.0, 3.1, 3.2], [3.3, 3.4, 3.5], "flat"),
        ([3.0, 3.1, 3.2], [6.0, 6.1, 6.2], "grows"),
        ([6.0, 6.1, 6.2], [3.0, 3.1, 3.2], "falls"),
        ([3.0, 5.0, 9.0], [4.0, 8.0, 9.0], "flat"),
        ([3.0], [6.0], "grows"),
    ],
)
def test_a_growing_cost_differs_from_a_flat_one(least: list[float], most: list[float], verdict: str) -> None:
    """In the medians at both ends, by more than the noise."""
    ends = ((1, least), (5, [100.0]), (10, most))
    cases = [Case("growth", "sinks", {"number": number}, {"x_parse": values}) for number, values in ends]
    (found,) = findings.growths(Result({}, cases))
    assert ([place for place, _ in found.points], found.verdict) == ([1, 5, 10], verdict)


def test_growth_over_time_compares_the_first_and_last_minutes() -> None:
    """A leak grows; a quantity that only varies is flat."""
    samples = {"x_parse": [3.0, 3.2] * 30, "rss_mib": [100.0 + 10 * minute for minute in range(60)]}
    verdicts = {g.quantity: g.verdict for g in findings.growths(Result({}, [Case("growth", "time", {}, samples)]))}
    assert verdicts == {"x_parse": "flat", "rss_mib": "grows"}


@pytest.mark.parametrize(("rate", "enough"), [(1_000.0, True), (9_000.0, False)])
def test_a_load_generator_that_limits_a_rate_is_reported(rate: float, enough: bool) -> None:
    """If a server answers about as fast as the generator can send."""
    alone = Case("load generator", "black hole", {"occurrences": 10}, {"occurrences_per_s": [10_000.0]})
    served = {"acknowledged_per_s": [rate], "generator_busy": [0.5]}
    slower = {"acknowledged_per_s": [10.0], "generator_busy": [0.1]}
    cases = [Case("whole server", name, {"occurrences": 10}, samples) for name, samples in (("a", slower), ("b", served))]
    (found,) = findings.reserves(Result({}, [alone, *cases]))
    assert (found.fastest.name, found.rate, found.busy, found.enough) == ("b", rate, 0.5, enough)


def test_small_posts_are_told_by_their_connections() -> None:
    """What a whole post costs, larger posts and fewer connections first, with peers; and what one connection costs."""

    def case(name: str, size: int, number: int, cpu: float, group: str = "whole server") -> Case:
        samples = {"cpu_us": [cpu], "x_parse": [2 * cpu], "acknowledged_per_s": [1_000.0], "ack_p99_ms": [3.0]}
        return Case(group, name, {"occurrences": size, "connections": number}, samples)

    beside = Case(
        "whole server", "file beside no sink", {"occurrences": 100, "connections": 1}, {"rate_of_none": [0.5, 0.7]}
    )
    made = Result({}, [
        case("file", 1, 4, 50.0), case("file", 100, 64, 2.0), case("file", 100, 1, 6.0), case("file", 1_000, 8, 1.0),
        case("kafka", 100, 64, 9.0), case("bento, file", 100, 1, 90.0, "peers"), case("bento, kafka", 100, 1, 9.0, "peers"),
        beside,
    ])  # fmt: skip
    rows = [(post.size, post.connections, post.name, post.cpu_us, post.per_s) for post in findings.posts(made)]
    assert rows == [
        (100, 1, "btfeed, files", 600.0, 10.0),
        (100, 1, "bento, file", 9_000.0, 10.0),
        (100, 64, "btfeed, files", 200.0, 10.0),
        (1, 4, "btfeed, files", 50.0, 1_000.0),
    ]
    first, second = findings.few_connections(made)
    assert "costs 3.0 times as much over 1 connection as over 64 connections" in first
    assert "answers 60% as many posts" in second
    assert [findings.usual(each) for each in made.cases] == [False, True, False, True, True, False, False, False]


def test_tables_have_what_a_result_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small posts by connections, and reports of flows with what they are compared with; without them, neither table."""
    server = {
        "cpu_us": [2.0],
        "x_parse": [4.0],
        "occurrences_per_s": [9.0],
        "acknowledged_per_s": [800.0],
        "ack_p99_ms": [3.0],
    }
    small = Case("whole server", "file", {"occurrences": 100, "connections": 4}, server)
    flows = [
        Case("flows", "report", {"format": kind}, {"cpu_us": [1.5], quantity: [2.0]})
        for kind, quantity in (("ndjson", "x_scan"), ("elasticsearch", "x_composite"))
    ]
    about = {
        "command": "c",
        "commit": "c",
        "machine": {"cores": 2, "cpu": "c", "memory_gib": 1},
        "versions": {"python": "3"},
    }
    monkeypatch.setattr(figures, "RESULT", tmp_path / "r.json")
    Result(about, [small, *flows]).save(figures.RESULT)
    text = "\n".join(figures.tables())
    assert "| 100 | 4 | btfeed, files | 8 | 200 | 4.0 | 3.0 |" in text
    assert "| ndjson | 1.50 | 2.0 (2.0, 2.0) × the CPU of a bare scan |" in text
    assert "| elasticsearch | 1.50 | 2.0 (2.0, 2.0) × the time of a composite aggregation |" in text
    assert "| file | 100 |" not in text  # only the usual number of connections
    Result(about, []).save(figures.RESULT)
    text = "\n".join(figures.tables())
    assert "taken by" not in text
    assert "report of flows" not in text


def test_every_picture_has_a_title_and_a_note() -> None:
    """The page explains each of them."""
    assert plots.PICTURES.keys() == page.TITLES.keys() == page.NOTES.keys()


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    """With its failures."""
    made = Result({"seed": 1}, [Case("g", "a", {"number": 3}, {"x_parse": [1.5, 2.0]})], {"g: b": "Lost: all"})
    made.save(tmp_path / "r.json")
    assert Result.load(tmp_path / "r.json") == made


def test_the_remaining_time_of_a_case_is_estimated() -> None:
    """From the expected time, or else from the rounds so far."""
    now = 100.0
    progress = Progress(get_time=lambda: now)
    progress.add_task("known", total=1, expected=75.0)
    progress.add_task("unknown", total=1, expected=None)
    known, unknown = progress.tasks
    now += 5
    assert str(Remaining().render(known)) == "0:01:10"
    assert str(Remaining().render(unknown)) == "-:--:--"
    now += 500
    assert str(Remaining().render(known)) == "0:00:00"
