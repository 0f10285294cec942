"""What privacy protects is protected in all that a mapping gives: records, keys, transactions, dead letters and counts."""

import hashlib
import hmac
from typing import Any

import pytest

from btfeed.delivery.settings import FilterSettings
from btfeed.records.result import MappingResult
from btfeed.records.schema import RECORD_FIELDS
from sinks.batch import Batch, Transaction
from sinks.elasticsearch.index import IndexName
from sinks.shared.cloud_events import Envelopes
from sinks.template import Template
from tests.records.mapping import mapped, occurrence, parsed, transaction
from tests.support import wire
from tests.support.fieldtable import ROWS

NEEDED = {"event.kind", "event.id", "timestamp"}
TEXTS = [field.name for field in RECORD_FIELDS if field.type in ("string", "strings")] + ["appmon.dimension.d"]
SECRET = "s3cret"
BT = {"name": "N", "application": "A", "systemProfile": "P"}
ALL = "{name}/{application}/{system_profile}/{server}/{category}"


def hashed(value: str) -> str:
    return hmac.new(b"k", value.encode(), hashlib.sha256).hexdigest()[:32]


def private(*, drop: list[str] = [], hash: list[str] = [], **record: Any) -> dict[str, Any]:  # noqa: B006 - not changed
    return {"privacy": {"drop": drop, "hash": hash, "key": "k"}} | record


def result(settings: dict[str, Any], bt: dict[str, Any] = BT, server: str = "S") -> MappingResult:
    body = wire.post(transaction(occurrence(), type=2, **bt), serverName=server)
    return mapped(body, settings)


def everything(found: MappingResult) -> str:
    """All that leaves the mapping."""
    batch = found.batch
    columns = [batch.ids, batch.keys, batch.timestamps, batch.transactions]
    return repr([bytes(batch.ndjson), *map(list, columns), found.refused, found.counts])


@pytest.mark.parametrize("how", ["drop", "hash"])
@pytest.mark.parametrize("missing", ["report", "dead-letter"])
def test_a_protected_text_is_nowhere(how: str, missing: str) -> None:
    """Each text that AppMon sends, also in what is made of others, in dead letters, keys and counts."""
    texts = {row.field: [SECRET] if row.repeated else SECRET for row in ROWS if row.kind == "string"}
    bt = {"name": SECRET, "application": SECRET, "systemProfile": SECRET, "dimensions": ["d"]}
    body = wire.post(transaction(occurrence(**texts), **bt), serverName=SECRET)
    templates = {"type": ALL, "provider": ALL}
    settings = private(**{how: [name for name in TEXTS if name not in NEEDED]}) | templates
    plain, protected = mapped(body, templates, missing=missing), mapped(body, settings, missing=missing)
    assert SECRET in everything(plain)
    assert SECRET not in everything(protected)
    assert len(protected.refused) == len(plain.refused) == (missing == "dead-letter")


@pytest.mark.parametrize(
    ("settings", "name", "application"),
    [
        (private(drop=["event.name"]), "", "A"),
        (private(hash=["event.name"]), hashed("N"), "A"),
        (private(drop=["appmon.application"]), "N", ""),
        (private(drop=["event.name"], hash=["appmon.application"]), "", hashed("A")),
    ],
)
def test_templates_get_protected_values(settings: dict[str, Any], name: str, application: str) -> None:
    """Those of records, topics and indexes: nothing if a field is dropped, as if it were absent, or its hash."""
    found = result(settings | {"type": "{name}", "provider": "{application}"})
    record = parsed(found.batch.body(0))
    (one,) = found.batch.transactions
    assert (record["event.type"], record["event.provider"]) == (name, application or "appmon")
    assert one == Transaction(name, application, "P", "S", "visit")
    assert Template("t.{name}.{application}").fill(one) == f"t.{name}.{application}"
    expected = f"i-{name.lower() or 'unknown'}-{application.lower() or 'unknown'}"
    assert IndexName("i-{name}-{application}").name_for(one, "2026-01-31") == expected


def test_every_placeholder_is_protected() -> None:
    """With the value that the record has in the field of the same meaning."""
    fields = ["event.name", "appmon.application", "appmon.system_profile", "appmon.server", "event.category"]
    values = ["N", "A", "P", "S", "visit"]
    dropped = result(private(drop=fields, type=ALL))
    assert parsed(dropped.batch.body(0))["event.type"] == "////"
    assert dropped.counts.occurrences == {"visit": 1}
    record = parsed(result(private(hash=fields, type=ALL)).batch.body(0))
    assert record["event.type"] == "/".join(map(hashed, values)) == "/".join(record[field] for field in fields)


def test_what_a_template_makes_can_be_protected_again() -> None:
    """A hashed event.type is the hash of what the template makes of protected values."""
    record = parsed(result(private(hash=["event.name", "event.type"])).batch.body(0))
    assert (record["event.name"], record["event.type"]) == (hashed("N"), hashed(hashed("N")))


def test_an_absent_field_stays_absent_if_it_is_hashed() -> None:
    """An application that older servers do not send has no hash, and the provider is `appmon`."""
    found = result(private(hash=["appmon.application"]), {"name": "N"})
    record = parsed(found.batch.body(0))
    assert (record["event.provider"], found.batch.transactions[0].application) == ("appmon", "")
    assert "appmon.application" not in record


def test_a_computed_duration_does_not_depend_on_a_protected_category() -> None:
    """Only what records say is protected, not what btfeed knows."""
    visit = transaction(occurrence(endTime=1358330757842), type=2)
    found = mapped(wire.post(visit), private(drop=["event.category"]))
    assert parsed(found.batch.body(0))["duration"] == 2_000_000


def test_violations_are_counted_by_the_protected_name() -> None:
    """Metrics, logs and /status leave the process, too."""
    for settings, name in ((private(hash=["event.name"]), hashed("N")), (private(drop=["event.name"]), "")):
        assert {transaction for transaction, _, _ in result(settings).counts.violations} == {name}


def test_filters_see_protected_values() -> None:
    """The hash matches; the original value does not."""
    (one,) = result(private(hash=["event.name"], drop=["appmon.application"])).batch.transactions
    assert FilterSettings(name=[hashed("N")], application=[""], category=["visit"]).accepts(one)
    assert not FilterSettings(name=["N"]).accepts(one)
    assert not FilterSettings(application=["A"]).accepts(one)


def test_cloud_events_say_what_records_say() -> None:
    """Their type and source, and Kafka's key by name."""
    envelopes = Envelopes("application/json")

    def attributes(batch: Batch) -> tuple[str, bytes, bytes]:
        headers = dict(envelopes.headers(batch.ids[0], batch.body(0)))
        return envelopes.name(batch.ids[0], batch.body(0)), headers["ce_type"], headers["ce_source"]

    fields = ["event.name", "appmon.application"]
    assert attributes(result(private(drop=fields)).batch) == ("", b"unknown", b"appmon")
    names = hashed("N"), hashed("A")
    assert attributes(result(private(hash=fields)).batch) == (names[0], names[0].encode(), names[1].encode())
