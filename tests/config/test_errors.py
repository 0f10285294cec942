"""The error messages for wrong configurations."""

from pathlib import Path
from typing import Any

import pytest

from btfeed import config
from btfeed.faults import ConfigError


def faults(tables: dict[str, Any], environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.parse(tables, environment or {})
    assert str(caught.value) == "\n".join(caught.value.faults)
    return caught.value.faults


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
        "admin", "jornal", "journal.retention", "journal.when_full", "record.type", "record.attributes.a.b",
        "sinks.a.delivery.max_recods", "sinks.a.delivery.in_flight", "sinks.a.rotate_sise", "sinks.b.type",
        "sinks.c.type", "sinks.d",
    }  # fmt: skip
    assert len(found) == 17


@pytest.mark.parametrize(
    ("tables", "found"),
    [
        (
            {"record": {"type": "{x}", "privacy": {"hash": ["user.name"], "mask_ip": 1}}},
            ["record.type", "record.privacy", "record.privacy.mask_ip"],
        ),
        (
            {"sinks": {"k": {"type": "kafka", "format": "avro", "topic": 1, "timeout": "1s", "request_timeout": "2s"}}},
            ["sinks.k", "sinks.k.topic"],
        ),
        ({"sinks": {"k": {"type": "kafka", "bootstrap_servers": "k:1", "format": "avo"}}}, ["sinks.k.format"]),
        (
            {"sinks": {"e": {"type": "elasticsearch", "hosts": ["http://e"], "auth": {"api_kye": "x"}}}},
            ["sinks.e.auth.api_kye"],
        ),
        (
            {"sinks": {"e": {"type": "elasticsearch", "hosts": [], "auth": {"api_key": "", "bearer": "x"}}}},
            ["sinks.e.hosts", "sinks.e.auth", "sinks.e.auth.api_key"],
        ),
        ({"sinks": {"b": {"type": "bizevents", "url": "ftp://e"}}}, ["sinks.b", "sinks.b.url"]),
        ({"sinks": {"b": {"type": "bizevents", "url": "https://e", "api_token": ""}}}, ["sinks.b.api_token"]),
        ({"sinks": {"f": {"type": "file", "mode": 1, "compression": "deflate"}}}, ["sinks.f", "sinks.f.mode"]),
        (
            {"record": {"type": "{x}", "privacy": {"drop": ["event.name"]}},
             "sinks": {"f": {"type": "fil", "filter": {"name": ["n"]}}}},
            ["record.type", "sinks.f.filter.name", "sinks.f.type"],
        ),
        ({"sinks": {"f": {"typ": "file", "directory": "d"}}}, ["sinks.f.type", "sinks.f.typ"]),
        (
            {"sinks": {"f": {"hosts": ["h"], "zzz": 1, "start": "x", "delivery": {"linger": 1}}}},
            ["sinks.f.type", "sinks.f.zzz", "sinks.f.start", "sinks.f.delivery.linger"],
        ),
    ],
)  # fmt: skip
def test_rules_are_checked_as_far_as_the_keys_that_they_need_are_right(tables: dict[str, Any], found: list[str]) -> None:
    """Whatever else is wrong in the table; and what only follows from another error is not reported."""
    assert sorted(fault.partition(": ")[0] for fault in faults(tables)) == sorted(found)


def test_an_unknown_key_of_a_sink_without_a_type_is_one_that_no_type_has() -> None:
    """Which keys there are depends on the type, so they are not listed."""
    required, *unknown = faults({"sinks": {"f": {"typ": "file", "zzz": 1, "directry": "d", "hosts": 1}}})
    assert required.startswith("sinks.f.type: is required")
    assert unknown == [
        "sinks.f.typ: unknown key; did you mean type?",
        "sinks.f.zzz: unknown key: no type of sink has it",
        "sinks.f.directry: unknown key; did you mean directory?",
    ]


def test_several_rules_that_a_table_breaks_are_one_line() -> None:
    """So that none has to wait until the other is mended."""
    table = {"type": "kafka", "bootstrap_servers": "k:1", "format": "avro", "timeout": "1s", "request_timeout": "2s"}
    assert faults({"sinks": {"k": table}}) == [
        'sinks.k: set schema_registry if format is "avro", and only then; timeout must not be less than request_timeout'
    ]


@pytest.mark.parametrize("name", ["a\nb", "\t", "a\x1bb", "\x7f", "a\u2028b", "\u202eb", " "])
def test_a_name_of_a_sink_that_breaks_lines_is_an_error(name: str) -> None:
    """Which is one line itself."""
    (fault,) = faults({"sinks": {name: {"type": "file"}}})
    assert fault.startswith("sinks.")
    assert fault.isprintable()


@pytest.mark.parametrize("name", ["my sink", "größe", "売上", "a/b", "نمی\u200cخواهم", "a.b", "a\xa0b"])
def test_other_names_of_sinks_are_taken(name: str) -> None:
    """Files, topics and metrics can have them."""
    assert list(config.parse({"sinks": {name: {"type": "file"}}}, {}).sinks) == [name]


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
        ({"receiver": {"path": 1}}, 'receiver.path: must be text in quotes: write path = "1"'),
        ({"receiver": {"max_body": "0B"}}, "receiver.max_body: must be at least 1B"),
        ({"receiver": {"max_in_flight": "0B"}}, "receiver.max_in_flight: must be at least 1"),
        ({"receiver": {"header_timeout": "0s"}}, "receiver.header_timeout: must be greater than 0"),
        ({"receiver": {"body_timeout": "0s"}}, "receiver.body_timeout: must be greater than 0"),
        ({"receiver": {"idle_timeout": "0ms"}}, "receiver.idle_timeout: must be greater than 0"),
        (
            {"receiver": {"basic_auth": {"username": "u", "password": ""}}},
            "receiver.basic_auth.password: must not be empty",
        ),
        (
            {"receiver": {"tls": {"certificate": "c", "key": "k", "client_ca": ""}}},
            "receiver.tls.client_ca: must be the name of a file or a directory",
        ),
        ({"sinks": {"a": {"type": "file", "rotate_interval": "0s"}}}, "sinks.a.rotate_interval: must be greater than 0"),
        ({"sinks": {"a": {"type": "file", "rotate_size": "0B"}}}, "sinks.a.rotate_size: must be at least 1B"),
        ({"sinks": {"a": {"type": "file", "directory": "~/x"}}}, "sinks.a.directory: write the absolute path: ~ does not"),
        (
            {"receiver": {"tls": {"certificate": "~u/c", "key": "./~k"}}},
            "receiver.tls.certificate: write the absolute path",
        ),
        ({"journal": {"directory": ""}}, "journal.directory: must be the name of a file or a directory"),
        ({"journal": {"directory": "a\0b"}}, "journal.directory: must be the name of a file or a directory"),
        ({"journal": {"max_size": "1023KiB"}}, "journal.max_size: must be at least 1MiB"),
        (
            {"sinks": {"a": {"type": "file", "directory": ""}}},
            "sinks.a.directory: must be the name of a file or a directory",
        ),
        ({"record": {"type": "{name"}}, "record.type: a brace has no partner: write a placeholder like {name}"),
        ({"record": {"type": "{{name}}"}}, "record.type: a brace has no partner: write a placeholder like {name}"),
        ({"receiver": {"max_occurrences": 0}}, "receiver.max_occurrences: must be at least 1"),
        (
            {"receiver": {"max_occurrences": True}},
            "receiver.max_occurrences: must be an integer: write max_occurrences = 100000",
        ),
        ({"receiver": {"bearer_tokens": "a"}}, 'receiver.bearer_tokens: must be a list: write bearer_tokens = ["${NAME}"]'),
        ({"receiver": {"bearer_tokens": [""]}}, "receiver.bearer_tokens.0: must not be empty"),
        ({"record": {"privacy": {"mask_ip": 1}}}, "record.privacy.mask_ip: must be true or false"),
        ({"record": {"privacy": {"hash": ["client.ip"]}}}, "record.privacy: hash needs a key"),
        ({"record": {"privacy": {"drop": ["event.id"]}}}, "record.privacy.drop.0: every record needs event.id"),
        (
            {"record": {"privacy": {"drop": ["clientip"]}}},
            "record.privacy.drop.0: unknown record field; did you mean client.ip? docs/record.md lists the fields",
        ),
        (
            {"record": {"privacy": {"hash": ["duration"], "key": "k"}}},
            "record.privacy.hash.0: duration is not a text field: only text can be hashed",
        ),
        ({"record": {"provider": "{app}"}}, "record.provider: unknown placeholder {app}; known are {name}, {application}"),
        (
            {"record": {"attributes": {"a": float("nan")}}},
            "record.attributes.a: the number must be finite and at most 3.4e38, in either direction: write it as text",
        ),
        ({"sinks": 3}, "sinks: must be a table: write [sinks.NAME] for each sink"),
        ({"sinks": {"": {"type": "file"}}}, "sinks.: a sink needs a name: write [sinks.NAME]"),
        (
            {"sinks": {"a": {"type": "fiel"}}},
            'sinks.a.type: unknown sink type "fiel"; did you mean "file"? Known types: ',
        ),
        ({"sinks": {"a": {"type": "xyz"}}}, "sinks.a.type: unknown sink type; known types: "),
        ({"sinks": {"a": {"type": 3}}}, "sinks.a.type: unknown sink type; known types: "),
        ({"sinks": {"a": {"directory": "x"}}}, "sinks.a.type: is required; known types: "),
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


HASHES = '["78da91511e675587f5b9df78bedebaf5", "2fb39898cf6b5cadbde2377d14dbc733"]'


@pytest.mark.parametrize(
    ("privacy", "wanted", "message"),
    [
        ({"drop": ["event.name"]}, {"name": ["n"]},
         "name: matches nothing, because record.privacy drops event.name: remove one of them"),
        ({"drop": ["event.category"]}, {"category": ["visit"]},
         "category: matches nothing, because record.privacy drops event.category: remove one of them"),
        ({"hash": ["event.category"]}, {"category": ["visit"]},
         "category: matches nothing, because record.privacy hashes event.category: remove one of them"),
        ({"hash": ["appmon.application"]}, {"application": ["a", "b"]},
         f"application: matches nothing, because record.privacy hashes appmon.application: write the hashes, {HASHES}"),
    ],
)  # fmt: skip
def test_a_filter_by_values_that_no_record_has_is_an_error(
    privacy: dict[str, Any], wanted: dict[str, Any], message: str
) -> None:
    """Such a sink would get nothing, without a word. Filters see what privacy leaves in records."""
    sink = {"type": "file", "filter": wanted}
    tables = {"record": {"privacy": privacy | {"key": "k"}}, "sinks": {"s": sink, "t": {"type": "file"}}}
    assert faults(tables) == [f"sinks.s.filter.{message}"]


@pytest.mark.parametrize(
    ("privacy", "wanted"),
    [
        ({"drop": ["event.name"]}, {"name": [""], "application": ["a"]}),
        ({"hash": ["event.name"]}, {"name": ["78da91511e675587f5b9df78bedebaf5", ""], "category": ["visit"]}),
    ],
)
def test_filters_by_protected_values_are_taken(privacy: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Hashes, nothing, and fields that are not protected."""
    sink = {"type": "file", "filter": wanted}
    config.parse({"record": {"privacy": privacy | {"key": "k"}}, "sinks": {"s": sink}}, {})


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


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    """Such as a missing one or a directory."""
    with pytest.raises(ConfigError, match=r"can\'t read .*nowhere\.toml: No such file or directory"):
        config.load(tmp_path / "nowhere.toml", {})
    with pytest.raises(ConfigError, match="Is a directory"):
        config.load(tmp_path, {})
