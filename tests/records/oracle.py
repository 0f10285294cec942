"""An oracle: what a post must become, straight from the documented field table (fields.csv).

It shares no code with the mappers. So it judges what both of them share, which a comparison of the two cannot: the schema,
the names of measures and dimensions, and the fields of the business transaction. It knows the default templates, the
policies of [validation], and no privacy or attributes.
"""

import hashlib
import math
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from btfeed.posts.bt_pb2 import BtOccurrence, BusinessTransaction, BusinessTransactions
from tests.support.fieldtable import CATEGORIES, ROWS, Row


@dataclass
class Expected:
    """The records and counts of a post, the latter as in btfeed.records.result.Counts."""

    delivered: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    violations: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    mismatches: Counter[tuple[str, str]] = field(default_factory=Counter)
    invalid_utf8: int = 0

    def text(self, value: str | bytes) -> str:
        if isinstance(value, bytes):
            self.invalid_utf8 += 1
            return value.decode(errors="replace")
        return value


def expect(body: bytes, missing: str = "report", unexpected: str = "report") -> Expected:
    """The result for `body` under these policies of [validation]."""
    found = Expected()
    message = BusinessTransactions.FromString(body)
    prefix = hashlib.blake2b(body, digest_size=32).hexdigest()[:24]
    ordinal = 0
    server = found.text(message.serverName) if message.HasField("serverName") else None
    for bt in message.businessTransactions:
        constants = _constants(found, bt) | ({} if server is None else {"appmon.server": server})
        names = [[found.text(name) for name in given] for given in (bt.measureNames, bt.dimensionNames)]
        for occurrence in bt.occurrences:
            record = {"event.kind": "BIZ_EVENT", "event.id": f"{prefix}-{ordinal}"} | constants
            broken = _violations(found, constants["event.category"], occurrence, names)
            found.violations.update((constants["event.name"], *violation) for violation in broken)
            drop = {name for name, rule in broken if rule == "unexpected"} if unexpected == "drop" else set()
            refuse = any((missing if rule == "missing" else unexpected) == "dead-letter" for _, rule in broken)
            record |= _fields(found, occurrence, names, drop, constants["event.category"])
            refuse |= isinstance(record["timestamp"], int)
            (found.refused if refuse else found.delivered).append(record)
            ordinal += 1
    return found


def _constants(found: Expected, bt: BusinessTransaction) -> dict[str, str]:
    name = found.text(bt.name)
    application = found.text(bt.application) if bt.HasField("application") else ""
    record = {"event.type": name, "event.name": name, "event.provider": application or "appmon"}
    record["event.category"] = CATEGORIES[bt.type] if bt.HasField("type") else "unknown"
    if bt.HasField("application"):
        record["appmon.application"] = application
    if bt.HasField("systemProfile"):
        record["appmon.system_profile"] = found.text(bt.systemProfile)
    return record


def _present(row: Row, occurrence: BtOccurrence) -> bool:
    return len(getattr(occurrence, row.field)) > 0 if row.repeated else occurrence.HasField(row.field)


def _violations(found: Expected, category: str, occurrence: BtOccurrence, names: list[list[str]]) -> list[tuple[str, str]]:
    wanted = {"values": len(names[0]), "dimensions": len(names[1])}
    for name, number in wanted.items():
        if number != len(getattr(occurrence, name)):
            found.mismatches[name, "fewer" if len(getattr(occurrence, name)) < number else "more"] += 1
    if category == "unknown":
        return [("type", "missing")]
    broken = []
    for row in ROWS:
        absent = not _present(row, occurrence)
        if row.field in wanted:
            absent = len(getattr(occurrence, row.field)) < wanted[row.field]
        if row.presence(category) == "yes" and absent and row.field != "convertedBy":
            broken.append((row.field, "missing"))
        if row.presence(category) == "no" and not absent:
            broken.append((row.field, "unexpected"))
    return broken


def _fields(
    found: Expected, occurrence: BtOccurrence, names: list[list[str]], drop: set[str], category: str
) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for row in ROWS:
        sent = getattr(occurrence, row.field)
        if row.field in ("values", "dimensions"):
            for name, value in zip(_names(names[row.field == "dimensions"], len(sent)), sent, strict=True):
                _put(found, record, row.record_field.replace("<name>", name), row.record_value, value)
        elif row.field in drop:
            if row.kind == "string":
                [found.text(item) for item in (sent if row.repeated else [sent])]
        elif _present(row, occurrence):
            _put(found, record, row.record_field, row.record_value, sent)
    if (
        category == "visit"
        and occurrence.HasField("endTime")
        and ("duration" in drop or not occurrence.HasField("duration"))
    ):
        _put(found, record, "duration", "integer nanoseconds", occurrence.endTime - occurrence.startTime)
    if "timestamp" not in record:
        del found.left_out["timestamp"]
        record["timestamp"] = occurrence.startTime
    return record


def _put(found: Expected, record: dict[str, Any], name: str, how: str, sent: Any) -> None:
    value = _value(found, how, sent)
    if value is None:
        found.left_out[name] += 1
    else:
        record[name] = value


def _value(found: Expected, how: str, sent: Any) -> Any:
    """The value of the record, or None if a record cannot hold it. how: the column record_value of the table."""
    match how:
        case "RFC 3339 UTC with milliseconds":
            return _time(sent)
        case "integer nanoseconds":
            return _nanoseconds(sent)
        case "decimal string":
            return f"{sent:d}"
        case "failure if true, success if false":
            return "failure" if sent else "success"
        case "array of strings":
            return [found.text(item) for item in sent]
        case "string":
            return found.text(sent)
        case "number":
            return sent if math.isfinite(sent) else None
    return sent


def _time(milliseconds: int) -> str | None:
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None
    date = f"{moment.year:04}-{moment.month:02}-{moment.day:02}"
    return f"{date}T{moment.hour:02}:{moment.minute:02}:{moment.second:02}.{moment.microsecond // 1000:03}Z"


def _nanoseconds(milliseconds: float) -> int | None:
    exact = milliseconds * 1_000_000
    if not math.isfinite(exact):
        return None
    whole = math.floor(exact)
    rest = exact - whole
    if rest > 0.5 or (rest == 0.5 and whole % 2):
        whole += 1
    return whole if -(2**63) <= whole < 2**63 else None


def _names(names: list[str], count: int) -> list[str]:
    bases: list[str] = []
    found: list[str] = []
    for place in range(count):
        base = _normal(names[place]) if place < len(names) else ""
        base = base or str(place + 1)
        number = bases.count(base) + 1
        while (name := base if number == 1 else f"{base}_{number}") in found:
            number += 1
        bases.append(base)
        found.append(name)
    return found


def _normal(name: str) -> str:
    lower = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).lower())
    return re.sub("_+", "_", "".join("_" if unicodedata.category(c)[0] in "CPSZ" else c for c in lower)).strip("_")
