"""Profiles: the built-in ones, and what is reported about invalid ones."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from btfeed.faults import ConfigError
from btfeed.traffic import profile
from tests.commands.test_main import invoke


def tables() -> dict[str, Any]:
    """The web shop as parsed TOML."""
    return tomllib.loads(profile.shipped()["web-shop"])


def faults(found: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as error:
        profile.parse(found)
    return error.value.faults


def test_three_profiles_are_built_in() -> None:
    """Each can be loaded by name, and has the steps that the documentation lists."""
    steps = {name: [step.name for step in profile.load(name).steps] for name in profile.shipped()}
    assert steps == {
        "web-shop": ["Product page", "Add to cart", "Cart", "Checkout", "Order received"],
        "flight-search": ["Homepage", "Search", "Results", "Select", "Track"],
        "loan-application": ["Calculator", "Application", "Documents", "Interview", "Decision", "Signed"],
    }


def test_a_loan_takes_days_loops_and_has_an_optional_step() -> None:
    """A visit may last several days, and the interview is optional."""
    loan = profile.load("loan-application")
    assert sum(step.max_hours for step in loan.steps) > 72
    assert any(step.loop for step in loan.steps)
    assert [step.name for step in loan.steps if step.taken < 100] == ["Interview"]


def test_all_faults_are_reported_at_once_with_their_paths() -> None:
    """Wrong values, unknown keys and missing ones."""
    found = tables()
    found["flows_per_hour"] = 0
    found["colour"] = "red"
    found["steps"][1]["drop_of"] = 3
    found["steps"][2]["loop"]["percent"] = 101
    del found["steps"][3]["event"]
    found["times"]["hours"] = [1.0]
    reported = faults(found)
    assert sorted(fault.partition(":")[0] for fault in reported) == [
        "colour", "flows_per_hour", "steps.1.drop_of", "steps.2.loop.percent", "steps.3.event", "times.hours",
    ]  # fmt: skip
    assert "steps.1.drop_of: unknown key; did you mean drop_off?" in reported
    assert "steps.3.event: is required" in reported


def test_contradictions_are_reported_at_once_with_their_paths() -> None:
    """Unknown step names, reversed ranges, and percentages that do not add up to 100."""
    found = tables()
    found["steps"][0] |= {"min_hours": 2, "max_hours": 1, "drop_off": 5, "taken": 50}
    found["steps"][1] |= {"min_ms": 9, "max_ms": 1, "name": "Product page"}
    found["steps"][2]["loop"] |= {"back_to": "Checkout", "min_times": 3}
    found["revenue"] |= {"step": "Nowhere", "min": 1000}
    found["errors"][0]["step"] = "Elsewhere"
    found["segments"][0]["min_revenue"] = 1
    found["locations"][0]["percent"] = 31
    found["times"]["hours"] = [0] * 24
    assert sorted(fault.partition(":")[0] for fault in faults(found)) == [
        "errors.0.step", "locations", "revenue.min", "revenue.step", "segments.0", "steps.0.drop_off", "steps.0.min_hours",
        "steps.0.taken", "steps.1.min_ms", "steps.1.name", "steps.2.loop.back_to", "steps.2.loop.min_times", "times",
    ]  # fmt: skip


def test_a_profile_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Editors on Windows write one. Showing the profile leaves it out."""
    text = profile.shipped()["web-shop"]
    (tmp_path / "mine.toml").write_text("\ufeff" + text)
    assert profile.load(str(tmp_path / "mine.toml")) == profile.load("web-shop")
    assert invoke("generate", tmp_path / "mine.toml", "--show").stdout == text


def test_the_command_reports_faults_and_exits_with_2(tmp_path: Path) -> None:
    """It writes no file."""
    (tmp_path / "mine.toml").write_text(profile.shipped()["web-shop"].replace("drop_off = 55", "drop_off = 155"))
    result = invoke("generate", tmp_path / "mine.toml", "--flows", 1, "--out", tmp_path / "a.btposts")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "steps.1.drop_off: must be at most 100" in result.stderr
    assert not (tmp_path / "a.btposts").exists()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["no-such"], "no such file, and not a built-in profile (flight-search, loan-application, web-shop)"),
        (["web-shop", "--since", "yesterday"], "invalid time 'yesterday': write"),
        (["web-shop", "--until", "1h"], "only useful with --since"),
        (["web-shop", "--since", "2026-03-02", "--until", "2026-03-01"], "must be later than --since"),
        (["web-shop", "nonsense"], "invalid URL 'nonsense': start it with http:// or https://"),
        (["web-shop", "--flows", "1", "--out", "a.txt"], "use a name that ends with .btposts"),
        (["web-shop", "--flows", "1", "--user", "x"], "write it as NAME:PASSWORD"),
    ],
)
def test_wrong_usage_is_reported(arguments: list[str], what: str) -> None:
    """The message goes to stderr, before anything is sent."""
    result = invoke("generate", *arguments)
    assert result.exit_code in (1, 2)
    assert result.stdout == ""
    assert what in " ".join(result.stderr.split())
