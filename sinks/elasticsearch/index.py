"""Indexes of Elasticsearch: legal names from a template, and the index template from the table of record fields."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from sinks.base import RecordField, SinkContext
from sinks.batch import Transaction
from sinks.template import Template

PLACEHOLDERS = ("name", "application", "system_profile", "server", "category", "date")
MAX_NAME_SIZE = 255
"""Bytes of an index name."""
TEMPLATE_VERSION = 1
"""The version of what `index_template` returns. Increase it with every change: the sink replaces older templates."""
IGNORE_ABOVE = 1024
"""Characters. Longer texts are stored but not indexed: Lucene refuses a document that has a term of over 32,766 bytes."""
_EMPTY = "unknown"
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


class IndexName:
    """The names of the indexes for records: `text` with its placeholders filled, made legal.

    Names are in lower case, have at most 255 bytes and don't start with one of `-_+.`. Other illegal characters become `_`,
    empty values become `unknown`. If a name would be too long, its values are cut, and a digest of the whole value replaces
    the end of each, so that different values stay different.
    """

    def __init__(self, text: str) -> None:
        self._template = Template(text)
        self._literal_size = sum(len(_clean(part).encode()) for part in _PLACEHOLDER.split(text)[::2])
        self._placeholders = max(1, len(_PLACEHOLDER.findall(text)))
        self.text = text

    def name_for(self, transaction: Transaction, date: str) -> str:
        """The index for records of this transaction. date: the day of the record's timestamp in UTC, such as 2013-01-16."""
        values = {name: str(getattr(transaction, name)) for name in PLACEHOLDERS[:-1]} | {"date": date}
        values = {name: _clean(value) or _EMPTY for name, value in values.items()}
        name = self._fill(transaction, values)
        if len(name.encode()) > MAX_NAME_SIZE:
            size = (MAX_NAME_SIZE - self._literal_size) // self._placeholders
            name = self._fill(transaction, {key: _truncate(value, size) for key, value in values.items()})
        return name

    @property
    def varies(self) -> bool:
        """Whether there are several names."""
        return bool(self._template.names())

    def _fill(self, transaction: Transaction, values: dict[str, str]) -> str:
        return _clean(self._template.fill(transaction, **values)).lstrip("-_+.") or _EMPTY

    @property
    def pattern(self) -> str:
        """A pattern that all names match, with `*` for each placeholder."""
        return "*".join(_clean(part) for part in _PLACEHOLDER.split(self.text)[::2]).lstrip("-_+.") or _EMPTY


def check_name(text: str) -> str:
    """`text` if it is a usable template of index names. Raises ValueError."""
    literal = "".join(_PLACEHOLDER.split(text)[::2])
    if not text:
        raise ValueError("must not be empty")
    if not (_PLACEHOLDER.search(text) or _clean(text).lstrip("-_+.")):
        raise ValueError("must have other characters than - _ + and . because a name can't begin with these")
    if len(_clean(literal).encode()) > MAX_NAME_SIZE - 32 * len(_PLACEHOLDER.findall(text)):
        raise ValueError(f"is too long: a name has at most {MAX_NAME_SIZE} bytes, and each placeholder needs 32 of them")
    return text


def _clean(text: str) -> str:
    return "".join("_" if char in '\\/*?"<>|,#: ' or not char.isprintable() else char for char in text.lower())


def _truncate(value: str, size: int) -> str:
    """`value` if it has at most `size` bytes, else its beginning and a digest."""
    if len(value.encode()) <= size:
        return value
    digest = hashlib.blake2b(value.encode(), digest_size=8).hexdigest()
    return value.encode()[: size - len(digest) - 1].decode(errors="ignore") + "-" + digest


def template_name(index: IndexName) -> str:
    """The name of the index template: the same for all sinks that write to the same indexes."""
    return "btfeed-" + re.sub(r"[{}]", "", _clean(index.text)).lstrip("-_+.")


def index_template(index: IndexName, data_stream: bool, context: SinkContext) -> dict[str, Any]:
    """The index template for everything that a sink writes.

    Its priority grows with the length of its pattern's fixed part: if the templates of two sinks match an index, the more
    specific one applies, and Elasticsearch refuses two of equal priority. 500 is above those that Elastic installs.
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
        "version": TEMPLATE_VERSION,
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
    if field.name.endswith(".ip"):  # an invalid address is stored, but not indexed
        return {"type": "ip", "ignore_malformed": True}
    return _TYPES[field.type]


def _maps(maps: Sequence[RecordField]) -> tuple[list[str], list[str]]:
    """Prefixes of fields whose names users define: of numbers, and of strings."""
    numbers = [field.name.rstrip(".") for field in maps if field.type == "double"]
    return numbers, [field.name.rstrip(".") for field in maps if field.type != "double"]
