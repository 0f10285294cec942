"""The configuration that `btfeed init` writes: every table and key with its meaning, and what to fill in.

A key that stands behind a `#` without a blank has its default there, or an example if it has none. References such as
`${KAFKA_SECURITY_PASSWORD}` stand for secrets and for required keys. `SinkType.example` says what a first configuration
of a type sets.
"""

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, get_type_hints

from btfeed.config.keys import Key, in_toml, is_secret, keys, summary
from btfeed.config.loading import Sections
from btfeed.delivery.sink_config import CommonSettings, find_type
from sinks.base import SinkType
from sinks.settings import Settings

WIDTH = 110
"""Characters of a comment's line."""
HEAD = """\
# The configuration of btfeed. A key that begins with # shows its default, or an example if it has none: remove the # to
# set it. `btfeed check` says whether all is well, and docs/configuration.md says more about each key.
#
# For an editor that completes keys: btfeed config schema > btfeed.schema.json, and write as the first line
# #:schema ./btfeed.schema.json
"""
REPLACE = "# REPLACE THIS: it is an example"
"""Stands above a value that is set, and can't be right as it is."""
_EXAMPLES = {"size": '"64MiB"', "time": '"1h"', "path": '"FILE"', "integer": "1", "number": "1", "boolean": "true"}


def starter(types: Iterable[str]) -> str:
    """The text of a configuration with a sink of each of these types, named like its type. Raises UnknownType."""
    blocks = [HEAD.rstrip()]
    for name, model in get_type_hints(Sections).items():
        if name != "sinks":
            blocks += _tables(name, model, {})
    for name in types:
        blocks += _sink(name, find_type(name))
    return "\n\n".join(blocks) + "\n"


def references(text: str) -> list[str]:
    """The variables that must be set for such a configuration, in order."""
    return list(dict.fromkeys(re.findall(r"^[^#\n].*?\$\{(\w+)\}", text, re.MULTILINE)))


def to_replace(text: str) -> list[str]:
    """The keys of such a configuration whose values are examples, by their paths."""
    found, table = [], ""
    lines = text.splitlines()
    for line, following in pairwise(lines):
        table = line.strip("[]") if line.startswith("[") else table
        if line == REPLACE:
            found.append(f"{table}.{following.partition(' ')[0]}")
    return found


def _sink(name: str, sink_type: SinkType) -> Iterator[str]:
    """Its tables: what is common to all sinks, merged with what is its own."""
    common = {key.name: key for key in keys(CommonSettings) if key.name != "type"}
    path = f"sinks.{name}"
    tables = [key for key in (*keys(sink_type.settings), *common.values()) if key.table]
    yield "\n".join(
        [
            *_comment(summary(sink_type.settings)),
            f"[{path}]",
            f"type = {in_toml(name)}",
            *_values(path, (common["start"], *keys(sink_type.settings)), sink_type.example),
        ]
    )
    for key in tables:
        yield from _inner(path, key, sink_type.example, sink_type.delivery if key.name == "delivery" else None)


def _tables(
    path: str,
    model: type[Settings],
    example: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    live: bool = True,
) -> Iterator[str]:
    """The table, and those inside it.

    example   keys that are set
    defaults  those that differ from the defaults of `model`
    live      whether the table is set, or else commented out
    """
    head = [*_comment(summary(model)), f"[{path}]" if live else f"#[{path}]"]
    yield "\n".join([*head, *_values(path, keys(model), example, live, defaults)])
    for key in keys(model):
        if key.table:
            yield from _inner(path, key, example, live=live)


def _inner(
    path: str, key: Key, example: Mapping[str, Any], defaults: Mapping[str, Any] | None = None, live: bool = True
) -> Iterator[str]:
    assert key.table
    live = live and (key.name in example or key.default is not None)
    yield from _tables(f"{path}.{key.name}", key.table, example.get(key.name, {}), defaults, live)


def _values(
    path: str,
    found: Iterable[Key],
    example: Mapping[str, Any],
    live: bool = True,
    defaults: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """The keys that are no tables, each below its meaning."""
    defaults = defaults or {}
    for key in found:
        if key.table:
            continue
        mark = "" if live and (key.required or key.name in example) else "#"
        if key.name in example or key.name in defaults:
            value = in_toml(example.get(key.name, defaults.get(key.name)))
        elif is_secret(key.hint) or (key.required and live):
            variable = re.sub(r"\W", "_", f"{path.removeprefix('sinks.')}.{key.name}").upper()
            value = in_toml([f"${{{variable}}}"] if key.kind.startswith("list") else f"${{{variable}}}")
        elif key.required or key.default is None:
            value = _example(key.kind)
        else:
            value = in_toml(key.default, key.kind)
        replace = [REPLACE] if not mark and key.name in example and not references(value) else []
        yield from ("", *_comment(_meaning(key)), *replace, f"{mark}{key.name} = {value}")


def _example(kind: str) -> str:
    """Something of this kind, for a key that is not set."""
    choice = re.match("`(.+?)`", kind)
    return in_toml(choice[1]) if choice else _EXAMPLES.get(kind, '"..."')


def _meaning(key: Key) -> str:
    """With its choices, unless it says them itself, and whether it has a default."""
    parts = [key.meaning]
    choices = re.findall("`(.+?)`", key.kind)
    if any(choice not in key.meaning for choice in choices):
        parts.append(f"One of: {', '.join(choices)}")
    if key.default is None:
        parts.append("Not set by default")
    return ". ".join(parts)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text.replace("`", ""), WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False)
