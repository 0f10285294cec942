"""What commands do with a journal in Kafka: dead letters, records and replay, on a real broker."""

import asyncio
import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AclOperation
from typer.testing import Result

from btfeed.journal.base import Commit, Cursor, DeadLetter
from btfeed.journal.kafka.names import Names
from btfeed.posts import files as postfile
from btfeed.posts.post import Post, digest
from tests.commands.test_main import invoke
from tests.journal.journals import dead_letter
from tests.journal.kafka import intakes, keeping
from tests.journal.kafka.damage import damage, write_batches
from tests.journal.kafka.intakes import bodies_of
from tests.servers.kafka import PASSWORD, USER, Kafka, shared
from tests.support.posts import mixed

pytestmark = pytest.mark.kafka

MALFORMED = DeadLetter("post", "", "malformed: it is no post", 5, b"nonsense", cause="malformed")
TOO_STRICT = DeadLetter("post", "", "too many occurrences", 6, mixed(3), cause="too_large")


@pytest.fixture(scope="module")
def kafka() -> Kafka:
    return shared()


class Case:
    """A journal of its own, and a configuration with it and the sinks a and b."""

    def __init__(self, kafka: Kafka, directory: Path, **settings: Any) -> None:
        self.settings = intakes.settings_for(kafka.bootstrap)
        self.names = Names(self.settings.prefix)
        self.kafka = kafka
        self.config = directory / "btfeed.toml"
        self.write(bootstrap_servers=kafka.bootstrap, **settings)

    def write(self, **settings: Any) -> None:
        given = {"type": "kafka", "prefix": self.settings.prefix, "spill": False} | settings
        lines = [f"{key} = {json.dumps(value)}" for key, value in given.items() if not isinstance(value, dict)]
        tables = [
            f"[journal.{name}]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
            for name, table in given.items()
            if isinstance(table, dict)
        ]
        sinks = [f'[sinks.{name}]\ntype = "file"\ndirectory = "{name}"' for name in "ab"]
        self.config.write_text("\n".join(["[journal]", *lines, *tables, *sinks, ""]))

    def keep(self, *letters: DeadLetter) -> None:
        async def keep() -> None:
            async with keeping.opened(self.settings) as kept:
                for each in letters:
                    await kept.apply("a", 0, Commit(Cursor(0), None, [each]))

        asyncio.run(keep())

    def append(self, posts: Sequence[Post]) -> None:
        async def append() -> None:
            async with intakes.opened(self.settings) as intake:
                for each in posts:
                    await intake.append(each)

        asyncio.run(append())

    def run(self, *arguments: object) -> Result:
        return invoke(*arguments, "-c", self.config)

    def listed(self) -> list[dict[str, Any]]:
        result = self.run("dead-letters", "list", "--json")
        assert (result.exit_code, result.stderr) == (0, "")
        return [json.loads(line) for line in result.stdout.splitlines()]

    def marked(self, sink: str) -> list[str | None]:
        """The event ids of what this sink is to retry."""

        async def marked() -> list[str | None]:
            async with keeping.opened(self.settings) as kept:
                return [each.event_id for each in await kept.retries(sink, 99)]

        return asyncio.run(marked())


@pytest.fixture
def case(kafka: Kafka, tmp_path: Path) -> Case:
    return Case(kafka, tmp_path)


def test_dead_letters_are_listed_exported_and_deleted(case: Case, tmp_path: Path) -> None:
    """As on one machine: records as they are, posts in base64 and as a file."""
    case.keep(dead_letter(1), MALFORMED, dead_letter(2, "b"))
    lines = case.run("dead-letters", "list").stdout.splitlines()
    assert [line.split("  ")[2:] for line in lines] == [
        ["a", "id-1", "refused"], ["-", "post of 8 bytes", "malformed: it is no post"], ["b", "id-2", "refused"]
    ]  # fmt: skip
    assert [each["event_id"] for each in case.listed()] == ["id-1", None, "id-2"]
    exported = case.run("dead-letters", "export", "--sink", "b", "--delete")
    assert json.loads(exported.stdout)["record"] == json.loads(dead_letter(2).body)
    file = tmp_path / "refused.btposts"
    exported = case.run("dead-letters", "export", "--posts", file, "--delete")
    first, second = map(json.loads, exported.stdout.splitlines())
    assert (first["event_id"], base64.b64decode(second["body"])) == ("id-1", b"nonsense")
    assert list(postfile.read(file)) == [b"nonsense"]
    assert case.listed() == []


def test_dead_letters_are_retried(case: Case) -> None:
    """Records by their sinks, posts at once: one that is valid now is in the journal, another says why not."""
    case.keep(dead_letter(1), dead_letter(2, ""), MALFORMED, TOO_STRICT, dead_letter(3, "gone"))
    result = case.run("dead-letters", "retry")
    assert (result.exit_code, result.stdout) == (1, "4 marked for retry\n")
    assert "1 can't be retried" in result.stderr
    assert (case.marked("a"), case.marked("b")) == (["id-1", "id-2"], ["id-2"])
    assert dict(asyncio.run(bodies_of(case.kafka, case.names.posts))) == {TOO_STRICT.body: 1}
    left = {(each["event_id"], each["sink"]): each["tries"] for each in case.listed()}
    assert left == {("id-1", "a"): 1, ("id-2", "a"): 1, ("id-2", "b"): 1, (None, ""): 2, ("id-3", "gone"): 1}
    chosen = next(each["id"] for each in case.listed() if each["event_id"] == "id-1")
    assert case.run("dead-letters", "retry", chosen).stdout == "1 marked for retry\n"
    assert "no dead letter 5" in case.run("dead-letters", "retry", 5).stderr


def test_the_receivers_limit_decides_which_posts_are_retried(case: Case, tmp_path: Path) -> None:
    """Also if a secret of [receiver] is not to be had here: then it is the default."""
    case.keep(TOO_STRICT)
    text = case.config.read_text()
    case.config.write_text(f"{text}[receiver]\nmax_occurrences = 2\n")
    assert case.run("dead-letters", "retry").exit_code == 0
    (left,) = case.listed()
    assert (left["tries"], left["cause"]) == (2, "too_large")
    assert "raise receiver.max_occurrences" in left["reason"]
    case.config.write_text(f'{text}[receiver]\nbearer_tokens = ["${{NOT_SET}}"]\n')
    assert case.run("dead-letters", "retry").exit_code == 0
    assert case.listed() == []


def test_posts_of_the_journal_are_replayed(case: Case, tmp_path: Path) -> None:
    """In the order of their times over all partitions; one that a spill forwarded late is not left out."""
    posts = [Post(mixed(number), 1_700_000_000_000 + number * 1000, "10.0.0.1") for number in range(1, 13)]
    case.append([*posts[:4], *posts[5:], posts[4]])
    out = tmp_path / "out.btposts"
    result = case.run("replay", "--out", out)
    assert (result.exit_code, result.stderr) == (0, "")
    replayed = list(postfile.read(out))
    assert sorted(replayed) == sorted(each.body for each in posts)
    assert [body for body in replayed if body != posts[4].body] == [each.body for each in posts if each is not posts[4]]
    begin, end = "2023-11-14T22:13:23", "2023-11-14T22:13:26"
    assert case.run("replay", "--out", out, "--from", begin, "--to", end).exit_code == 0
    assert sorted(postfile.read(out)) == sorted(each.body for each in posts[2:5])
    assert "no posts from that time" in case.run("replay", "--out", out, "--from", "2024-01-01T00:00").stderr
    assert "not both" in case.run("replay", "--out", out, tmp_path).stderr
    assert "not both" in case.run("replay", "--out", out, "--journal", tmp_path).stderr


def test_records_shows_the_posts_of_the_journal(case: Case) -> None:
    """What each sink would get."""
    case.append([Post(mixed(3), 1_700_000_000_000, "10.0.0.1")])
    result = case.run("records", "--journal")
    assert (result.exit_code, result.stderr) == (0, "")
    assert sorted(json.loads(line)["sink"] for line in result.stdout.splitlines()) == ["a"] * 3 + ["b"] * 3


@pytest.mark.parametrize("arguments", [("dead-letters", "list"), ("replay", "--out", "-"), ("records", "--journal")])
def test_brokers_and_topics_that_are_not_there_are_told(case: Case, arguments: tuple[str, ...]) -> None:
    """With the address that was tried, and the topic's name."""
    missing = case.run(*arguments)
    assert missing.exit_code == 1
    assert f"there is no topic {case.settings.prefix}." in missing.stderr
    case.write(bootstrap_servers="127.0.0.1:1")
    away = case.run(*arguments)
    assert away.exit_code == 1
    assert "127.0.0.1:1: can't connect" in away.stderr


def test_a_missing_right_is_named(case: Case, tmp_path: Path) -> None:
    """With its topic, as Kafka's ACLs call it. What does not need it works."""
    case.keep(dead_letter(1), MALFORMED, TOO_STRICT)
    case.append([Post(mixed(3), 1_700_000_000_000, "10.0.0.1")])
    kafka, names = case.kafka, case.names
    assert kafka.authority
    login = {"tls": True, "ca": str(kafka.authority.certificate), "sasl": "PLAIN", "username": USER, "password": PASSWORD}
    case.write(bootstrap_servers=kafka.sasl, security=login)
    for topic in names.topics:
        kafka.allow(topic, "other", AclOperation.ALL)

    def needs(right: str, topic: str, *arguments: object) -> None:
        result = case.run(*arguments)
        assert result.exit_code == 1
        assert f"the right {right} on topic {topic} is missing" in result.stderr
        kafka.allow(topic, USER, getattr(AclOperation, right))

    for topic in (names.dead_letters, names.refused, names.retries):
        needs("READ", topic, "dead-letters", "list")
    assert len(case.listed()) == 3
    needs("WRITE", names.dead_letters, "dead-letters", "export", "--sink", "a", "--delete")
    assert case.run("dead-letters", "export", "--sink", "a", "--delete").exit_code == 0
    case.keep(dead_letter(2))
    assert case.run("dead-letters", "list").exit_code == 0
    needs("WRITE", names.posts, "dead-letters", "retry", "--sink", "")
    assert case.run("dead-letters", "retry", "--sink", "").exit_code == 0
    needs("WRITE", names.retries, "dead-letters", "retry", "--sink", "a")
    assert case.run("dead-letters", "retry", "--sink", "a").exit_code == 0
    needs("READ", names.posts, "replay", "--out", tmp_path / "out.btposts")
    assert case.run("replay", "--out", tmp_path / "out.btposts").exit_code == 0


def test_damaged_posts_are_told(case: Case, tmp_path: Path) -> None:
    """Those whose body does not fit their key. The others are replayed."""
    good = mixed(2)
    case.append([Post(good, 1_700_000_000_000, "10.0.0.1")])
    keeping.produce(case.kafka.bootstrap, case.names.posts, (digest(b"this"), b"that"), (digest(b""), b""))
    out = tmp_path / "out.btposts"
    result = case.run("replay", "--out", out)
    assert result.exit_code == 1
    assert "of the journal is damaged" in result.stderr
    assert sorted(postfile.read(out)) == sorted([good, b""])


def test_posts_that_no_broker_can_give_are_told(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a batch together. What is behind them is replayed, and shown."""
    posts = [Post(mixed(number), 1_700_000_000_000 + number, "10.0.0.1") for number in range(1, 7)]
    topic = case.kafka.make_topic(case.names.posts, 2, retention_ms="-1")
    write_batches(case.kafka.bootstrap, topic, 1, posts[:2], posts[2:4], posts[4:5], posts[5:])
    damage(monkeypatch).offsets = {2, 5}
    out = tmp_path / "out.btposts"
    result = case.run("replay", "--out", out, "--shift-to-now")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "posts 1:2 to 1:3 of the journal are damaged", "post 1:5 of the journal is damaged"
    ]  # fmt: skip
    assert case.run("replay", "--out", out).exit_code == 1
    assert list(postfile.read(out)) == [posts[number].body for number in (0, 1, 4)]
    shown = case.run("records", "--journal", "--sink", "a")
    assert (shown.exit_code, len(shown.stdout.splitlines())) == (1, 1 + 2 + 5)
    assert "3 posts left out: damaged in the journal (the post at position 2, the post at position 3, " in shown.stderr
