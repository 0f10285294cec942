"""What the page says of a snapshot: whether all is well, and what is not."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from btfeed.page import view

EXAMPLE = json.loads((Path(__file__).parent.parent / "admin" / "snapshot.json").read_text())["status"]
MINUTE = 60_000


@pytest.fixture
def well() -> dict[str, Any]:
    """The snapshot of a server of which nothing is to be said."""
    status = copy.deepcopy(EXAMPLE)
    status |= {"reload": None, "certificates": {}, "refusals": [], "tls_failures": [], "dead_letters": [], "violations": []}
    status["sinks"] = {"archive": status["sinks"]["archive"]}
    status["counts"] |= {"lost_posts": {}, "refused_posts": {}}
    status["journal"] |= {"full_in_seconds": None}
    return dict(status)


def _problems(status: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(problem.level, problem.what, problem.text) for problem in view.of(status).problems]


def test_a_feed_that_is_well_has_no_problem(well: dict[str, Any]) -> None:
    """The headline has the rates and the server of the last post."""
    found = view.of(well)
    assert found.headline == view.Headline(
        "ok", "The feed is alive", "212 posts with 21,204 occurrences a second, the last one from appmon-prod."
    )
    assert found.problems == []
    assert found.sinks == {"archive": ("ok", "delivering")}
    assert {tile.level for tile in found.tiles} == {"ok"}


def test_the_headline_says_that_nothing_has_come(well: dict[str, Any]) -> None:
    """Ever, or for minutes, or that posts are refused, which comes before all else."""
    well |= {"last_post_time": None, "sources": []}
    assert view.of(well).headline.title == "Waiting for the first post"
    well["last_post_time"] = well["time"] - 12 * MINUTE
    headline = view.of(well).headline
    assert (headline.level, headline.title) == ("warn", "No post for 12 min")
    well |= {"ready": False, "refusing": "the journal is full"}
    headline = view.of(well).headline
    assert (headline.level, headline.title) == ("bad", "Posts are refused")
    assert headline.text.startswith("The journal is full. ")


def test_a_server_without_a_name_is_left_out(well: dict[str, Any]) -> None:
    """Older AppMon servers send none."""
    for source in well["sources"]:
        source["server"] = ""
    assert view.of(well).headline.text == "212 posts with 21,204 occurrences a second."


def test_a_reload_that_failed_has_the_time_of_the_reload(well: dict[str, Any]) -> None:
    """The configuration in effect is older."""
    well["reload"] = {"time": well["time"], "errors": ["sinks.a: unknown type"]}
    (problem,) = view.of(well).problems
    assert problem.text == (
        "The reload at 10:05:11 UTC failed: btfeed goes on with the configuration it had before. sinks.a: unknown type"
    )


def test_every_loss_is_a_problem(well: dict[str, Any]) -> None:
    """Whatever the counter of it."""
    well["counts"] |= {
        "lost_posts": {"journal_full": 14, "bad_tls": 1},
        "journal_dropped_posts": {"search": 3},
        "skipped_posts": {"search": 4},
        "evicted_dead_letters": {"search": 5},
        "journal_lost_posts": 6,
        "lost_dead_letters": 1,
    }
    well["sinks"]["archive"]["flagged"] = {"lost_files": 2}
    assert {text for _, _, text in _problems(well)} == {
        "15 posts of AppMon since the start: journal_full 14, bad_tls 1.",
        "3 posts that sink search had not had, because the journal was full.",
        "4 posts of sink search, by an operator.",
        "5 dead letters, to stay within their bound.",
        "7 posts or dead letters can't be read.",
        "2 open files of sink archive, with the records in it.",
    }


def test_the_worst_problems_come_first() -> None:
    """A reload that failed before a sink that is away."""
    levels = [level for level, _, _ in _problems(EXAMPLE)]
    assert levels == sorted(levels)
    assert set(levels) == {"bad", "warn"}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"state": "misconfigured"}, ("bad", "misconfigured")),
        ({"state": "paused"}, ("idle", "paused")),
        ({"state": "a new one"}, ("idle", "a new one")),
        ({"blocked_destinations": 1}, ("warn", "delivering in part")),
        ({"behind_since": 1, "caught_up_in_seconds": 9.0}, ("ok", "catching up")),
        ({"behind_since": 1, "caught_up_in_seconds": None}, ("warn", "behind")),
    ],
)
def test_the_state_of_a_sink_is_a_word(well: dict[str, Any], changes: dict[str, Any], state: tuple[str, str]) -> None:
    """With how bad it is."""
    well["sinks"]["archive"] |= changes
    assert view.of(well).sinks["archive"] == state


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({"full_in_seconds": 90 * 60.0}, "warn"),
        ({"full_in_seconds": 60.0}, "bad"),
        ({"undelivered_bytes": 9_000_000_000}, "warn"),
        ({"undelivered_bytes": 9_000_000_000, "empty_in_seconds": 60.0}, "ok"),
        ({"undelivered_bytes": 10_737_418_240}, "bad"),
        ({"used": 1.0}, "ok"),
    ],
)
def test_the_journal_is_a_problem_before_it_is_full(well: dict[str, Any], changes: dict[str, Any], level: str) -> None:
    """Undelivered posts fill it. Delivered ones make room, so that it may be used to the brim."""
    well["journal"] |= changes
    assert view.of(well).journal == level


def test_a_journal_in_kafka_has_no_room_here(well: dict[str, Any]) -> None:
    """The process has no files of its own: what is full or not, the brokers know."""
    well["journal"] |= {"used": None, "limit_bytes": None, "free_bytes": None, "undelivered_bytes": 0}
    found = view.of(well)
    (tile,) = (each for each in found.tiles if each.label == "Journal used")
    assert (tile.value, tile.note, tile.level) == ("–", "it is in Kafka", "ok")


def test_a_certificate_is_a_problem_a_month_before_its_end(well: dict[str, Any]) -> None:
    """And a worse one afterwards."""
    day = 86_400_000
    well["certificates"] = {"a": well["time"] + 40 * day, "b": well["time"] + 10.5 * day, "c": well["time"] - day}
    assert _problems(well) == [
        ("bad", "Certificate", "c ended on 2026-01-15 10:05 UTC."),
        ("warn", "Certificate", "b ends in 10 days."),
    ]
