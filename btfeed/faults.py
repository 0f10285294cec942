"""Errors in a configuration or a profile: all of them at once, each with its path and in plain English.

An error shows an example of what to write, with the user's own key. It never shows the user's value, which may be a secret,
except for numbers where no secret can be.
"""

import difflib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pydantic import ValidationError, create_model

from sinks.settings import BASE, Seconds, Secret, Settings, Size, size_text, time_text

S = TypeVar("S", bound=Settings)
Location = tuple[int | str, ...]

SIMILAR = 0.75
"""How much of two words must match, in their order, for one to be suggested instead of the other."""
FEW = 8
"""Keys of a table that are all listed, even if one of them resembles the unknown one."""
MESSAGES = {
    "missing": "is required",
    "list_type": "must be a list",
    "string_type": "must be text in quotes",
    "int_type": "must be an integer",
    "int_parsing_size": "must be at most 9223372036854775807, in either direction",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "literal_error": "must be {expected}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "string_too_short": "must have at least {min_length} characters",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "string_pattern_mismatch": "must match the pattern {pattern}",
}
"""Type of a pydantic error -> what we say instead. The placeholders are names of the error's context."""
ONE, SEVERAL = BRANCHES = ("constrained-str", "list[constrained-str]")
"""What pydantic calls the two types of a key that takes a text or a list of texts; it is no part of the key's path."""
TABLE_EXPECTED = ("model_type", "model_attributes_type", "dict_type")
OWN = ("value_error", "assertion_error")
"""Errors of our own validators, which say themselves what is wrong."""
FOREIGN = {
    "batch_size": ("delivery.max_records",), "batch_max_events": ("delivery.max_records",),
    "bulk_size": ("delivery.max_records",), "max_batch_size": ("delivery.max_records",),
    "batch_bytes": ("delivery.max_bytes",), "max_batch_bytes": ("delivery.max_bytes",),
    "flush_interval": ("delivery.linger",), "linger_ms": ("delivery.linger",), "batch_timeout": ("delivery.linger",),
    "concurrency": ("delivery.in_flight",), "workers": ("delivery.in_flight",), "parallelism": ("delivery.in_flight",),
    "backoff": ("delivery.retry_initial",), "max_backoff": ("delivery.retry_max",),
    "brokers": ("bootstrap_servers",), "servers": ("bootstrap_servers", "hosts"),
    "nodes": ("hosts",), "urls": ("hosts", "url"), "url": ("hosts",), "endpoint": ("url", "hosts"), "endpoints": ("hosts",),
    "bind": ("listen",), "port": ("listen",), "host": ("listen", "hosts", "bootstrap_servers"), "address": ("listen",),
    "dir": ("directory",), "folder": ("directory",), "path": ("directory",),
    "user": ("auth.basic", "security.username", "basic_auth"),
    "username": ("auth.basic", "security.username", "basic_auth"),
    "password": ("auth.basic", "security.password", "basic_auth"),
    "api_key": ("auth.api_key", "api_token"), "token": ("api_token", "auth.bearer", "bearer_tokens"),
    "bearer": ("auth.bearer", "bearer_tokens"), "ssl": ("security.tls", "tls"),
    "cert": ("tls.certificate", "security.certificate"), "cert_file": ("tls.certificate", "security.certificate"),
    "key_file": ("tls.key", "security.key"), "cafile": ("ca", "security.ca", "tls.client_ca"),
    "ca_file": ("ca", "security.ca", "tls.client_ca"), "ca_cert": ("ca", "security.ca", "tls.client_ca"),
    "index_name": ("index",), "prefix": ("index", "topic"), "rotation": ("rotate_interval",),
    "max_file_size": ("rotate_size",),
}  # fmt: skip
"""Keys of other programs -> ours for the same, the first that the table knows."""


UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""What breaks the lines that show a name, or turns their direction. Names in quotes can contain it."""


class ConfigError(Exception):
    """Each is one line for each error, starting with its path.

    faults      all of them
    unresolved  those of references that stand for nothing
    """

    def __init__(self, faults: list[str], unresolved: Collection[str] = ()) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults
        self.unresolved = unresolved


class Faults(dict[str, str]):
    """Path -> message. Only the first error at a path counts; further ones usually follow from it."""

    def add(self, path: tuple[str, ...], message: str) -> None:
        self.setdefault(".".join(json.dumps(part) if UNPRINTABLE.search(part) else part for part in path), message)

    def lines(self) -> list[str]:
        return [f"{path}: {message}" for path, message in self.items()]

    def without_consequences(self, causes: Collection[str]) -> "Faults":
        """These faults without those below a path in `causes`, which only follow from what is wrong there."""
        below = tuple(f"{cause}." for cause in causes)
        return Faults({path: message for path, message in self.items() if not path.startswith(below)})


def validate(
    model: type[S],
    table: Any,
    path: tuple[str, ...],
    faults: Faults,
    also: type[Settings] | None = None,
    base: Path | None = None,
) -> S | None:
    """`table` as a `model`, or None if something is wrong with it, which is then in `faults`.

    path  of the table
    also  keys that the user can set in this table besides those of `model`, as suggestions for misspelled ones
    base  where relative paths start; None for the current directory
    """
    try:
        return model.model_validate(table, context={BASE: base})
    except ValidationError as error:
        errors = [fault for fault in error.errors(include_url=False) if _is_meant(fault)]
        _check_rules(model, table, [fault["loc"] for fault in errors], path, faults, also, {BASE: base})
        for fault in errors:
            location = tuple(part for part in fault["loc"] if part not in BRANCHES)
            kind, value = fault["type"], fault["input"]
            full_path = (*path, *map(str, location))
            if kind == "extra_forbidden":
                message = unknown_key(model, location, also)
            elif kind in TABLE_EXPECTED:
                message = _expected_table(full_path, location)
            else:
                context = _as_written(fault.get("ctx", {}), model, location)
                also_list = ", or a list of such texts" if ONE in fault["loc"] and kind == "string_type" else ""
                message = _message(kind, fault["msg"], context) + also_list + _example(kind, model, location, value)
            faults.add(full_path, message)
        return None


def _is_meant(fault: Any) -> bool:
    """Of a key that takes a text or a list of texts, pydantic tells the errors of both; those of one say what is wrong."""
    location, value = fault["loc"], fault["input"]
    if ONE in location:
        return not (location[-1] == ONE and isinstance(value, list))
    return not (location and location[-1] == SEVERAL and not isinstance(value, list))


def _check_rules(
    model: type[Settings],
    table: Any,
    wrong: list[Location],
    path: tuple[str, ...],
    faults: Faults,
    also: type[Settings] | None,
    context: dict[str, Any],
) -> None:
    """Report which keys do not go together, as far as they are right: pydantic looks at that only if all keys are.

    wrong: where the errors in `table` are
    """
    names = {str(location[0]) for location in wrong if location}
    if not isinstance(table, dict):
        return
    for name in names & table.keys():
        inner, below = _table(model, [name]), [location[1:] for location in wrong if location[:1] == (name,)]
        if inner and get_origin(model.model_fields[name].annotation) is not list:
            _check_rules(inner, table[name], below, (*path, name), faults, None, context)
    tables = [model, *([also] if also else [])]
    meant = {(_meant(name, tables) or "").partition(".")[0] for name in names - model.model_fields.keys()}
    unknown = (names | meant) & model.model_fields.keys()
    known = {name: (field.annotation, field) for name, field in model.model_fields.items() if name not in unknown}
    part = cast("Any", create_model)(model.__name__, __base__=Settings, **known)
    values = part.model_validate({name: table[name] for name in known.keys() & table.keys()}, context=context)
    partial = model.model_construct(values.model_fields_set | (unknown & (table.keys() | meant)), **dict(values))
    for name in unknown:
        partial.__dict__.pop(name, None)  # so that a rule that needs it ends with AttributeError
    broken = [
        message for rule in model.__pydantic_decorators__.model_validators.values() if (message := _broken(rule, partial))
    ]
    if broken:
        faults.add(path, "; ".join(broken))


def _broken(rule: Any, partial: Settings) -> str:
    """What the rule between keys says of a table that may lack some of them. If it needs these, nothing."""
    try:
        rule.func(partial)
    except AttributeError:
        return ""
    except (ValueError, AssertionError) as error:
        return str(error)
    return ""


def _message(kind: str, message: str, context: Mapping[str, Any]) -> str:
    if kind in ("too_short", "string_too_short") and context["min_length"] == 1:
        return "must not be empty"
    if kind in MESSAGES:
        return MESSAGES[kind].format(**{name: _written(value) for name, value in context.items()})
    if kind in OWN:
        return message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return re.sub("^Input should ", "must ", message)  # of a type that only sinks of other packages use


def _written(value: Any) -> Any:
    """A limit or a choice as TOML writes it."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value.replace("'", '"') if isinstance(value, str) else value


def _as_written(context: Mapping[str, Any], model: type[Settings], location: Location) -> dict[str, Any]:
    """An error's context. Its limits have a unit if the key needs one."""
    found = _key(model, location)
    text = next((text for unit, text in ((Size, size_text), (Seconds, time_text)) if found and _has(found[1], unit)), None)
    limits = context.keys() & {"ge", "gt", "le", "lt"} if text else ()
    return {name: text(value) if text and name in limits and value else value for name, value in context.items()}


def _has(hint: Any, wanted: Any) -> bool:
    """Whether a type has all metadata of `wanted`."""
    return set(get_args(wanted)[1:]) <= set(getattr(hint, "__metadata__", ())) or any(
        _has(inner, wanted) for inner in get_args(hint) if get_origin(hint) in (Union, UnionType)
    )


def _has_tables(hint: Any) -> bool:
    """Whether it is the type of a list of tables."""
    inner = get_args(hint)
    return any(get_origin(each) is dict or (isinstance(each, type) and issubclass(each, Settings)) for each in inner)


def _expected_table(path: tuple[str, ...], location: tuple[int | str, ...]) -> str:
    in_list = any(isinstance(part, int) for part in location)
    return "must be a table" if in_list else f"must be a table: write [{'.'.join(path)}] and its keys below"


def _example(kind: str, model: type[Settings], location: tuple[int | str, ...], value: Any) -> str:
    """How to write the key if its value has the wrong type, or an empty text."""
    found = _key(model, location)
    if found is None or kind not in ("list_type", "string_type", "int_type", "float_type", "float_parsing", "bool_type"):
        return ""
    name, hint, default = found
    in_list = isinstance(location[-1], int)
    if kind == "list_type":
        example = f"[{'{ ... }' if _has_tables(hint) else _text(value if isinstance(value, str) else '...', hint, None)}]"
    elif kind == "string_type":
        others = '"...", ' if isinstance(location[-1], int) and location[-1] > 0 else ""
        example = others + _text(value, hint, None if in_list else default)
    elif kind == "bool_type":
        example = "false" if str(value).lower() in ("false", "no", "off", "0") else "true"
    elif isinstance(value, str) and re.fullmatch(r"[1-9][0-9]{0,5}", value):
        example = value  # of a key that holds no secret
    else:
        example = str(default if isinstance(default, int | float) and not isinstance(default, bool) else 10)
    return f": write {name} = {f'[{example}]' if in_list else example}"


def _text(value: Any, hint: Any, default: Any) -> str:
    """An example of a text. A number that was written without quotes gets them, as a port if it stands for an address."""
    if _contains(hint, Secret):
        return '"${NAME}"'
    choices = [choice for literal in _literals(hint) for choice in get_args(literal)]
    if choices:
        return json.dumps(value if value in choices else choices[0])
    if isinstance(value, str):
        scheme = re.match("https?://", value)
        return f'"{scheme[0]}..."' if scheme else '"..."'
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, str) and re.search(r":\d+$", default):
        return json.dumps(re.sub(r"\d+$", str(value), default) if is_number and 0 < value < 2**16 else default)
    if is_number:
        return f'"{value}"'
    return json.dumps(default if isinstance(default, str) and default else "...", ensure_ascii=False)


def _key(model: type[Settings], location: tuple[int | str, ...]) -> tuple[str, Any, Any] | None:
    """The name, the type and the default of the key at `location`, which may be an item of its list."""
    names = [part for part in location if isinstance(part, str)]
    table = _table(model, names[:-1]) if names else None
    field = table.model_fields.get(names[-1]) if table else None
    if table is None or field is None:
        return None
    return names[-1], get_type_hints(table, include_extras=True)[names[-1]], field.default


def _table(model: type[Settings], names: Iterable[str]) -> type[Settings] | None:
    """The settings of the table at this path below `model`, if it is one."""
    for name in names:
        field = model.model_fields.get(name)
        inner = next((t for t in _types(field.annotation) if issubclass(t, Settings)), None) if field else None
        if inner is None:
            return None
        model = inner
    return model


def unknown_key(model: type[Settings], location: tuple[int | str, ...], also: type[Settings] | None = None) -> str:
    """The message for the unknown key at `location`: what may be meant, and which keys there are.

    also: further keys that the user can set in the table of `model` itself
    """
    above = [part for part in location[:-1] if isinstance(part, str)]
    table = _table(model, above)
    if table is None:
        return "unknown key"
    tables = [table, *([also] if also and not above else [])]
    known = [name for each in tables for name in each.model_fields]
    meant = _meant(str(location[-1]), tables)
    listed = f"nown keys: {', '.join(known)}"
    if meant is None:
        return f"unknown key; k{listed}"
    return f"unknown key; did you mean {meant}?" + (f" K{listed}" if len(known) <= FEW else "")


def _meant(unknown: str, tables: Sequence[type[Settings]]) -> str | None:
    """The key of these tables that is probably meant by an unknown one."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", unknown).lower().replace("-", "_")
    known = [key for table in tables for key in table.model_fields]
    return most_similar(name, known) or next((key for key in FOREIGN.get(name, ()) if _is_key(key, tables)), None)


def _is_key(path: str, tables: Iterable[type[Settings]]) -> bool:
    *above, name = path.split(".")
    return any(name in found.model_fields for table in tables if (found := _table(table, above)))


def most_similar(word: str, known: Iterable[str]) -> str | None:
    """Which of the known words `word` is probably meant to be, or None: a typing error apart, they must be the same."""
    return next(iter(difflib.get_close_matches(word.lower(), known, n=1, cutoff=SIMILAR)), None)


def _types(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _types(argument)


def _contains(hint: Any, wanted: Any) -> bool:
    return hint is wanted or any(_contains(argument, wanted) for argument in getattr(hint, "__args__", ()))


def _literals(hint: Any) -> Iterator[Any]:
    if get_origin(hint) is Literal:
        yield hint
    for argument in getattr(hint, "__args__", ()):
        yield from _literals(argument)
