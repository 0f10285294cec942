"""`btfeed status --cluster`: what it says of a journal in Kafka, and its exit status."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from btfeed.commands.cluster import is_well, lines
from btfeed.journal.kafka.overview import GroupView, MemberView, Overview, PartitionView, TopicView
from tests.commands.test_main import invoke, write_config

POSTS = TopicView("b.posts", 4, 3, 0, 0)
MEMBERS = [MemberView("host1-1", "10.0.0.1", [0, 1, 3]), MemberView("host2-1", "10.0.0.2", [2])]


def overview(*groups: GroupView, topic: TopicView = POSTS) -> Overview:
    return Overview("id1", ["k1:9092", "k2:9092"], [topic], groups)


def test_a_cluster_that_is_well() -> None:
    """Topics, members with their partitions, and no more of partitions that have nothing to deliver."""
    partitions = [PartitionView(each, "host1-1", 10, 0) for each in (0, 1, 3)] + [PartitionView(2, "host2-1", 10, 0)]
    found = overview(GroupView("archive", "b.archive", "Stable", MEMBERS, partitions))
    assert is_well(found)
    assert list(lines(found)) == [
        "cluster id1: 2 brokers (k1:9092, k2:9092)",
        "topic b.posts: 4 partitions, 3 replicas each",
        "sink archive: 2 processes, 0 posts behind",
        "  host1-1 (10.0.0.1): partitions 0-1, 3, 0 posts behind",
        "  host2-1 (10.0.0.2): partitions 2, 0 posts behind",
        "spills of receivers: each knows its own, see btfeed status there",
    ]


def test_partitions_that_are_behind() -> None:
    """With the time until posts are deleted, and what is lost already. A sink that somebody delivers to is well."""
    partitions = [
        PartitionView(0, "host1-1", 10, 5, retention_left=90_000.0),
        PartitionView(2, "host2-1", 10, 1, dropped=7, retention_left=-3.0),
    ]
    found = overview(GroupView("archive", "b.archive", "CompletingRebalance", MEMBERS, partitions))
    assert is_well(found)
    shown = list(lines(found))
    assert shown[2].startswith("sink archive: 2 processes, 6 posts behind, the oldest MAY BE DELETED at any moment, ")
    assert shown[2].endswith(", the group is CompletingRebalance")
    assert shown[5] == "  partition 0 (host1-1): 5 posts behind, the oldest is deleted in 1 d 1 h"
    assert shown[6].startswith("  partition 2 (host2-1): 1 post behind, the oldest MAY BE DELETED at any moment, ")
    assert shown[6].endswith(", LOST: 7 posts that the brokers deleted before")


def test_partitions_are_listed_if_posts_wait_for_long() -> None:
    """Posts that have just come, and are delivered by somebody, need no line. Deleted ones do."""
    late = PartitionView(1, "host1-1", 10, 5, retention_left=9_000.0, waits=60.0)
    partitions = [
        PartitionView(0, "host1-1", 10, 1, retention_left=90_000.0, waits=59.0),
        late,
        PartitionView(2, "", 10, 1, retention_left=90_000.0, waits=1.0),
        PartitionView(3, "host1-1", 10, 0, dropped=2),
    ]
    shown = list(lines(overview(GroupView("archive", "b.archive", "Stable", MEMBERS, partitions))))
    assert [line.partition(" (")[0] for line in shown if "partition " in line] == [
        "  partition 1", "  partition 2", "  partition 3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (overview(topic=TopicView("b.posts", 0, 0, 0, 0)), "topic b.posts: MISSING"),
        (
            overview(topic=TopicView("b.posts", 4, 3, 1, 2)),
            "topic b.posts: 4 partitions, 3 replicas each, 1 WITHOUT LEADER, 2 with replicas that are behind",
        ),
        (
            overview(GroupView("archive", "b.archive", "Empty", [], [PartitionView(0, "", 3, 2)])),
            "sink archive: NOBODY DELIVERS, 2 posts behind",
        ),
        (
            overview(GroupView("archive", "b.archive", "unknown", error="not authorized: group b.archive needs READ")),
            "sink archive: UNKNOWN: not authorized: group b.archive needs READ",
        ),
    ],
    ids=["missing", "leaderless", "nobody", "no right"],
)
def test_what_keeps_posts_from_being_taken_or_delivered(found: Overview, line: str) -> None:
    """It is said in capitals, and is exit status 1."""
    assert not is_well(found)
    assert line in lines(found)


def test_brokers_that_are_missing_are_named() -> None:
    """Of those that are up by the word of others, too, which do not say what their partitions have."""
    found = replace(overview(), away=[2])
    assert (is_well(found), list(lines(found))[1]) == (True, "  broker 2 IS AWAY: it has replicas, and is not up")
    found = replace(overview(), silent=[3])
    assert not is_well(found)
    assert "  broker 3 DOES NOT REPLY: what waits in the partitions that it leads is not known" in lines(found)


def test_problems_of_topics_are_told() -> None:
    """Each in its line. They keep nothing from working now."""
    found = overview(topic=TopicView("b.posts", 4, 1, 0, 0, ["one copy: a post is lost with broker 1"]))
    assert is_well(found)
    assert "  one copy: a post is lost with broker 1" in lines(found)


def test_brokers_that_are_away_are_exit_1(tmp_path: Path) -> None:
    """With the address and the reason."""
    text = '[journal]\ntype = "kafka"\nbootstrap_servers = "127.0.0.1:1"\n'
    result = invoke("status", "--cluster", "-c", write_config(tmp_path / "btfeed.toml", text))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "can't ask the brokers: 127.0.0.1:1: can't connect: Connection refused\n"


def test_a_journal_in_a_file_has_no_cluster(tmp_path: Path) -> None:
    """A wrong option, as one that has no effect beside it."""
    config = write_config(tmp_path / "btfeed.toml", "")
    result = invoke("status", "--cluster", "-c", config)
    assert (result.exit_code, "one file" in result.stderr) == (2, True)
    result = invoke("status", "--cluster", "-c", config, "--watch")
    assert (result.exit_code, "--watch" in result.stderr) == (2, True)


def test_it_needs_no_secret_of_a_sink(tmp_path: Path) -> None:
    """Only their names: it runs where others have the secrets."""
    text = """
        [journal]
        type = "kafka"
        bootstrap_servers = "127.0.0.1:1"
        [sinks.x]
        type = "elasticsearch"
        hosts = ["http://127.0.0.1:1"]
        api_key = "${NOBODY_HAS_THIS}"
    """
    result = invoke("status", "--cluster", "--json", "-c", write_config(tmp_path / "btfeed.toml", text))
    assert "can't ask the brokers" in result.stderr
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(result.stdout)
