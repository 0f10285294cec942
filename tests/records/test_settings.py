"""What settings and business transactions do to records: templates, attributes, privacy, policies, counts."""

import hashlib
import hmac
import subprocess
import sys
import tomllib
from typing import Any

import pytest
from pydantic import ValidationError

from btfeed.posts.post import digest
from btfeed.records.mapper import create_mapper
from btfeed.records.settings import RecordSettings
from btfeed.records.validation import ValidationSettings
from tests.records.mapping import START, mapped, occurrence, parsed, records, single, transaction
from tests.support import posts, wire

PUREPATH, USER_ACTION, VISIT = range(3)


def hashed(value: str) -> str:
    return hmac.new(b"k", value.encode(), hashlib.sha256).hexdigest()[:32]


# Identity


def test_an_event_id_is_the_digest_of_the_body_and_an_ordinal() -> None:
    """24 hex digits of BLAKE2b-256, a hyphen, and a number that counts through the whole post, from 0."""
    body = wire.post(transaction(*[occurrence()] * 2), transaction(), transaction(*[occurrence()] * 11))
    prefix = hashlib.blake2b(body, digest_size=32).hexdigest()[:24]
    expected = [f"{prefix}-{ordinal}" for ordinal in range(13)]
    assert [record["event.id"] for record in records(body)] == expected
    assert mapped(body).batch.ids == expected


def test_records_of_a_post_depend_on_nothing_but_it() -> None:
    """The same mapper gives the same result later, whatever it mapped in between."""
    mapper = create_mapper(RecordSettings(), ValidationSettings())
    bodies = [posts.mixed(30), posts.mixed(40, seed=1), posts.mixed(30)]
    one, two, again = [mapper.map(body, digest(body)) for body in bodies]
    assert bytes(one.batch.ndjson) == bytes(again.batch.ndjson) == bytes(mapped(bodies[0]).batch.ndjson)
    assert bytes(two.batch.ndjson) == bytes(mapped(bodies[1]).batch.ndjson)
    assert (one.batch.ids, one.batch.keys, one.counts) == (again.batch.ids, again.batch.keys, again.counts)


def test_the_key_is_the_visit() -> None:
    """So that the records of a visit stay together. Without a visit id, the key is event.id."""
    result = mapped(wire.post(transaction(occurrence(visitId=8589934592), occurrence(), occurrence(visitId=0))))
    assert result.batch.keys == ["8589934592", result.batch.ids[1], "0"]


# The business transaction


@pytest.mark.parametrize(
    ("kind", "category"),
    [(b"", "unknown"), (b"\x10\x00", "purepath"), (b"\x10\x01", "user_action"), (b"\x10\x02", "visit"),
     (b"\x10\x07", "unknown"), (b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "unknown")],
)  # fmt: skip
def test_the_category_is_the_type(kind: bytes, category: str) -> None:
    """It is `unknown` if the type is absent or not one of the three, which breaks one rule."""
    result = mapped(wire.transaction(wire.NAME + kind + wire.OCCURRENCE))
    assert parsed(result.batch.body(0))["event.category"] == category
    assert result.batch.transactions[0].category == category
    assert result.counts.occurrences == {category: 1}
    assert (("n", "type", "missing") in result.counts.violations) == (category == "unknown")


def test_what_older_servers_do_not_send_is_absent() -> None:
    """Server, system profile and application are never null and have no default. Empty text stays."""
    names = {"appmon.application", "appmon.system_profile", "appmon.server"}
    assert names.isdisjoint(single())
    body = wire.post(transaction(occurrence(), application="", systemProfile=""), serverName="")
    assert {name: value for name, value in records(body)[0].items() if name in names} == dict.fromkeys(names, "")


def test_what_servers_say_is_taken_as_sent() -> None:
    """In records, and in the templates and filters of sinks."""
    body = wire.post(transaction(occurrence(), application="A=b", systemProfile="P p"), serverName="S\n")
    result = mapped(body)
    record = parsed(result.batch.body(0))
    names = ("event.name", "appmon.application", "appmon.system_profile", "appmon.server")
    assert [record[name] for name in names] == ["bt", "A=b", "P p", "S\n"]
    (one,) = result.batch.transactions
    assert [one.name, one.application, one.system_profile, one.server, one.category] == [
        "bt",
        "A=b",
        "P p",
        "S\n",
        "unknown",
    ]


# Measures and dimensions


@pytest.mark.parametrize(
    ("names", "values", "expected"),
    [
        (["A (ms)", "b"], [1.0, 2.0], {"a_ms": 1.0, "b": 2.0}),
        (["a", "b", "c"], [1.0], {"a": 1.0}),
        (["a", "b"], [], {}),
        (["a"], [1.0, 2.0, 3.0], {"a": 1.0, "2": 2.0, "3": 3.0}),
        (["a", "A", ""], [1.0, 2.0, 3.0], {"a": 1.0, "a_2": 2.0, "3": 3.0}),
    ],
)
def test_values_are_called_by_their_names(names: list[str], values: list[float], expected: dict[str, float]) -> None:
    """In order. Names without a value give no field; values without a name are called by their position."""
    texts = [str(value) for value in values]
    record = single(bt={"measures": names, "dimensions": names}, values=values, dimensions=texts)
    wanted: dict[str, Any] = {f"appmon.measure.{name}": value for name, value in expected.items()}
    wanted |= {f"appmon.dimension.{name}": str(value) for name, value in expected.items()}
    assert {name: value for name, value in record.items() if name.startswith(("appmon.m", "appmon.d"))} == wanted


def test_mismatched_lengths_are_counted() -> None:
    """By list and direction, once for each occurrence. Too few values also break the rule `missing`."""
    body = wire.post(
        transaction(
            occurrence(values=[1.0], dimensions=["d"]), occurrence(values=[1.0] * 3), occurrence(values=[1.0] * 2),
            measures=["a", "b"], dimensions=[], type=PUREPATH,
        )
    )  # fmt: skip
    counts = mapped(body).counts
    assert counts.mismatches == {("values", "fewer"): 1, ("values", "more"): 1, ("dimensions", "more"): 1}
    assert counts.violations["bt", "values", "missing"] == 1
    assert ("bt", "dimensions", "missing") not in counts.violations


# Templates and attributes


def test_templates_make_type_and_provider() -> None:
    """A placeholder may occur twice, and braces in its value stay. event.name is always as sent."""
    text = "{category}/{name}/{application}/{system_profile}/{server}/{name}"
    bt = {"name": "{server}", "application": "app", "type": VISIT}
    record = single(bt=bt, settings={"type": text, "provider": text})
    assert record["event.type"] == record["event.provider"] == "visit/{server}/app///{server}"
    assert record["event.name"] == "{server}"


@pytest.mark.parametrize(
    ("template", "bt", "provider"),
    [
        ("{application}", {"application": "app"}, "app"),
        ("{application}", {"application": ""}, "appmon"),
        ("{application}", {}, "appmon"),
        ("{application}{server}", {}, "appmon"),
        ("", {"application": "app"}, "appmon"),
        ("prod", {}, "prod"),
    ],
)
def test_the_provider_is_never_empty(template: str, bt: dict[str, Any], provider: str) -> None:
    """Dynatrace would show it as Unknown."""
    assert single(bt=bt, settings={"provider": template})["event.provider"] == provider


@pytest.mark.parametrize("key", ["type", "provider"])
@pytest.mark.parametrize("text", ["{visit}", "{}", "{Name}", "{name!r}"])
def test_an_unknown_placeholder_is_refused(key: str, text: str) -> None:
    """The message lists the known ones."""
    with pytest.raises(ValidationError, match=r"unknown placeholder .*; known are \{name\}, "):
        RecordSettings.model_validate({key: text})


def test_attributes_are_added_to_every_record() -> None:
    """With their TOML types. TOML reads dots as tables; a record has one dotted name."""
    table = tomllib.loads('dt.entity.host = "H"\n"dt.security_context" = "c"\nn = 5\nf = 0.5\nb = true\n[a.b]\nc = "x"')
    expected = {"dt.entity.host": "H", "dt.security_context": "c", "n": 5, "f": 0.5, "b": True, "a.b.c": "x"}
    body = posts.mixed(20)
    without, records_with = records(body), records(body, {"attributes": table})
    assert [record | expected for record in without] == records_with


# Privacy


def test_dropped_fields_are_nowhere() -> None:
    """They are neither in the record nor in its key. Other fields stay as they are."""
    drop = [
        "client.ip",
        "appmon.visit.id",
        "duration",
        "appmon.measure.measurekey",
        "event.name",
        "appmon.visit.converted_by",
    ]
    settings = {"privacy": {"drop": drop}}
    body = posts.sample_visit()
    (before,), (record,) = records(body), records(body, settings)
    expected = {name: value for name, value in before.items() if name not in drop}
    assert record == expected | {"event.type": ""}
    result = mapped(body, settings)
    assert result.batch.keys == result.batch.ids


def test_all_constants_can_be_dropped() -> None:
    """The rest is still a record."""
    constants = ["event.type", "event.provider", "event.category", "event.name"]
    assert list(single(settings={"privacy": {"drop": constants}})) == ["event.kind", "event.id", "timestamp"]


def test_hashed_fields_are_hashed_everywhere() -> None:
    """In the record, its key, arrays and constants: the first 32 hex digits of HMAC-SHA-256."""
    names = ["user.name", "appmon.visit.id", "appmon.visit.converted_by", "appmon.dimension.splittingkey", "event.name"]
    result = mapped(posts.sample_visit(), {"privacy": {"hash": names, "key": "k"}})
    record = parsed(result.batch.body(0))
    assert record["user.name"] == hashed("btUser")
    assert record["appmon.visit.id"] == result.batch.keys[0] == hashed("8589934592")
    assert record["appmon.visit.converted_by"] == [hashed("conv"), hashed("by")]
    assert record["appmon.dimension.splittingkey"] == hashed("splitting")
    assert record["event.name"] == record["event.type"] == hashed("btName")
    assert record["client.ip"] == "1.2.3.4"


@pytest.mark.parametrize(
    ("sent", "arrives"), [("1.2.3.4", "1.2.3.0"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"), ("no address 1.2.3.4", None)]
)
def test_masked_addresses(sent: str, arrives: str | None) -> None:
    """Text that is not an address may contain one, so it is left out and counted."""
    result = mapped(wire.post(transaction(occurrence(clientIP=sent))), {"privacy": {"mask_ip": True}})
    assert parsed(result.batch.body(0)).get("client.ip") == arrives
    assert result.counts.left_out == ({} if arrives else {"client.ip": 1})


def test_dead_letters_are_private_too() -> None:
    """They may be delivered later."""
    body = wire.post(transaction(occurrence(startTime=2**62, visitId=5, clientIP="1.2.3.4", visitTag="me")))
    privacy = {"drop": ["user.name"], "hash": ["appmon.visit.id"], "key": "k", "mask_ip": True}
    (refused,) = mapped(body, {"privacy": privacy}).refused
    record = parsed(refused.body)
    assert (record["appmon.visit.id"], refused.key, record["client.ip"]) == (hashed("5"), hashed("5"), "1.2.3.0")
    assert "user.name" not in record


# Policies


def test_violations_are_reported_and_delivered() -> None:
    """By default. They are counted by transaction, field and rule."""
    result = mapped(posts.sample_purepath() * 2)
    assert (len(result.batch), result.refused) == (2, [])
    assert result.counts.violations == {("btName", "visitId", "unexpected"): 2}


@pytest.mark.parametrize(
    ("policy", "refused"),
    [({"missing": "dead-letter"}, [1]), ({"unexpected": "dead-letter"}, [2]),
     ({"missing": "dead-letter", "unexpected": "dead-letter"}, [1, 2])],
)  # fmt: skip
def test_dead_letters_by_policy(policy: dict[str, str], refused: list[int]) -> None:
    """Only that occurrence; its neighbors are delivered. Violations are counted as usual."""
    good = {"duration": 1.0, "failed": False}
    body = wire.post(transaction(occurrence(**good), occurrence(failed=True), occurrence(**good, url="u"), type=PUREPATH))
    result = mapped(body, None, **policy)
    reasons = {1: "missing duration", 2: "unexpected url"}
    assert [(letter.ordinal, letter.reason) for letter in result.refused] == [(n, reasons[n]) for n in refused]
    assert [int(one.rpartition("-")[2]) for one in result.batch.ids] == [n for n in range(3) if n not in refused]
    assert result.counts.violations == {("bt", "duration", "missing"): 1, ("bt", "url", "unexpected"): 1}
    assert result.counts.occurrences == {"purepath": 3}


def test_what_is_not_expected_can_be_dropped() -> None:
    """The record is delivered without the field, and its key is not made of it. The violation is counted."""
    result = mapped(posts.sample_purepath(), unexpected="drop")
    (before,) = records(posts.sample_purepath())
    record = parsed(result.batch.body(0))
    assert record == {name: value for name, value in before.items() if name != "appmon.visit.id"}
    assert result.batch.keys == result.batch.ids
    assert result.counts.violations == {("btName", "visitId", "unexpected"): 1}


def test_a_visits_duration_is_computed_if_the_sent_one_is_dropped() -> None:
    """The table has no duration for visits; a record has the difference of the times."""
    body = wire.post(transaction(occurrence(endTime=START + 2, duration=5.0), type=VISIT))
    assert records(body, unexpected="drop")[0]["duration"] == 2000000
    assert records(body)[0]["duration"] == 5000000


def test_an_occurrence_of_unknown_type_breaks_the_rule_missing() -> None:
    """Its only violation is `missing type`."""
    body = wire.post(transaction(occurrence(url="u")))
    (refused,) = mapped(body, missing="dead-letter").refused
    assert refused.reason == "missing type"
    assert records(body, unexpected="drop")[0]["url.full"] == "u"


def test_a_dead_letter_says_why() -> None:
    """It lists the broken rules. A start outside the calendar is the only reason given."""
    result = mapped(wire.post(transaction(occurrence(), type=PUREPATH)), missing="dead-letter", unexpected="dead-letter")
    assert [letter.reason for letter in result.refused] == ["missing duration, missing failed"]
    body = wire.post(transaction(occurrence(startTime=2**62), type=PUREPATH))
    (refused,) = mapped(body, missing="dead-letter").refused
    assert refused.reason.startswith("startTime ")


# Counts


def test_unknown_fields_are_counted_and_harm_nothing() -> None:
    """By message. A type that the feed does not have counts as an unknown field of the transaction."""
    unknown = b"\xf8\x07\x01" + wire.field(100, b"x") + wire.group(101, wire.field(1, b""))
    content = wire.NAME + b"\x10\x07" + wire.OCCURRENCE + wire.field(6, wire.START_TIME + unknown + b"\x18\x01")
    result = mapped(wire.transaction(content + wire.field(99, b"")) + unknown)
    assert len(result.batch) == 2
    expected = {"BusinessTransactions": 3, "BusinessTransaction": 2, "BtOccurrence": 4}
    assert result.counts.unknown_fields == expected
    assert mapped(posts.mixed(10)).counts.unknown_fields == {}


def test_what_the_server_lost_is_counted() -> None:
    """From the field lostTransactions."""
    assert mapped(wire.post(lostTransactions=5)).counts.lost == 5
    assert mapped(wire.post()).counts.lost == 0


# Memory


def test_wide_occurrences_that_all_differ_take_little_memory() -> None:
    """30 occurrences with about 20,000 dimensions each, in less than 250 MiB."""
    script = """if True:
        from tests.support.harness import peak_memory
        from tests.records.mapping import mapped
        from tests.support.wire import NAME, START_TIME, field, transaction
        wide = [field(6, START_TIME + b"\\x3a\\x01x" * (20_000 - place)) for place in range(30)]
        assert len(mapped(transaction(NAME + b"".join(wide))).batch) == 30
        print(peak_memory("self") // 2**20)
    """
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 250
