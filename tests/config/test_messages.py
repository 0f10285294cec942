"""No message is in pydantic's words: each says what to write, with the user's own key."""

import sys
from collections.abc import Iterator
from datetime import date
from types import ModuleType
from typing import Any

import pytest

import sinks
from btfeed import config
from btfeed.config import Sections
from btfeed.delivery.settings import DeliverySettings
from btfeed.delivery.sink_config import CommonSettings
from btfeed.faults import FOREIGN, MESSAGES, OWN, TABLE_EXPECTED, ConfigError, Faults, _is_key, validate
from btfeed.traffic.profile import Profile
from sinks.settings import Settings

ALL: list[type[Settings]] = [Sections, CommonSettings, Profile, *(sinks.load(name).settings for name in sinks.types())]
FILE_KEYS = [*sinks.load("file").settings.model_fields, *CommonSettings.model_fields]
TYPES = "nown types: bizevents, elasticsearch, file, kafka"


def faults(tables: dict[str, Any], environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        config.parse(tables, environment or {})
    return raised.value.faults


def sink(kind: str, **keys: Any) -> dict[str, Any]:
    needed: dict[str, dict[str, Any]] = {"kafka": {"bootstrap_servers": "k:1"}, "elasticsearch": {"hosts": ["http://e"]}}
    return {"sinks": {"s": {"type": kind} | needed.get(kind, {}) | keys}}


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (sink("elasticsearch", hosts="http://e:9200"), 'sinks.s.hosts: must be a list: write hosts = ["http://..."]'),
        (sink("elasticsearch", hosts="https://u:p@e"), 'sinks.s.hosts: must be a list: write hosts = ["https://..."]'),
        (sink("elasticsearch", hosts="e"), 'sinks.s.hosts: must be a list: write hosts = ["..."]'),
        (sink("elasticsearch", hosts=[]), "sinks.s.hosts: must not be empty"),
        (sink("elasticsearch", hosts=[1]), 'sinks.s.hosts.0: must be text in quotes: write hosts = ["1"]'),
        (sink("file", filter={"category": "visit"}), 'sinks.s.filter.category: must be a list: write category = ["visit"]'),
        (sink("file", filter={"category": 1}), 'sinks.s.filter.category: must be a list: write category = ["purepath"]'),
        (sink("file", filter={"name": "n"}), 'sinks.s.filter.name: must be a list: write name = ["..."]'),
        ({"receiver": {"bearer_tokens": "t"}}, 'receiver.bearer_tokens: must be a list: write bearer_tokens = ["${NAME}"]'),
        ({"receiver": {"bearer_tokens": [12345]}},
         'receiver.bearer_tokens.0: must be text in quotes: write bearer_tokens = ["${NAME}"]'),
        ({"receiver": {"basic_auth": {"username": 5, "password": "p"}}},
         'receiver.basic_auth.username: must be text in quotes: write username = "5"'),
        ({"receiver": {"basic_auth": {"username": "u", "password": 12345}}},
         'receiver.basic_auth.password: must be text in quotes: write password = "${NAME}"'),
        ({"receiver": {"listen": 4321}}, 'receiver.listen: must be text in quotes: write listen = "127.0.0.1:4321"'),
        ({"receiver": {"listen": 9000}}, 'receiver.listen: must be text in quotes: write listen = "127.0.0.1:9000"'),
        ({"admin": {"listen": 99999}}, 'admin.listen: must be text in quotes: write listen = "127.0.0.1:4322"'),
        ({"admin": {"listen": True}}, 'admin.listen: must be text in quotes: write listen = "127.0.0.1:4322"'),
        ({"receiver": {"path": ["/"]}}, 'receiver.path: must be text in quotes: write path = "/"'),
        ({"receiver": {"max_connections": "10"}},
         "receiver.max_connections: must be an integer: write max_connections = 10"),
        ({"receiver": {"max_connections": "many"}},
         "receiver.max_connections: must be an integer: write max_connections = 1000"),
        (sink("kafka", create_topics="off"), "sinks.s.create_topics: must be true or false: write create_topics = false"),
        (sink("file", delivery={"in_flight": "4"}),
         "sinks.s.delivery.in_flight: must be an integer: write in_flight = 4"),
        (sink("kafka", create_topics="yes"), "sinks.s.create_topics: must be true or false: write create_topics = true"),
        (sink("kafka", partitions="3"), "sinks.s.partitions: must be an integer: write partitions = 3"),
        (sink("flie"), f'sinks.s.type: unknown sink type "flie"; did you mean "file"? K{TYPES}'),
        (sink("elastic"), f"sinks.s.type: unknown sink type; k{TYPES}"),
        (sink("file", batch_size=5), "sinks.s.batch_size: unknown key; did you mean delivery.max_records?"),
        (sink("file", batchSize=5), "sinks.s.batchSize: unknown key; did you mean delivery.max_records?"),
        (sink("file", folder="x"), "sinks.s.folder: unknown key; did you mean directory?"),
        (sink("file", zzz=5), f"sinks.s.zzz: unknown key; known keys: {', '.join(FILE_KEYS)}"),
        (sink("file", filter={"status": "x"}),
         "sinks.s.filter.status: unknown key; known keys: category, application, name"),
        (sink("file", filter={"categories": []}),
         "sinks.s.filter.categories: unknown key; did you mean category? Known keys: category, application, name"),
        (sink("file", delivery={"batch_size": 1}),
         f"sinks.s.delivery.batch_size: unknown key; known keys: {', '.join(DeliverySettings.model_fields)}"),
        (sink("elasticsearch", api_key="x"), "sinks.s.api_key: unknown key; did you mean auth.api_key?"),
        (sink("elasticsearch", auth={"basic": {"username": "a:b", "password": "p"}}),
         "sinks.s.auth.basic.username: must be a name without colons and control characters"),
        (sink("kafka", brokers="k:1"), "sinks.s.brokers: unknown key; did you mean bootstrap_servers?"),
        ({"receiver": {"port": 1}}, "receiver.port: unknown key; did you mean listen?"),
        ({"receiver": {"max-body": "1MiB"}}, "receiver.max-body: unknown key; did you mean max_body?"),
        ({"sink": {}}, f"sink: unknown key; did you mean sinks? Known keys: {', '.join(Sections.model_fields)}"),
    ],
)  # fmt: skip
def test_a_mistake_that_people_make_is_answered_with_what_to_write(tables: dict[str, Any], message: str) -> None:
    """The example has the user's kind of value, a reference in place of a secret, and never a value that may be one."""
    assert faults(tables) == [message]


# What pydantic can find, by the kinds of its validators. Their constraints are errors, too.
FOUND = {
    "any": (), "bool": ("bool_type",), "int": ("int_type", "int_parsing_size"), "str": ("string_type",),
    "float": ("float_type", "float_parsing", "finite_number"), "literal": ("literal_error",), "list": ("list_type",),
    "dict": ("dict_type",), "model": ("model_type", "model_attributes_type"),
    "model-fields": ("missing", "extra_forbidden"),
    "function-before": ("value_error", "assertion_error"), "function-after": ("value_error", "assertion_error"),
    "default": (), "nullable": (), "model-field": (), "definitions": (), "definition-ref": (),
    "union": ("string_type",), "json-or-python": (), "lax-or-strict": (), "is-instance": (),  # SecretStr
    "no-info": (), "with-info": (),
}  # fmt: skip
CONSTRAINTS = {
    ("str", "min_length"): "string_too_short", ("str", "pattern"): "string_pattern_mismatch",
    ("list", "min_length"): "too_short", ("list", "max_length"): "too_long",
    **{(kind, name): error for kind in ("int", "float") for name, error in
       (("ge", "greater_than_equal"), ("gt", "greater_than"), ("le", "less_than_equal"), ("lt", "less_than"))},
}  # fmt: skip
OTHERS = {"type", "schema", "metadata", "serialization", "ref", "strict", "default", "function", "expected"}


def errors_of(schema: Any) -> Iterator[str]:
    """The types of errors that this validator, and those inside it, can report."""
    if isinstance(schema, (list, tuple)):
        for item in schema:
            yield from errors_of(item)
    elif isinstance(schema, dict):
        kind = schema.get("type")
        if isinstance(kind, str):
            yield from FOUND[kind]
            if kind in ("str", "int", "float", "list"):
                for name in schema.keys() - OTHERS - {"items_schema"}:
                    yield CONSTRAINTS[kind, name]
        for name, value in schema.items():
            if name not in ("metadata", "serialization", "default", "json_schema"):
                yield from errors_of(value)


def test_every_error_that_pydantic_can_find_has_words_of_ours() -> None:
    """For all settings, of every sink and of profiles. A new kind of validator or constraint fails here first."""
    found = {error for model in ALL for error in errors_of(model.__pydantic_core_schema__)}
    assert found - {"extra_forbidden"} <= {*MESSAGES, *TABLE_EXPECTED, *OWN}
    assert len(found) > 15


WRONG = [
    5,
    -1,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    True,
    "",
    "SECRET",
    "http://SECRET",
    [],
    ["SECRET"],
    [1],
    {},
    {"SECRET": 1},
]


def tables_of(model: type[Settings]) -> Iterator[type[Settings]]:
    yield model
    for field in model.model_fields.values():
        stack = [field.annotation]
        while stack:
            hint = stack.pop()
            stack += getattr(hint, "__args__", ())
            if isinstance(hint, type) and issubclass(hint, Settings):
                yield from tables_of(hint)


TABLES = sorted({each for top in ALL for each in tables_of(top)}, key=str)


@pytest.mark.parametrize("model", TABLES, ids=lambda model: model.__name__)
def test_no_wrong_value_of_any_key_is_answered_in_the_words_of_pydantic(model: type[Settings]) -> None:
    """Whatever type of TOML it has; nor is a text shown that may be a secret."""
    for key in model.model_fields:
        for value in WRONG:
            found = Faults()
            validate(model, {key: value}, ("t",), found)
            for message in found.values():
                assert "nput should" not in message
                assert "Value error" not in message
                assert "valid " not in message.replace("invalid ", "")
                assert "SECRET" not in message, (key, value)


@pytest.mark.parametrize("model", [each for each in TABLES if each is not Profile], ids=lambda model: model.__name__)
def test_no_url_may_contain_credentials(model: type[Settings]) -> None:
    """They have keys of their own, which are not shown; and the error does not show them either."""
    for key in model.model_fields:
        if key == "hosts" or key.endswith("url"):
            url = "https://user:SECRET@host"
            found = Faults()
            validate(model, {key: [url] if key == "hosts" else url}, ("t",), found)
            (message,) = (message for path, message in found.items() if path.startswith(f"t.{key}"))
            assert "write credentials in their own keys" in message
            assert "SECRET" not in message


def test_a_type_of_another_package_is_not_in_the_words_of_pydantic_either() -> None:
    """Whatever its settings use."""

    class Table(Settings):
        when: date

    found = Faults()
    validate(Table, {"when": "x"}, ("t",), found)
    assert found == {"t.when": "must be a valid date"}


def test_every_suggestion_for_a_foreign_name_is_a_key() -> None:
    """Of some table: a renamed key would be suggested under its old name."""
    assert [target for targets in FOREIGN.values() for target in targets if not _is_key(target, TABLES)] == []


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'driver'"), SyntaxError("bad"), RuntimeError("at import")]
)
def test_a_sink_module_that_can_not_be_imported_is_a_fault_of_its_type(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason, and beside all other faults."""

    class Broken(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise error

    monkeypatch.setitem(sys.modules, "sinks.file", Broken("sinks.file"))
    assert faults({"admin": 5, "sinks": {"s": {"type": "file"}}}) == [
        "admin: must be a table: write [admin] and its keys below",
        f'sinks.s.type: the type "file" can\'t be loaded: {type(error).__name__}: {error}',
    ]
