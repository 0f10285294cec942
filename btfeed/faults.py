"""Faults of a configuration or a profile: all of them at once, each with its path."""

import difflib
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import ValidationError

from sinks.settings import Settings

S = TypeVar("S", bound=Settings)


class ConfigError(Exception):
    """faults: one line each, with its path."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Faults(dict[str, str]):
    """By path. The first fault at a path is the one to mend: what follows from it is not told."""

    def add(self, path: tuple[str, ...], message: str) -> None:
        self.setdefault(".".join(path), message)


def validate(model: type[S], table: Any, path: tuple[str, ...], faults: Faults, also: tuple[str, ...] = ()) -> S | None:
    try:
        return model.model_validate(table)
    except ValidationError as error:
        for fault in error.errors(include_input=False):
            message = fault["msg"].removeprefix("Value error, ")
            if fault["type"] == "extra_forbidden":
                message = "unknown key" + _suggestion(model, fault["loc"], also)
            elif fault["type"] == "missing":
                message = "is required"
            elif fault["type"] in ("model_type", "dict_type"):
                message = "is a table"
            faults.add((*path, *(str(part) for part in fault["loc"])), message)
        return None


def _suggestion(model: type[Settings], location: tuple[int | str, ...], also: tuple[str, ...]) -> str:
    """What may have been meant by the unknown key at `location`."""
    for part in location[:-1]:
        if isinstance(part, int):  # of a list
            continue
        field = model.model_fields.get(str(part))
        inner = next((t for t in _types(field.annotation) if issubclass(t, Settings)), None) if field else None
        if inner is None:
            return ""
        model, also = inner, ()
    close = difflib.get_close_matches(str(location[-1]), [*model.model_fields, *also], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _types(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _types(argument)
