"""[journal] has the keys of its type, and says so of keys of another type."""

import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft7Validator

from btfeed import config
from btfeed.config.effective import effective, toml_lines
from btfeed.config.schema import schema
from btfeed.faults import ConfigError
from btfeed.journal import create as journals
from btfeed.journal.kafka.settings import KafkaJournalSettings

KAFKA = 'type = "kafka"\nbootstrap_servers = "one:9092, two:9092"\n'


def parsed(text: str, base: Path | None = None) -> KafkaJournalSettings:
    found = config.parse(tomllib.loads(f"[journal]\n{text}"), {}, base).journal
    assert isinstance(found, KafkaJournalSettings)
    return found


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        config.parse(tomllib.loads(text), {})
    return raised.value.faults


def test_a_journal_in_kafka_needs_only_its_servers() -> None:
    """Its process has the name of the host, and spills."""
    found = parsed(KAFKA)
    assert (found.bootstrap_servers, found.prefix, found.partitions) == ("one:9092,two:9092", "btfeed", 12)
    assert found.instance_name
    assert found.spill.enabled
    assert parsed(KAFKA + 'instance = "front-1"').instance_name == "front-1"


@pytest.mark.parametrize("spill", ["false", '{ max_size = "0B" }'])
def test_there_may_be_no_spill(spill: str) -> None:
    """In words, or as a size. It is shown as a size, which means the same when it is read."""
    tables = tomllib.loads(f"[journal]\n{KAFKA}spill = {spill}")
    loaded = config.parse(tables, {})
    assert journals.directories(loaded.journal) == []
    shown = "\n".join(toml_lines({"journal": effective(loaded, tables)["journal"]}))
    assert 'max_size = "0B"' in shown
    again = config.parse(tomllib.loads(shown), {}).journal
    assert isinstance(again, KafkaJournalSettings)
    assert not again.spill.enabled


def test_the_spill_is_where_the_configuration_is(tmp_path: Path) -> None:
    """By default, and with a name of its own."""
    assert parsed(KAFKA, tmp_path).spill.directory == str(tmp_path / "btfeed-data" / "spill")
    assert parsed(f'{KAFKA}spill = {{ directory = "s" }}', tmp_path).spill.directory == str(tmp_path / "s")


@pytest.mark.parametrize(
    ("journal", "fault"),
    [
        ('type = "kafak"', 'journal.type: unknown type of journal; did you mean "kafka"? Known types: "sqlite", "kafka"'),
        ("type = 5", 'journal.type: must be one of "sqlite", "kafka"'),
        ('type = "kafka"', "journal.bootstrap_servers: is required"),
        (KAFKA + 'max_size = "1GiB"', 'journal.max_size: unknown key of type = "kafka": only type = "sqlite" has it'),
        (
            'prefix = "a"',
            'journal.prefix: unknown key of type = "sqlite": only type = "kafka" has it. Set type = "kafka" in [journal]',
        ),
        ('type = "sqlite"\nprefix = "a"', 'journal.prefix: unknown key of type = "sqlite": only type = "kafka" has it'),
        (KAFKA + "partition = 3", "journal.partition: unknown key; did you mean partitions?"),
        (KAFKA + 'prefix = "a b"', "journal.prefix: must have 1 to 200 letters, digits, periods, hyphens and underscores"),
        (KAFKA + 'instance = ".."', "journal.instance: must have 1 to 249 letters"),
        (KAFKA + 'spill = { max_size = "1B" }', 'journal.spill: max_size must be at least 1MiB, or "0B" for no spill'),
        (KAFKA + "spill = true", "journal.spill: must be a table: write [journal.spill] and its keys below"),
        (KAFKA + 'spill = { maxsize = "1GiB" }', "journal.spill.maxsize: unknown key; did you mean max_size?"),
        (KAFKA + 'security = { sasl = "PLAIN" }', "journal.security: PLAIN needs username and password"),
        (KAFKA + "min_insync_replicas = 4", "journal: min_insync_replicas must not be more than replication_factor"),
    ],
)
def test_what_is_wrong_is_told(journal: str, fault: str) -> None:
    """With the key, and what to write."""
    (found,) = faults(f"[journal]\n{journal}")
    assert found.startswith(fault)


def test_a_sink_can_use_the_cluster_of_the_journal() -> None:
    """With the journal's servers and security. It is shown as it was written."""
    sink = '[sinks.k]\ntype = "kafka"\ncluster = "journal"\n'
    journal = f'[journal]\n{KAFKA}[journal.security]\nsasl = "PLAIN"\nusername = "u"\npassword = "p"\n'
    tables = tomllib.loads(journal + sink)
    loaded = config.parse(tables, {})
    servers, security = loaded.sinks["k"].settings.connection  # type: ignore[attr-defined]
    assert (servers, security.username) == ("one:9092,two:9092", "u")
    shown = effective(loaded, tables)["sinks"]["k"]
    assert shown["cluster"] == "journal"
    assert "bootstrap_servers" not in shown
    assert faults(sink) == ["sinks.k.cluster: the journal is not in Kafka: set bootstrap_servers instead"]
    assert faults(journal + sink + 'bootstrap_servers = "k:1"\n') == [
        'sinks.k: cluster = "journal" has bootstrap_servers and security of [journal]: remove these here'
    ]
    assert faults('[sinks.k]\ntype = "kafka"\n') == [
        'sinks.k: set bootstrap_servers, or cluster = "journal" if the journal is in Kafka'
    ]


def test_editors_know_both_types() -> None:
    """And that a journal has the keys of one of them only."""
    validator = Draft7Validator(schema())
    for text in ("", 'directory = "d"', KAFKA, f"{KAFKA}spill = false", f'{KAFKA}spill = {{ max_size = "2GiB" }}'):
        assert not list(validator.iter_errors(tomllib.loads(f"[journal]\n{text}")))
    for text in ('type = "kafka"', f'{KAFKA}directory = "d"', 'partitions = "3"', f"{KAFKA}spill = true"):
        assert list(validator.iter_errors(tomllib.loads(f"[journal]\n{text}")))


def test_what_can_change_while_it_is_open_depends_on_the_type() -> None:
    """The rest needs a restart."""
    assert journals.fixed(journals.EmbeddedSettings()) == ("type", "directory")
    fixed = journals.fixed(parsed(KAFKA))
    assert {"type", "bootstrap_servers", "prefix", "instance", "security"} <= {*fixed}
    assert "timeout" not in fixed
