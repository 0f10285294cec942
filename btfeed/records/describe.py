"""Describes a post to people: its fields as sent, and the rules of the field table that it breaks."""

from collections.abc import Iterator
from math import isfinite, isnan
from typing import Any

from btfeed.posts.bt_pb2 import BtOccurrence, BusinessTransaction
from btfeed.posts.post import digest, event_id_prefix, missing_required_fields, parse
from btfeed.records.encoding import rfc3339
from btfeed.records.schema import BY_NAME, BY_NUMBER, CATEGORIES, DIMENSIONS, UNKNOWN, VALUES, Field
from btfeed.records.validation import violations


def describe(body: bytes) -> dict[str, Any]:
    """The post as data that JSON can hold. Raises Malformed."""
    message = parse(body)
    missing = missing_required_fields(message)
    described: dict[str, Any] = {"bytes": len(body), "event_id_prefix": event_id_prefix(digest(body))}
    if message.HasField("serverName"):
        described["server"] = _plain(message.serverName)
    if message.HasField("lostTransactions"):
        described["lost_transactions"] = message.lostTransactions
    if missing:
        described["missing_required_fields"] = missing
    ordinal = 0
    described["transactions"] = transactions = []
    for transaction in message.businessTransactions:
        transactions.append(_transaction(transaction, ordinal))
        ordinal += len(transaction.occurrences)
    return described


def _transaction(transaction: BusinessTransaction, ordinal: int) -> dict[str, Any]:
    category = CATEGORIES[transaction.type] if transaction.HasField("type") else UNKNOWN
    described: dict[str, Any] = {"name": _plain(transaction.name), "category": category}
    for name in ("application", "systemProfile"):
        if transaction.HasField(name):
            described[name] = _plain(getattr(transaction, name))
    described["measures"] = [_plain(name) for name in transaction.measureNames]
    described["dimensions"] = [_plain(name) for name in transaction.dimensionNames]
    described["occurrences"] = [
        _occurrence(occurrence, number, category, described)
        for number, occurrence in enumerate(transaction.occurrences, start=ordinal)
    ]
    return described


def _occurrence(occurrence: BtOccurrence, ordinal: int, category: str, transaction: dict[str, Any]) -> dict[str, Any]:
    values = {BY_NUMBER[descriptor.number]: value for descriptor, value in occurrence.ListFields()}
    names = {VALUES: transaction["measures"], DIMENSIONS: transaction["dimensions"]}
    short = {field for field, given in names.items() if len(values.get(field, ())) < len(given)}
    return {
        "ordinal": ordinal,
        "fields": {field.name: _value(field, value) for field, value in values.items()},
        "violations": [
            {"field": violation.field, "rule": violation.rule} for violation in violations(category, set(values), short)
        ],
    }


def _value(field: Field, value: Any) -> Any:
    return [_plain(item) for item in value] if field.repeated else _plain(value)


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it. NaN and infinity become text, spelled as in protobuf's own JSON."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float) and not isfinite(value):
        return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def lines(described: dict[str, Any]) -> Iterator[str]:
    """The result of `describe` as text."""
    server = f", server {_printable(described['server'])}" if "server" in described else ""
    lost = f", {described['lost_transactions']} transactions lost" if described.get("lost_transactions") else ""
    yield f"{described['bytes']} bytes, event.id {described['event_id_prefix']}N{server}{lost}"
    for missing in described.get("missing_required_fields", ()):
        yield f"  ! required field missing: {missing}"
    for transaction in described["transactions"]:
        application = f", application {_printable(transaction['application'])}" if "application" in transaction else ""
        profile = f", system profile {_printable(transaction['systemProfile'])}" if "systemProfile" in transaction else ""
        yield f"  {transaction['category']} {transaction['name']!r}{application}{profile}"
        for occurrence in transaction["occurrences"]:
            yield f"    #{occurrence['ordinal']}"
            for name, value in occurrence["fields"].items():
                yield f"      {name} = {_shown(BY_NAME[name], value, transaction)}"
            for violation in occurrence["violations"]:
                yield f"      ! {violation['rule']} {violation['field']}"


def _shown(field: Field, value: Any, transaction: dict[str, Any]) -> str:
    if field.encoding == "timestamp":
        try:
            return f"{value} ({rfc3339(value)})"
        except ValueError as error:
            return f"{error}"
    if field in (VALUES, DIMENSIONS):
        names = transaction["measures" if field is VALUES else "dimensions"]
        named = (f"{_printable(name)}: {item!r}" for name, item in zip(names, value, strict=False))
        return ", ".join([*named, *(repr(item) for item in value[len(names) :])])
    unit = f" {field.unit}" if field.unit else ""
    return f"{value!r}{unit}"


def _printable(text: str) -> str:
    """`text`, quoted if it has characters that would change the terminal."""
    return text if text.isprintable() else repr(text)
