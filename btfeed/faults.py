"""Errors in a configuration or a profile: all of them at once, each with its path and in plain English."""

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from sinks.settings import BASE, Settings

S = TypeVar("S", bound=Settings)

SIMILAR = 0.75
"""How much of two words must match, in their order, for one to be suggested instead of the other."""
MESSAGES = {
    "missing": "is required",
    "list_type": 'must be a list, for example ["a", "b"]',
    "string_type": 'must be text in quotes, for example "value"',
    "int_type": "must be an integer, for example 10",
    "float_type": "must be a number, for example 1.5",
    "bool_type": "must be true or false",
    "literal_error": "must be {expected}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "string_pattern_mismatch": "must match the pattern {pattern}",
}
"""Type of a pydantic error -> what we say instead. The placeholders are names of the
error's context. No message shows the value, which may be a secret."""


class ConfigError(Exception):
    """faults: one line for each error, starting with its path."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Faults(dict[str, str]):
    """Path -> message. Only the first error at a path counts; further ones usually follow from it."""

    def add(self, path: tuple[str, ...], message: str) -> None:
        self.setdefault(".".join(path), message)

    def without_consequences(self, causes: Collection[str]) -> "Faults":
        """These faults without those below a path in `causes`, which only follow from what is wrong there."""
        return Faults(
            {path: text for path, text in self.items() if not any(path.startswith(f"{cause}.") for cause in causes)}
        )


def validate(
    model: type[S], table: Any, path: tuple[str, ...], faults: Faults, also: tuple[str, ...] = (), base: Path | None = None
) -> S | None:
    """`table` as a `model`, or None if something is wrong with it, which is then in `faults`.

    path  of the table
    also  keys that the user can set in this table besides those of `model`, as suggestions for misspelled ones
    base  where relative paths start; None for the current directory
    """
    try:
        return model.model_validate(table, context={BASE: base})
    except ValidationError as error:
        for fault in error.errors(include_input=False):
            location = fault["loc"]
            full_path = (*path, *map(str, location))
            if fault["type"] == "extra_forbidden":
                message = unknown_key(model, location, also)
            elif fault["type"] in ("model_type", "dict_type"):
                message = _expected_table(full_path, location)
            else:
                message = _message(fault["type"], fault["msg"], fault.get("ctx", {}))
            faults.add(full_path, message)
        return None


def _message(kind: str, message: str, context: Mapping[str, Any]) -> str:
    if kind in ("too_short", "string_too_short") and context["min_length"] == 1:
        return "must not be empty"
    if kind in MESSAGES:
        return MESSAGES[kind].format(**{name: _written(value) for name, value in context.items()})
    return message.removeprefix("Value error, ")  # of a validator of ours, which says it in plain English


def _written(value: Any) -> Any:
    """A limit or a choice as TOML writes it."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value.replace("'", '"') if isinstance(value, str) else value


def _expected_table(path: tuple[str, ...], location: tuple[int | str, ...]) -> str:
    in_list = any(isinstance(part, int) for part in location)
    return "must be a table" if in_list else f"must be a table: write [{'.'.join(path)}] and its keys below"


def unknown_key(model: type[Settings], location: tuple[int | str, ...], also: tuple[str, ...] = ()) -> str:
    """The message for the unknown key at `location`: what may be meant, or else all keys that are known."""
    for part in location[:-1]:
        if isinstance(part, int):  # an index into a list
            continue
        field = model.model_fields.get(str(part))
        inner = next((t for t in _types(field.annotation) if issubclass(t, Settings)), None) if field else None
        if inner is None:
            return "unknown key"
        model, also = inner, ()
    known = [*model.model_fields, *also]
    close = most_similar(str(location[-1]), known)
    return "unknown key" + (f"; did you mean {close}?" if close else f"; known keys: {', '.join(known)}")


def most_similar(word: str, known: Iterable[str]) -> str | None:
    """Which of the known words `word` is probably meant to be, or None: a typing error apart, they must be the same."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=SIMILAR)), None)


def _types(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _types(argument)
