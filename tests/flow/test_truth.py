"""Generated traffic: the numbers of a report are those of the profile that made it, as far as chance allows."""

import json
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from btfeed.flow.definition import load, parse, shipped
from btfeed.flow.engine import Engine
from btfeed.flow.options import ListOptions, ReportOptions, Source
from btfeed.flow.report import ListedFlow, Report, Transition
from btfeed.traffic import profile
from btfeed.traffic.generate import DEFAULT_BEGIN
from btfeed.traffic.profile import Profile
from tests.flow.records import write
from tests.traffic.test_generate import HOUR, assert_share, each_profile

VISITS = 2_000
DAY = 24 * HOUR


@dataclass(frozen=True)
class Seen:
    """What a report says of whole visits, and the visits' own records."""

    profile: Profile
    report: Report
    flows: dict[str, ListedFlow]
    visits: dict[str, dict[str, Any]]

    def way(self, begin: str, to: str) -> Transition:
        return next(way for way in self.report.transitions if (way.begin, way.to) == (begin, to))


@cache
def seen(name: str) -> Seen:
    with TemporaryDirectory() as directory:
        path = write(Path(directory) / "records.ndjson", name, seed=7, visits=VISITS)
        with Engine(load(name), Source("files", [path])) as engine:
            report = engine.report(ReportOptions(split=(("segment",),)))
            flows = {flow.id: flow for flow in engine.flows(ListOptions())}
        records = map(json.loads, path.read_bytes().splitlines())
        visits = {record["appmon.visit.id"]: record for record in records if record["event.category"] == "visit"}
    return Seen(profile.load(name), report, flows, visits)


@pytest.mark.slow
@each_profile
def test_as_many_flows_reach_each_step_as_the_profile_says(name: str) -> None:
    """Of the step before; of an optional step the share that takes it. Every flow is over, so none is open."""
    found = seen(name)
    counts, steps = found.report.figures.counts, {step.name: step for step in found.report.figures.steps}
    assert (counts.started, counts.open, counts.headless) == (VISITS, 0, 0)
    for step in found.profile.steps[1:]:
        told = steps[step.name]
        assert told.of_before is not None
        before = steps[told.before[0]].reached
        share = step.taken if step.taken < 100 else 100 - step.drop_off
        assert_share(round(told.of_before * before), before, share, step.name)


@pytest.mark.slow
@each_profile
def test_as_many_actions_are_exceptions_as_the_profile_says(name: str) -> None:
    """At each step; steps without errors have none."""
    found = seen(name)
    percent = {error.step: error.percent for error in found.profile.errors}
    for step in found.report.figures.steps:
        assert step.attempts == step.visits
        assert_share(step.exceptions, step.attempts, percent.get(step.name, 0), step.name)


@pytest.mark.slow
@each_profile
def test_every_gap_is_one_that_the_profile_allows(name: str) -> None:
    """From the end of an action to the start of the next: exact to the millisecond to which AppMon rounds times."""
    found = seen(name)
    hours = {step.name: (step.min_hours, step.max_hours) for step in found.profile.steps}
    for way in found.report.transitions:
        low, high = hours[way.begin]
        assert way.way is not None
        assert way.gap.least is not None
        assert way.gap.most is not None
        assert low * HOUR - 1 <= way.gap.least
        assert way.gap.most <= high * HOUR + 1
    assert (
        sum(way.n for way in found.report.transitions) == sum(step.visits for step in found.report.figures.steps) - VISITS
    )


@each_profile
def test_a_step_with_a_loop_is_visited_more_than_once_as_the_profile_says(name: str) -> None:
    """A loop to the same step, unless another loop goes around it; a loop to an earlier step is seen as the way back."""
    found = seen(name)
    around = {step.loop.back_to for step in found.profile.steps if step.loop and step.loop.back_to}
    for step, told in zip(found.profile.steps, found.report.figures.steps, strict=True):
        if step.loop and step.loop.back_to not in (None, step.name):
            back = found.way(step.name, step.loop.back_to).n
            times = (step.loop.min_times + step.loop.max_times) / 2
            assert_share(round(back / times), told.reached, step.loop.percent, f"back to {step.loop.back_to}")
        elif step.loop and step.name not in around:
            assert told.more_than_once is not None
            assert_share(round(told.more_than_once * told.reached), told.reached, step.loop.percent, step.name)


@each_profile
def test_what_appmon_says_of_a_visit_is_what_the_flow_says(name: str) -> None:
    """Whether it has converted, when it began and ended, and what it earned, of every one of them."""
    found = seen(name)
    assert found.flows.keys() == found.visits.keys()
    for name_of, visit in found.visits.items():
        flow = found.flows[name_of]
        assert flow.state == ("converted" if visit["appmon.visit.converted"] else "ended")
        assert (flow.value or 0.0) == pytest.approx(visit["appmon.measure.revenue"])
        assert flow.dimensions["segment"] == visit["appmon.dimension.customer_segment"]


@each_profile
def test_what_is_won_and_lost_is_what_visits_earned(name: str) -> None:
    """Together, and in each segment. In the flight search the value is known before the goal, so some is lost."""
    found = seen(name)
    parts = [("", found.report.figures), *((part.values[0], part.figures) for part in found.report.splits["segment"])]
    for segment, figures in parts:
        visits = [visit for visit in found.visits.values() if segment in ("", visit["appmon.dimension.customer_segment"])]
        earned = {True: 0.0, False: 0.0}
        for visit in visits:
            earned[visit["appmon.visit.converted"]] += visit["appmon.measure.revenue"]
        assert figures.value
        assert figures.counts.started == len(visits)
        assert figures.value.won == pytest.approx(earned[True], abs=0.01)
        assert figures.value.lost.known == pytest.approx(earned[False], abs=0.01)
    assert (name == "flight-search") == (earned[False] > 0)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two weeks of loan applications: some began before, and some go on after."""
    traffic = profile.load("loan-application").model_copy(update={"flows_per_hour": 8.0})
    path = tmp_path_factory.mktemp("records") / "cut.ndjson"
    return write(path, traffic, seed=5, begin=DEFAULT_BEGIN, end=DEFAULT_BEGIN + 14 * DAY)


@pytest.mark.slow
def test_flows_that_are_not_over_do_not_falsify_rates_of_mature_flows(cut: Path) -> None:
    """Two weeks, cut at both ends. Flows begun before are not counted as started. The share that gets a decision is far too
    low, since some still wait for it; of flows that are old enough to be over it is right."""
    tables = tomllib.loads(shipped()["loan-application"])
    del tables["window"]  # else flows are old enough after 30 days only
    with Engine(parse(tables), Source("files", [cut])) as engine:
        every, mature = engine.report(ReportOptions()), engine.report(ReportOptions(mature=True))
    assert every.figures.counts.headless
    assert every.figures.counts.open > 0.02 * every.figures.counts.started
    assert any("--mature" in note for note in every.notes)
    assert mature.figures.counts.open < 0.02 * mature.figures.counts.started
    steps = {step.name: step for step in mature.figures.steps}
    for before, step, percent in (("Documents", "Decision", 95), ("Decision", "Signed", 55)):
        assert_share(steps[step].reached, steps[before].reached, percent, step)
    biased = {step.name: step for step in every.figures.steps}
    with pytest.raises(AssertionError):
        assert_share(biased["Decision"].reached, biased["Documents"].reached, 95, "Decision")


@pytest.mark.slow
def test_parts_of_a_period_add_up_to_the_whole(cut: Path) -> None:
    """Each flow belongs to one week, by its start and by when it was decided; flows carried in are told beside."""
    middle = DEFAULT_BEGIN + 7 * DAY
    with Engine(load("loan-application"), Source("files", [cut])) as engine:
        for whole_period in (ReportOptions(by="start"), ReportOptions(by="decided")):
            whole = engine.report(whole_period)
            first = engine.report(replace(whole_period, end=middle, as_of=whole.as_of))
            second = engine.report(replace(whole_period, begin=middle, as_of=whole.as_of))
            parts = first.figures.counts, second.figures.counts
            assert sum(part.started for part in parts) == whole.figures.counts.started
            assert sum(part.converted for part in parts) == whole.figures.counts.converted
            assert parts[1].carried_in or whole_period.by == "decided"
            assert second.compare is not None
