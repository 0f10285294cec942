"""The trace of one flow, and how a definition fits records."""

import json
from pathlib import Path
from typing import Any

import pytest

from btfeed.flow.definition import Definition, load, parse
from btfeed.flow.engine import Engine
from btfeed.flow.options import ListOptions, ReportOptions, Source
from tests.flow.random_flows import BEGIN, UNIT, moment
from tests.flow.records import write
from tests.flow.test_reading import to_parquet

STEPS = {
    "name": "orders", "correlation": "visit", "lost_after": f"{10 * UNIT}ms", "ends": {"event.type": "visit"},
    "window": f"{20 * UNIT}ms",
    "steps": [{"name": "A", "event": "a"}, {"name": "B", "event": "b", "exceptions": [{"event.type": "b.outage"}]},
              {"name": "C", "event": "c"}],
}  # fmt: skip


def record(kind: str, at: int, visit: str = "1", **fields: Any) -> dict[str, Any]:
    return {
        "event.type": kind,
        "timestamp": moment(BEGIN + at * UNIT),
        "visit": visit,
        "event.id": f"{kind}{at}{visit}",
        **fields,
    }


def engine(definition: Definition, directory: Path, *records: dict[str, Any]) -> Engine:
    path = directory / "records.ndjson"
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return Engine(definition, Source("files", [path]))


@pytest.mark.parametrize("parquet", [False, True], ids=["ndjson", "parquet"])
def test_a_trace_has_every_record_of_a_flow_and_the_purepaths_behind_it(parquet: bool, tmp_path: Path) -> None:
    """In the order of time, each with the step that it is. Its state and times are those of the report."""
    path = write(tmp_path / "a.ndjson", "web-shop", seed=1, visits=20)
    lines = path.read_bytes().splitlines()
    source = Source("files", parquet=[to_parquet(path)]) if parquet else Source("files", [path])
    with Engine(load("web-shop"), source) as running:
        listed = max(running.flows(ListOptions()), key=lambda flow: flow.value or 0.0)
        trace = running.trace(listed.id)
    assert trace is not None
    own = [line for line in map(json.loads, lines) if line.get("appmon.visit.id") == listed.id]
    ids = {line["appmon.purepath.id"] for line in own if "appmon.purepath.id" in line}
    behind = [
        line
        for line in map(json.loads, lines)
        if line["event.category"] == "purepath" and line["appmon.purepath.id"] in ids
    ]
    assert trace.flow == listed
    assert sorted(each.id or "" for each in trace.records) == sorted(line["event.id"] for line in own + behind)
    assert [each.time for each in trace.records] == sorted(each.time for each in trace.records)
    assert {each.kind for each in trace.records} == {"step", "end", "purepath"}
    steps = [each for each in trace.records if each.kind == "step"]
    assert [each.gap is None for each in steps] == [True] + [False] * (len(steps) - 1)
    assert {each.step for each in steps if each.reached} == {step for step, time in trace.steps.items() if time is not None}
    assert trace.why.startswith("converted: came to Order received at 2026-")
    assert json.loads(trace.records[0].record)["event.type"] == trace.records[0].event_type


def test_a_trace_says_why_a_flow_is_in_its_state(tmp_path: Path) -> None:
    """The same state as in the report, also where it depends on records of other flows."""
    rows = [
        record("a", 0), record("b", 1), record("c", 2),
        record("a", 0, "late"), record("b", 1, "late"), record("c", 30, "late"),
        record("a", 0, "ended"), record("visit", 0, "ended", end_time=moment(BEGIN + UNIT)),
        record("a", 0, "lost"), record("b.outage", 1, "lost"), record("other", 2, "lost"),
        record("a", 29, "open"), record("b", 29, "headless"),
    ]  # fmt: skip
    with engine(parse(STEPS), tmp_path, *rows) as running:
        states = {flow.id: flow.state for flow in running.flows(ListOptions())}
        traces = {flow: running.trace(flow) for flow in ("1", "late", "ended", "lost", "open", "headless")}
        assert running.trace("nobody") is None
        looked_earlier = running.trace("lost", as_of=BEGIN + 5 * UNIT)
    why = {flow: trace.why if trace else "" for flow, trace in traces.items()}
    assert states == {"1": "converted", "late": "late", "ended": "ended", "lost": "lost", "open": "open"}
    assert {flow: trace.flow.state for flow, trace in traces.items() if trace and trace.flow} == states
    assert why["1"] == "converted: came to C at 2026-03-29T00:20:00.000Z"
    assert "later than the window" in why["late"]
    assert why["ended"] == "ended: a record says that it was over at 2026-03-29T00:10:00.000Z; it had come to A"
    assert why["lost"] == "lost: nothing came after A, and was given up at 2026-03-29T01:50:00.000Z"
    assert why["open"] == "open: waits at A since 2026-03-29T04:50:00.000Z; it is lost after 1.7 h"
    assert why["headless"] == "no state: it has no A, where a flow begins"
    lost = traces["lost"]
    assert lost
    assert [(each.kind, each.step) for each in lost.records] == [("step", "A"), ("exception", "B"), ("other", None)]
    assert looked_earlier
    assert looked_earlier.flow
    assert looked_earlier.flow.state == "open"


def test_later_records_do_not_exist_for_a_trace(tmp_path: Path) -> None:
    """Also the end, which stands where the flow was over and not where the visit began; before all, there is no flow."""
    rows = [
        record("visit", -1, end_time=moment(BEGIN + 5 * UNIT)),
        record("a", 0, **{"appmon.purepath.id": "p"}), record("b", 3),
        record("purepath", 4, "", **{"event.category": "purepath", "appmon.purepath.id": "p"}),
    ]  # fmt: skip
    with engine(parse(STEPS), tmp_path, *rows) as running:
        whole, early = running.trace("1"), running.trace("1", as_of=BEGIN + 3 * UNIT)
        assert running.trace("1", as_of=BEGIN - 1) is None
    assert whole
    assert [(each.kind, each.time) for each in whole.records] == [
        ("step", BEGIN), ("step", BEGIN + 3 * UNIT), ("purepath", BEGIN + 4 * UNIT), ("end", BEGIN + 5 * UNIT),
    ]  # fmt: skip
    assert early
    assert [each.event_type for each in early.records] == ["a", "b"]


def test_a_trace_finds_an_id_however_it_is_written(tmp_path: Path) -> None:
    """Letters that JSON may write as escapes, and numbers."""
    row = record("a", 0, "ä/\\'x")
    path = tmp_path / "records.ndjson"
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "visit": 17, "event.id": "x"}))
    with Engine(parse(STEPS), Source("files", [path])) as running:
        for name in ("ä/\\'x", "17"):
            trace = running.trace(name)
            assert trace
            assert len(trace.records) == 1


def test_coverage_tells_what_fits_several_steps_and_what_none(tmp_path: Path) -> None:
    """And which event types have the value, which would count twice."""
    tables = {**STEPS, "value": {"field": "amount"}}
    tables["steps"] = [
        *STEPS["steps"],
        {"name": "D", "event": "d", "match": {}},
        {"name": "any a", "match": {"big": {"min": 1}}},
    ]
    rows = [
        record("a", 0, big=2, amount=5), record("a", 0, "2"), record("b.outage", 1), record("visit", 1, amount=5),
        record("other", 1), record("other", 2), record("more", 1),
    ]  # fmt: skip
    with engine(parse(tables), tmp_path, *rows) as running:
        found = running.coverage()
    assert found.by_step == {"A": 2, "B": 0, "C": 0, "D": 0, "any a": 0}
    assert found.several == {("A", "any a"): 1}
    assert (found.exceptions, found.ends) == (1, 1)
    assert found.passed == {"other": 2, "more": 1}
    assert found.value_types == {"a": 1, "visit": 1}


def test_a_comparison_is_of_the_same_time_a_week_before_where_there_is_one(tmp_path: Path) -> None:
    """Else of the period before; as it stood then: what came later does not count."""
    day, week = 24 * 6, 7 * 24 * 6
    rows = [record("a", 0, "x"), record("b", 1, "x"), record("c", 2, "x")]
    rows += [record("a", week + 1, "y"), record("a", week + day // 2, "z"), record("a", week - day + 2, "w")]
    at = BEGIN + week * UNIT
    with engine(parse(STEPS), tmp_path, *rows) as running:
        weekly = running.report(ReportOptions(begin=at, end=at + day * UNIT, as_of=at + UNIT))
        daily = running.report(ReportOptions(begin=at, end=at + day * UNIT, compare="previous"))
        nothing = running.report(ReportOptions(begin=BEGIN))
        asked = running.report(ReportOptions(compare="week"))
    assert weekly.compare
    assert (weekly.compare.how, weekly.compare.shift) == ("week", week * UNIT)
    assert weekly.compare.as_of == BEGIN + UNIT
    assert (weekly.figures.counts.started, weekly.compare.figures.counts.started) == (1, 1)
    assert weekly.compare.figures.counts.converted == 0
    assert daily.compare
    assert (daily.compare.how, daily.compare.shift, daily.compare.figures.counts.started) == ("previous", day * UNIT, 1)
    assert daily.compare.changes["started"].change == 1.0
    assert (nothing.compare, asked.compare) == (None, None)
    assert "nothing is compared: that needs the beginning of the period" in asked.notes
