"""The configuration: its keys, its defaults, and the messages for a wrong one."""

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

[sinks.archive]
type = "file"
start = "latest"
directory = "archive"
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


def faults(tables: dict[str, Any], environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.parse(tables, environment or {})
    assert str(caught.value) == "\n".join(caught.value.faults)
    return caught.value.faults


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
    }
    assert dump(found.admin) == {"listen": "127.0.0.1:4322"}
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
    """Uncompressed NDJSON, rotated after 256 MiB or an hour; batches of 20,000 records or 20 MiB; all categories."""
    (sink,) = config.load(None, {}).sinks.values()
    assert dump(sink.settings) == {
        "directory": "btfeed-data/files",
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
    assert dump(found.sinks["archive"].settings)["directory"] == "btfeed-data/files"


def test_an_empty_file_has_no_sinks(tmp_path: Path) -> None:
    """The default file sink exists only without a file."""
    assert load(tmp_path / "btfeed.toml", "").sinks == {}


def test_every_key_of_the_receiver_is_read(tmp_path: Path) -> None:
    """Sizes, times, addresses, and variables of the environment."""
    found = load(tmp_path / "btfeed.toml", EVERY_KEY, {"PASSWORD": "p", "TOKEN": "t", "KEY": "k"})
    assert dump(found.receiver) == {
        "listen": "[::1]:9000",
        "path": "/bt",
        "max_body": 1_572_864,
        "max_occurrences": 7,
        "basic_auth": {"username": "appmon", "password": Secret("p")},
        "bearer_tokens": [Secret("t"), Secret("xty")],
        "tls": {"certificate": "server.pem", "key": "server.key", "client_ca": "ca.pem"},
        "header_timeout": 1.0,
        "body_timeout": 2.0,
        "idle_timeout": 90.0,
        "max_connections": 3,
        "max_in_flight": 1_000_000_000,
        "queue_timeout": 0.5,
    }
    assert found.admin.listen == "localhost:0"


def test_every_key_of_journal_validation_and_record_is_read(tmp_path: Path) -> None:
    """A dotted attribute is one name, even though TOML reads it as nested tables."""
    found = load(tmp_path / "btfeed.toml", EVERY_KEY, {"PASSWORD": "p", "TOKEN": "t", "KEY": "k"})
    assert dump(found.journal) == {
        "type": "sqlite",
        "directory": "/data",
        "max_size": 2**40,
        "when_full": "drop-oldest",
        "retention": 129_600.0,
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
        "directory": "archive",
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


def test_all_errors_are_reported_at_once() -> None:
    """Otherwise a user would have to start btfeed once for each error."""
    tables = {
        "receiver": {"listen": "4321", "max_body": 5, "max_occurrences": 1.5, "lisen": "x", "tls": {"key": "k"}},
        "admin": 5,
        "jornal": {},
        "journal": {"retention": "1 week", "when_full": "wait"},
        "record": {"type": "{nam}", "attributes": {"a": {"b": [1]}}},
        "sinks": {
            "a": {"type": "file", "delivery": {"max_recods": 1, "in_flight": 2}, "rotate_sise": "1MiB"},
            "b": {"type": "fil"},
            "c": {},
            "d": 3,
        },
    }
    found = faults(tables)
    assert {fault.partition(": ")[0] for fault in found} == {
        "receiver.listen", "receiver.max_body", "receiver.max_occurrences", "receiver.lisen", "receiver.tls.certificate",
        "admin", "jornal", "journal.retention", "journal.when_full", "record.type", "record.attributes",
        "sinks.a.delivery.max_recods", "sinks.a.delivery.in_flight", "sinks.a.rotate_sise", "sinks.b.type",
        "sinks.c.type", "sinks.d",
    }  # fmt: skip
    assert len(found) == 17


@pytest.mark.parametrize(
    ("tables", "fault"),
    [
        ({"reciever": {}}, "reciever: unknown key; did you mean receiver?"),
        ({"receiver": {"lisen": "x"}}, "receiver.lisen: unknown key; did you mean listen?"),
        (
            {"receiver": {"zzz": "x"}},
            "receiver.zzz: unknown key; known keys: listen, path, max_body, max_occurrences, ",
        ),
        ({"receiver": {"basic_auth": {"username": "u"}}}, "receiver.basic_auth.password: is required"),
        (
            {"receiver": {"basic_auth": {"username": "u", "password": "p", "pasword": ""}}},
            "receiver.basic_auth.pasword: unknown key; did you mean password?",
        ),
        ({"receiver": {"tls": {"certificate": "c"}}}, "receiver.tls.key: is required"),
        ({"receiver": 3}, "receiver: must be a table: write [receiver] and its keys below"),
        ({"receiver": {"tls": "server.pem"}}, "receiver.tls: must be a table: write [receiver.tls] and its keys below"),
        ({"receiver": {"path": "bt"}}, "receiver.path: invalid path: start it with / and leave out ? and #"),
        ({"receiver": {"path": 1}}, 'receiver.path: must be text in quotes, for example "value"'),
        ({"receiver": {"max_occurrences": 0}}, "receiver.max_occurrences: must be at least 1"),
        ({"receiver": {"max_occurrences": True}}, "receiver.max_occurrences: must be an integer, for example 10"),
        ({"receiver": {"bearer_tokens": "a"}}, 'receiver.bearer_tokens: must be a list, for example ["a", "b"]'),
        ({"receiver": {"bearer_tokens": [""]}}, "receiver.bearer_tokens.0: must not be empty"),
        ({"record": {"privacy": {"mask_ip": 1}}}, "record.privacy.mask_ip: must be true or false"),
        ({"record": {"privacy": {"hash": ["client.ip"]}}}, "record.privacy: hash needs a key"),
        ({"record": {"privacy": {"drop": ["event.id"]}}}, "record.privacy.drop.0: every record needs event.id"),
        ({"record": {"privacy": {"drop": ["clientip"]}}}, "record.privacy.drop.0: 'clientip' is no field of a record"),
        ({"record": {"privacy": {"hash": ["duration"], "key": "k"}}}, "record.privacy.hash.0: duration is no text"),
        ({"record": {"provider": "{app}"}}, "record.provider: unknown placeholder {app}; known are {name}, {application}"),
        (
            {"record": {"attributes": {"a": float("nan")}}},
            "record.attributes: a constant is text, a number or a boolean: a",
        ),
        ({"sinks": 3}, "sinks: must be a table: write [sinks.NAME] for each sink"),
        ({"sinks": {"": {"type": "file"}}}, "sinks.: a sink needs a name: write [sinks.NAME]"),
        (
            {"sinks": {"a": {"type": "fiel"}}},
            "sinks.a.type: unknown sink type 'fiel'; did you mean 'file'? Known types: bizevents, elasticsearch, file, ",
        ),
        ({"sinks": {"a": {"type": "xyz"}}}, "sinks.a.type: unknown sink type; known types: bizevents, "),
        ({"sinks": {"a": {"type": 3}}}, "sinks.a.type: unknown sink type; known types: bizevents, "),
        ({"sinks": {"a": {"directory": "x"}}}, "sinks.a.type: is required; known types: bizevents, "),
        (
            {"sinks": {"a": "file"}},
            "sinks.a: must be a table with a type: write [sinks.a] and below it, for example, type = ",
        ),
        ({"sinks": {"a": {"type": "file", "filtr": {}}}}, "sinks.a.filtr: unknown key; did you mean filter?"),
        (
            {"sinks": {"a": {"type": "file", "delivery": {"in_flight": 2}}}},
            "sinks.a.delivery.in_flight: must be 1: a file sink writes one batch at a time",
        ),
        ({"sinks": {"a": {"type": "file", "compression": "lz4"}}}, 'sinks.a.compression: must be "none", "gzip", '),
        ({"sinks": {"a": {"type": "file", "compression": "deflate"}}}, "sinks.a: ndjson files can't have compression"),
        (
            {"sinks": {"a": {"type": "file", "filter": {"category": ["x"]}}}},
            'sinks.a.filter.category.0: must be "purepath", ',
        ),
    ],
)
def test_an_error_says_where_what_and_how_to_fix_it(tables: dict[str, Any], fault: str) -> None:
    """One line with the path of the key, what is wrong, and what to write."""
    (found,) = faults(tables)
    assert found.startswith(fault)


@pytest.mark.parametrize("size", [5, "5", "MiB", "5 mib", "-1B", "1e3B", "", True])
def test_a_size_has_a_number_and_a_unit(size: object) -> None:
    """A number without a unit is an error: it could be bytes or megabytes."""
    assert faults({"journal": {"max_size": size}})[0].startswith('journal.max_size: write a size as a string like "64MiB"')


@pytest.mark.parametrize("time", [5, "5", "h", "1w", "-1s", "1 h x", "", 1.5])
def test_a_time_has_a_number_and_a_unit(time: object) -> None:
    """A number without a unit is an error: it could be seconds or milliseconds."""
    assert faults({"journal": {"retention": time}})[0].startswith("journal.retention: write a time as a string like")


@pytest.mark.parametrize("address", ["4321", ":4321", "host", "host:x", "host:70000", "::1:80", "host:80/path", ""])
def test_an_address_has_a_host_and_a_port(address: str) -> None:
    """An address that the operating system would reject or misread is an error."""
    assert faults({"admin": {"listen": address}}) == [
        "admin.listen: invalid address: write host:port, for example 127.0.0.1:4321 or [::]:4321"
    ]


def test_a_missing_variable_is_one_error() -> None:
    """It is named, wherever it is used, and errors that follow from it are not reported."""
    tables = {
        "receiver": {"listen": "${LISTEN}", "bearer_tokens": ["${A}", "${B}"]},
        "record": {"privacy": {"hash": ["user.name"], "key": "${KEY}"}},
    }
    assert faults(tables, {"A": "a"}) == [
        "receiver.listen: environment variable LISTEN is not set",
        "receiver.bearer_tokens.1: environment variable B is not set",
        "record.privacy.key: environment variable KEY is not set",
    ]


def test_secrets_are_never_in_an_error() -> None:
    """More people read logs and terminals than the environment."""
    secret = "hunter2"
    tables = {
        "receiver": {
            "listen": "${S}", "path": "${S}", "max_body": "${S}", "header_timeout": "${S}", "max_occurrences": "${S}",
            "basic_auth": "${S}", "bearer_tokens": {"a": "${S}"}, "tls": ["${S}"], "unknown": "${S}",
        },
        "validation": {"missing": "${S}"},
        "record": {"privacy": {"key": ["${S}"], "mask_ip": "${S}"}, "attributes": {"a": ["${S}"]}},
        "sinks": {"a": {"type": "${S}"}, "b": {"type": "file", "format": "${S}", "start": "${S}"}},
    }  # fmt: skip
    assert secret not in "\n".join(faults(tables, {"S": secret})).lower()


def test_invalid_toml_is_reported_with_file_and_line(tmp_path: Path) -> None:
    """And with the column."""
    path = tmp_path / "btfeed.toml"
    with pytest.raises(ConfigError, match=r"btfeed\.toml is not valid TOML: .*line 2, column 8"):
        load(path, '[receiver]\nlisten "127.0.0.1:1"\n')
    path.write_bytes(b"# \xff\n")
    with pytest.raises(ConfigError, match=r"btfeed\.toml is not valid TOML: .*utf-8"):
        config.load(path, {})


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    """Such as a missing one or a directory."""
    with pytest.raises(ConfigError, match=r"can\'t read .*nowhere\.toml: No such file or directory"):
        config.load(tmp_path / "nowhere.toml", {})
    with pytest.raises(ConfigError, match="Is a directory"):
        config.load(tmp_path, {})
