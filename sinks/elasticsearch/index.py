"""Indexes of Elasticsearch: legal names from a template, and the index template that is made from the field table."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from sinks.base import RecordField, SinkContext
from sinks.batch import Transaction
from sinks.template import Template

PLACEHOLDERS = ("name", "application", "system_profile", "server", "category", "date")
LONGEST = 255
"""Bytes of a name that Elasticsearch takes."""
VERSION = 1
"""Of the index template. Count it up with every change of what `index_template` makes; servers that have an older one get
the new one."""
IGNORE_ABOVE = 1024
"""Characters; a longer text is stored, and not indexed. Lucene refuses the whole document over a term of 32,766 bytes."""
_EMPTY = "unknown"
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


class IndexName:
    """What the records of a transaction and day go to: `text` with its placeholders filled, as a legal name.

    Names are lower case and of at most 255 bytes, they don't begin with one of `-_+.`, and whatever else Elasticsearch
    forbids becomes `_`. An empty value is `unknown`; where a name would be too long, its values are cut, each with
    a digest of the whole in the place of its end, so that two that differ stay two.
    """

    def __init__(self, text: str) -> None:
        self._template = Template(text)
        self._literal = sum(len(_clean(part).encode()) for part in _PLACEHOLDER.split(text)[::2])
        self._values = max(1, len(_PLACEHOLDER.findall(text)))
        self.text = text

    def of(self, transaction: Transaction, date: str) -> str:
        """The name. date: such as 2013-01-16."""
        values = {name: str(getattr(transaction, name)) for name in PLACEHOLDERS[:-1]} | {"date": date}
        values = {name: _clean(value) or _EMPTY for name, value in values.items()}
        name = self._fill(transaction, values)
        if len(name.encode()) > LONGEST:
            room = (LONGEST - self._literal) // self._values
            name = self._fill(transaction, {placeholder: _cut(value, room) for placeholder, value in values.items()})
        return name

    def _fill(self, transaction: Transaction, values: dict[str, str]) -> str:
        return _clean(self._template.fill(transaction, **values)).lstrip("-_+.") or _EMPTY

    @property
    def pattern(self) -> str:
        """What all of these names match, with `*` for each placeholder."""
        return "*".join(_clean(part) for part in _PLACEHOLDER.split(self.text)[::2]).lstrip("-_+.") or _EMPTY


def check_name(text: str) -> str:
    """`text`, if names can be made of it. Raises ValueError."""
    literal = "".join(_PLACEHOLDER.split(text)[::2])
    if not text:
        raise ValueError("is empty")
    if len(_clean(literal).encode()) > LONGEST - 32 * len(_PLACEHOLDER.findall(text)):
        raise ValueError(f"leaves its placeholders too little of the {LONGEST} bytes that a name may have")
    return text


def _clean(text: str) -> str:
    return "".join("_" if char in '\\/*?"<>|,#: ' or not char.isprintable() else char for char in text.lower())


def _cut(value: str, room: int) -> str:
    """`value` in at most `room` bytes."""
    if len(value.encode()) <= room:
        return value
    digest = hashlib.blake2b(value.encode(), digest_size=8).hexdigest()
    return value.encode()[: room - len(digest) - 1].decode(errors="ignore") + "-" + digest


def template_name(index: IndexName) -> str:
    """What the index template is called: the same for all sinks that write to the same indexes."""
    return "btfeed-" + re.sub(r"[{}]", "", _clean(index.text)).lstrip("-_+.")


def index_template(index: IndexName, data_stream: bool, context: SinkContext) -> dict[str, Any]:
    """The index template for all that a sink writes, from the field table.

    Its priority grows with what is fixed in its pattern: of two sinks' templates that match an index the closer one
    counts, and Elasticsearch refuses two of equal priority. 500 is above those that Elastic installs.
    """
    pattern = index.pattern
    measures, dimensions = _maps(context.maps)
    properties = {"@timestamp": {"type": "date"}} | {field.name: _mapping(field) for field in context.fields}
    properties |= {name: {"type": "flattened", "ignore_above": IGNORE_ABOVE} for name in dimensions}
    dynamic = [{"measures": {"path_match": f"{name}.*", "mapping": {"type": "double"}}} for name in measures]
    dynamic.append({"texts": {"match_mapping_type": "string", "mapping": _KEYWORD}})
    return {
        "index_patterns": [pattern],
        "priority": 500 + len(pattern.replace("*", "")),
        "version": VERSION,
        "_meta": {"description": "AppMon's business transactions", "managed_by": "btfeed"},
        **({"data_stream": {}} if data_stream else {}),
        "template": {
            "settings": {
                "index.mapping.total_fields.limit": 1000,
                "index.mapping.total_fields.ignore_dynamic_beyond_limit": True,
            },
            "mappings": {
                "date_detection": False,
                "dynamic_templates": dynamic,
                "properties": properties,
            },
        },
    }


_KEYWORD = {"type": "keyword", "ignore_above": IGNORE_ABOVE}
_TYPES: dict[str, dict[str, Any]] = {
    "string": _KEYWORD,
    "strings": _KEYWORD,
    "long": {"type": "long"},
    "double": {"type": "double"},
    "boolean": {"type": "boolean"},
    "timestamp": {"type": "date"},
}


def _mapping(field: RecordField) -> dict[str, Any]:
    if field.name.endswith(".ip"):  # what is none is kept, and not indexed
        return {"type": "ip", "ignore_malformed": True}
    return _TYPES[field.type]


def _maps(maps: Sequence[RecordField]) -> tuple[list[str], list[str]]:
    """Prefixes of fields that are as many as users define: those of numbers, and those of texts."""
    numbers = [field.name.rstrip(".") for field in maps if field.type == "double"]
    return numbers, [field.name.rstrip(".") for field in maps if field.type != "double"]
