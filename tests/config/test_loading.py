"""The keys of the configuration and their defaults."""

from pathlib import Path
from typing import Any

import pytest

from btfeed import config
from btfeed.config import Config
from btfeed.faults import ConfigError
from sinks.settings import Secret, Settings

EVERY_KEY = """
[receiver]
listen = "[::1]:9000"
path = "/bt"
max_body = "1.5MiB"
max_occurrences = 7
basic_auth = { username = "appmon", password = "${PASSWORD}" }
bearer_tokens = ["${TOKEN}", "x${TOKEN}y"]
tls = { certificate = "server.pem", key = "server.key", client_ca = "ca.pem" }
header_timeout = "1s"
body_timeout = "2s"
idle_timeout = "1m30s"
max_connections = 3
max_in_flight = "1GB"
queue_timeout = "500ms"

[admin]
listen = "localhost:0"

[journal]
type = "sqlite"
directory = "/data"
max_size = "1TiB"
when_full = "drop-oldest"
retention = "1.5d"
dead_letters = "2MB"
refused_posts = "1kB"

[validation]
missing = "dead-letter"
unexpected = "drop"

[record]
provider = "{server}/{system_profile}"
type = "{category} {name} {application}"
[record.attributes]
environment = "production"
dt.entity.host = "HOST-1"
dt.security_context = "team"
nested = { number = 1.5, flag = true }
[record.privacy]
drop = ["user.name", "appmon.dimension.customer"]
hash = ["client.ip"]
key = "${KEY}"
mask_ip = true

[opentelemetry]
enabled = true
endpoint = "https://collector:4318/otlp"
traces = 0.25
metrics_interval = "30s"
[opentelemetry.headers]
authorization = "${TOKEN}"
x-tenant = "shop"
[opentelemetry.attributes]
"deployment.environment.name" = "production"

[sinks.archive]
type = "file"
start = "latest"
directory = "archive"
mode = "0640"
format = "avro"
compression = "deflate"
rotate_size = "1GiB"
rotate_interval = "10m"
[sinks.archive.delivery]
max_records = 10
max_bytes = "20B"
linger = "30ms"
in_flight = 1
max_age = "23h55m"
retry_initial = "40ms"
retry_max = "50s"
[sinks.archive.filter]
category = ["visit", "unknown"]
application = ["easyTravel"]
name = ["Checkout"]
"""


def dump(settings: Settings) -> dict[str, Any]:
    return settings.model_dump()


def load(path: Path, text: str, environment: dict[str, str] | None = None) -> Config:
    path.write_text(text)
    return config.load(path, environment or {})


def test_defaults_of_receiver_and_admin() -> None:
    """Without a file: loopback ports 4321 and 4322, no credentials, and one file sink."""
    found = config.load(None, {})
    assert dump(found.receiver) == {
        "listen": "127.0.0.1:4321",
        "path": "/",
        "max_body": 16_777_216,
        "max_occurrences": 100_000,
        "basic_auth": None,
        "bearer_tokens": [],
        "tls": None,
        "header_timeout": 5.0,
        "body_timeout": 30.0,
        "idle_timeout": 75.0,
        "max_connections": 1000,
        "max_in_flight": 67_108_864,
        "queue_timeout": 5.0,
        "workers": 1,
    }
    assert dump(found.admin) == {"listen": "127.0.0.1:4322", "token": None}
    assert list(found.sinks) == ["files"]
    assert found.sinks["files"].common.type == "file"


def test_defaults_of_the_journal_validation_and_record() -> None:
    """10 GiB, refusing when full, a day of retention. Violations are reported, names are as AppMon sends them."""
    found = config.load(None, {})
    assert dump(found.journal) == {
        "type": "sqlite",
        "directory": "btfeed-data",
        "max_size": 10_737_418_240,
        "when_full": "refuse",
        "retention": 86_400.0,
        "dead_letters": 1_073_741_824,
        "refused_posts": 67_108_864,
    }
    assert dump(found.validation) == {"missing": "report", "unexpected": "report"}
    assert dump(found.record) == {
        "provider": "{application}",
        "type": "{name}",
        "attributes": {},
        "privacy": {"drop": [], "hash": [], "key": Secret(""), "mask_ip": False},
    }


def test_defaults_of_a_file_sink() -> None:
    """Private and uncompressed NDJSON, a new file after 256 MiB or an hour; batches of 20,000 or 20 MiB; all categories."""
    (sink,) = config.load(None, {}).sinks.values()
    assert dump(sink.settings) == {
        "directory": "btfeed-data/files",
        "mode": "0600",
        "format": "ndjson",
        "compression": "none",
        "rotate_size": 268_435_456,
        "rotate_interval": 3600.0,
    }
    assert dump(sink.common) == {
        "type": "file",
        "start": "oldest",
        "delivery": {
            "max_records": 20_000,
            "max_bytes": 20_971_520,
            "linger": 0.2,
            "in_flight": 1,
            "max_age": None,
            "retry_initial": 1.0,
            "retry_max": 60.0,
        },
        "filter": {"category": [], "application": [], "name": []},
    }


def test_a_sink_needs_only_its_type(tmp_path: Path) -> None:
    """A table with a type is enough."""
    found = load(tmp_path / "btfeed.toml", '[sinks.archive]\ntype = "file"\n')
    assert dump(found.sinks["archive"].settings)["directory"] == str(tmp_path / "btfeed-data/files")


def test_an_empty_file_has_no_sinks(tmp_path: Path) -> None:
    """The default file sink exists only without a file."""
    assert load(tmp_path / "btfeed.toml", "").sinks == {}


def test_every_key_of_the_receiver_is_read(tmp_path: Path) -> None:
    """Sizes, times, addresses, and variables of the environment."""
    files = {"certificate": "server.pem", "key": "server.key", "client_ca": "ca.pem"}
    found = load(tmp_path / "btfeed.toml", EVERY_KEY, {"PASSWORD": "p", "TOKEN": "t", "KEY": "k"})
    assert dump(found.receiver) == {
        "listen": "[::1]:9000",
        "path": "/bt",
        "max_body": 1_572_864,
        "max_occurrences": 7,
        "basic_auth": {"username": "appmon", "password": Secret("p")},
        "bearer_tokens": [Secret("t"), Secret("xty")],
        "tls": {name: str(tmp_path / file) for name, file in files.items()},
        "header_timeout": 1.0,
        "body_timeout": 2.0,
        "idle_timeout": 90.0,
        "max_connections": 3,
        "max_in_flight": 1_000_000_000,
        "queue_timeout": 0.5,
        "workers": 1,
    }
    assert found.admin.listen == "localhost:0"


def test_whitespace_around_a_variable_is_ignored_with_a_warning(tmp_path: Path) -> None:
    """A secret often gets a newline from the file that it was read from. The warning does not show the value."""
    environment = {"PASSWORD": "p w\n", "TOKEN": " \tt", "KEY": "k"}
    found = load(tmp_path / "btfeed.toml", EVERY_KEY, environment)
    assert dump(found.receiver)["basic_auth"] == {"username": "appmon", "password": Secret("p w")}
    assert dump(found.receiver)["bearer_tokens"] == [Secret("t"), Secret("xty")]
    assert found.warnings == tuple(
        f"environment variable {name} has whitespace at its ends, which is ignored" for name in ("PASSWORD", "TOKEN")
    )
    assert load(tmp_path / "btfeed.toml", EVERY_KEY, dict.fromkeys(environment, "x")).warnings == ()


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    assert load(tmp_path / "btfeed.toml", "\ufeff[receiver]\npath = '/bt'\n").receiver.path == "/bt"


def test_every_key_of_journal_validation_and_record_is_read(tmp_path: Path) -> None:
    """A dotted attribute is one name, even though TOML reads it as nested tables."""
    found = load(tmp_path / "btfeed.toml", EVERY_KEY, {"PASSWORD": "p", "TOKEN": "t", "KEY": "k"})
    assert dump(found.journal) == {
        "type": "sqlite",
        "directory": "/data",
        "max_size": 2**40,
        "when_full": "drop-oldest",
        "retention": 129_600.0,
        "dead_letters": 2_000_000,
        "refused_posts": 1000,
    }
    assert dump(found.validation) == {"missing": "dead-letter", "unexpected": "drop"}
    assert found.record.attributes == {
        "environment": "production",
        "dt.entity.host": "HOST-1",
        "dt.security_context": "team",
        "nested.number": 1.5,
        "nested.flag": True,
    }
    privacy = {"drop": ["user.name", "appmon.dimension.customer"], "hash": ["client.ip"], "mask_ip": True}
    assert dump(found.record.privacy) == privacy | {"key": Secret("k")}


def test_every_key_of_a_sink_is_read(tmp_path: Path) -> None:
    """Those of its type, and those of every sink."""
    sink = load(tmp_path / "btfeed.toml", EVERY_KEY, {"PASSWORD": "p", "TOKEN": "t", "KEY": "k"}).sinks["archive"]
    assert dump(sink.settings) == {
        "directory": str(tmp_path / "archive"),
        "mode": "0640",
        "format": "avro",
        "compression": "deflate",
        "rotate_size": 2**30,
        "rotate_interval": 600.0,
    }
    assert sink.common.start == "latest"
    assert dump(sink.common.delivery) == {
        "max_records": 10,
        "max_bytes": 20,
        "linger": 0.03,
        "in_flight": 1,
        "max_age": 86_100.0,
        "retry_initial": 0.04,
        "retry_max": 50.0,
    }
    assert dump(sink.common.filter) == {
        "category": ["visit", "unknown"],
        "application": ["easyTravel"],
        "name": ["Checkout"],
    }


def test_delivery_limits_of_a_type_can_be_set_in_the_table_of_the_sink() -> None:
    """Those for which the type has its own defaults. Setting one in both places is an error."""
    table = {
        "type": "bizevents",
        "url": "https://abc.live.dynatrace.com",
        "api_token": "t",
        "max_records": 100,
        "max_age": "1h",
    }
    found = config.parse({"sinks": {"dt": table}}, {}).sinks["dt"].common.delivery
    assert (found.max_records, found.max_age, found.max_bytes, found.in_flight) == (100, 3600.0, 4_718_592, 4)
    with pytest.raises(ConfigError) as raised:
        config.parse({"sinks": {"dt": table | {"delivery": {"max_records": 5}}}}, {})
    assert raised.value.faults == ["sinks.dt.max_records: is also set in [sinks.dt.delivery]: remove one of the two"]


def test_workers_need_a_journal_that_they_can_share(tmp_path: Path) -> None:
    """With SQLite, more than one is an error, which says why. With Kafka it is allowed."""
    with pytest.raises(ConfigError, match="one process writes the journal's file") as caught:
        load(tmp_path / "btfeed.toml", "[receiver]\nworkers = 2\n")
    assert [fault.partition(":")[0] for fault in caught.value.faults] == ["receiver.workers"]
    assert "for `btfeed receive` and `btfeed deliver`" in str(caught.value.faults)  # which may be what is run
    kafka = '[receiver]\nworkers = 2\n[journal]\ntype = "kafka"\nbootstrap_servers = "k:9092"\n'
    assert load(tmp_path / "btfeed.toml", kafka).receiver.workers == 2
