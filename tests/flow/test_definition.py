"""Definitions: the built-in ones, and what is reported about wrong ones."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from btfeed.faults import ConfigError
from btfeed.flow import definition
from btfeed.flow.fields import expected
from btfeed.traffic import profile


def tables() -> dict[str, Any]:
    """The web shop as parsed TOML."""
    return tomllib.loads(definition.shipped()["web-shop"])


def faults(found: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as error:
        definition.parse(found)
    return error.value.faults


def paths(found: dict[str, Any]) -> list[str]:
    return sorted(fault.partition(":")[0] for fault in faults(found))


def test_every_built_in_profile_has_a_definition_of_its_steps() -> None:
    """Under the same name, with the same steps and event types, and the provider of its records."""
    assert definition.shipped().keys() == profile.shipped().keys()
    for name in definition.shipped():
        flow, traffic = definition.load(name), profile.load(name)
        assert [(step.name, step.event) for step in flow.steps] == [(step.name, step.event) for step in traffic.steps]
        assert [step.name for step in flow.steps if step.optional] == [
            step.name for step in traffic.steps if step.taken < 100
        ]
        assert flow.where == {"event.provider": traffic.application}


def test_all_faults_are_reported_at_once_with_their_paths() -> None:
    """Wrong values, unknown keys, missing ones, wrong conditions and names that are not there."""
    found = tables()
    found["colour"] = "red"
    found["window"] = 5
    found["steps"][0]["repeat"] = True
    found["steps"][0]["target"] = "0s"
    del found["steps"][1]["event"]
    found["steps"][2]["back_to"] = ["Product pages"]
    found["steps"][3]["match"] = {"amount": {"min": 3, "max": 2, "most": 1}, "code": {"regex": "("}}
    found["steps"][3]["exceptions"] = [{}]
    found["value"]["step"] = "Nowhere"
    found["value"]["estimate_by"] = "colour"
    found["ends"] = {}
    found["where"] = {"a": []}
    found["bucket"], found["timezone"] = "2h", "Europe/Nowhere"
    found["times"] = [{"name": "back", "from": "Cart", "to": "Product page"}]
    assert paths(found) == [
        "bucket", "colour", "ends", "steps.0.repeat", "steps.0.target", "steps.1.event", "steps.2.back_to.0",
        "steps.3.exceptions.0",
        "steps.3.match.amount.min", "steps.3.match.amount.most", "steps.3.match.code.regex", "times.0.to", "timezone",
        "value.estimate_by", "value.step", "where.a", "window",
    ]  # fmt: skip
    reported = faults(found)
    assert "steps.0.repeat: unknown key; did you mean repeats?" in " ".join(reported)
    assert "steps.2.back_to.0: there is no step with this name; did you mean 'Product page'?" in reported


def test_an_example_of_a_list_of_tables_has_tables() -> None:
    """And not texts."""
    found = tables()
    found["steps"][1]["exceptions"] = {"a": 1}
    assert faults(found) == ["steps.1.exceptions: must be a list: write exceptions = [{ ... }]"]


def test_a_cycle_and_a_wrong_order_are_reported() -> None:
    """`after` names earlier steps only: a step's place in the file is its rank."""
    found = tables()
    found["steps"][0]["after"] = ["Cart"]
    found["steps"][1]["after"] = ["Cart"]
    found["steps"][2]["after"] = ["Cart", "Add to cart"]
    found["steps"][3]["back_to"] = ["Order received", "Checkout"]
    found["steps"][4] |= {"name": "Cart"}
    assert paths(found) == [
        "steps.0.after", "steps.1.after.0", "steps.2.after.0", "steps.3.back_to.0", "steps.3.back_to.1", "steps.4.name",
        "value.step",
    ]  # fmt: skip


def test_a_last_step_that_is_no_goal_needs_another_one() -> None:
    """Else it would be the goal all the same."""
    found = tables()
    found["steps"][-1]["goal"] = False
    assert faults(found) == [
        f"steps.{len(found['steps']) - 1}.goal: no other step is a goal, so this one is: leave it out, or set one to true"
    ]
    found["steps"][1]["goal"] = True
    definition.parse(found)


@pytest.mark.parametrize("name", ["", "a,b", "a=b", "a/b", "../up", "a\nb", "\0", "ä" * 51])
def test_a_dimension_is_named_so_that_a_file_can_be(name: str) -> None:
    """CSV has a file for each split, in its folder."""
    found = tables()
    found["dimensions"] = {name: "a", "a:b; \\ 'c'": "b", "ä" * 50: "c"}
    del found["value"]["estimate_by"]
    (fault,) = faults(found)
    assert fault.startswith("dimensions.")
    assert ": must be a name of at most 100 bytes without commas" in fault


@pytest.mark.parametrize(
    ("match", "fault"),
    [
        ({"a": None}, "where.a: must be text in quotes, a number, true or false, a list of these, or a table"),
        ({"a": [["b"]]}, "where.a: must be text in quotes"),
        ({"": "b"}, "where.: must be the name of a field"),
        ({"a": {}}, "where.a: is empty; it may have not, prefix, min, max, exists, regex"),
        ({"a": {"b": 1}}, "where.a.b: unknown key; known keys: not, prefix"),
        ({"a": {"min": "1"}}, "where.a.min: must be a number"),
        ({"a": {"max": float("nan")}}, "where.a.max: must be a number"),
        ({"a": [1.5, float("inf")]}, "where.a: must be a number that records can have"),
        ({"a": {"exists": 1}}, "where.a.exists: must be true or false"),
        ({"a": {"prefix": ""}}, "where.a.prefix: must be text in quotes"),
        ({"a": {"not": []}}, "where.a.not: must not be empty"),
        ({"a": {"regex": "a(?!b)"}}, "where.a.regex: must not look ahead or back"),
        ({"a": {"regex": "*"}}, "where.a.regex: is not a regular expression"),
    ],
)
def test_a_wrong_condition_is_reported_with_its_path(match: dict[str, Any], fault: str) -> None:
    """And with what it may be."""
    assert any(each.startswith(fault) for each in faults(tables() | {"where": match})), faults(tables() | {"where": match})


def test_a_file_that_is_not_there_is_reported_with_the_built_in_names(tmp_path: Path) -> None:
    """A definition in a file is read like a built-in one."""
    with pytest.raises(ConfigError, match=r"not a built-in definition \(flight-search, loan-application, web-shop\)"):
        definition.load(str(tmp_path / "mine.toml"))
    (tmp_path / "mine.toml").write_text(definition.shipped()["web-shop"])
    assert definition.load(str(tmp_path / "mine.toml")) == definition.load("web-shop")


def test_fields_that_differ_only_in_case_are_reported() -> None:
    """The engine takes them for one."""
    found = tables()
    found["dimensions"]["time"] = "Timestamp"
    assert faults(found) == [
        "dimensions.time: the fields 'timestamp' and 'Timestamp' differ only in upper and lower case; leave out one of them"
    ]


def test_after_is_the_step_before_and_what_may_be_passed_over() -> None:
    """Up to the first step that is not optional. Shares are told of that one."""
    loans = definition.load("loan-application")
    names = [step.name for step in loans.steps]
    after = {name: [names[p] for p in loans.graph.after[rank]] for rank, name in enumerate(names)}
    assert after["Calculator"] == []
    assert after["Decision"] == ["Documents", "Interview"]
    assert [names[p] for p in loans.graph.before[names.index("Decision")]] == ["Documents"]
    assert [names[p] for p in loans.graph.passed[names.index("Documents")]] == ["Interview"]


def test_the_digest_changes_with_what_numbers_mean() -> None:
    """Alerts do not change it."""
    same = definition.parse(tables() | {"alerts": []})
    assert same.digest == definition.load("web-shop").digest
    assert definition.parse(tables() | {"window": "1h"}).digest != same.digest


def test_a_text_or_a_list_of_texts_is_told_as_such() -> None:
    """Once for each fault, at the path that the user wrote."""
    steps = [{"name": "A", "event": 5}, {"name": "B", "event": ["b", 7]}]
    assert faults({"name": "x", "correlation": [], "steps": steps}) == [
        "correlation: must not be empty",
        'steps.0.event: must be text in quotes, or a list of such texts: write event = "5"',
        'steps.1.event.1: must be text in quotes: write event = ["...", "7"]',
    ]


def test_fields_that_records_should_have() -> None:
    """Not those that must not exist, of which a record has another, or that nobody wrote."""
    steps = [{"name": "A", "event": "A", "match": {"x": {"exists": False}, "y": {"not": "1"}}}, {"name": "B", "event": "B"}]
    rest = {"correlation": ["order", "visit"], "where": {"provider": "shop"}, "dimensions": {"city": "town"}}
    bare = definition.parse({"name": "F", "steps": steps, **rest})
    assert expected(bare) == {"provider": "where", "y": "step A", "town": "dimensions.city"}
    whole = definition.parse({"name": "F", "steps": steps, **rest, "exceptions": {}, "value": {"field": "amount"}})
    assert expected(whole) == expected(bare) | {"event.outcome": "exceptions.when", "amount": "value.field"}


def test_faults_in_a_file_name_steps(tmp_path: Path) -> None:
    """By their names; by their numbers, from 1, where they have none. So for pairs of steps."""
    path = tmp_path / "own.toml"
    path.write_text("""name = "F"
steps = [
    { name = "Cart", event = "a", after = ["x"] }, { event = "b" }, { name = "\\u007f" }, 4, { name = "Paid", event = 1 },
]
times = [{ name = "all", from = "Cart", to = "Piad" }]
dimensions = { "a,b" = "c" }
""")
    with pytest.raises(ConfigError) as error:
        definition.load(str(path))
    assert sorted(fault.rpartition(": ")[0].partition(": must")[0] for fault in error.value.faults) == [
        "dimensions.a,b", "step 2: name", "step 3: event", "step 4", "step Cart: after", "step Paid: event", "time all: to",
    ]  # fmt: skip
