"""Names of indexes, and the index template from the table of record fields."""

import hashlib
import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btfeed.records.schema import MAPS, RECORD_FIELDS
from sinks.base import SinkContext
from sinks.batch import Transaction
from sinks.elasticsearch.index import MAX_NAME_SIZE, TEMPLATE_VERSION, IndexName, check_name, index_template, template_name
from sinks.elasticsearch.settings import DEFAULT_INDEX

CONTEXT = SinkContext("search", RECORD_FIELDS, MAPS)
DATE = "2026-01-31"
FORBIDDEN = set('\\/*?"<>|,#: ') | set(string.ascii_uppercase)


def named(name: str = "Checkout", application: str = "easyTravel", category: str = "purepath") -> Transaction:
    return Transaction(name, application, "production", "appmon-01", category)


@pytest.mark.parametrize(
    ("text", "transaction", "expected"),
    [
        (DEFAULT_INDEX, named(), "bizevents-appmon-purepath-2026-01-31"),
        ("bt-{name}", named("Checkout - PurePaths (all)"), "bt-checkout_-_purepaths_(all)"),
        ("bt-{name}", named('a\\b/c*d?e"f<g>h|i j,k#l:m'), "bt-a_b_c_d_e_f_g_h_i_j_k_l_m"),
        ("bt-{name}", named("a\nb\x00\u2028\xa0"), "bt-a_b___"),
        ("bt-{name}", named("Überweisung 日本"), "bt-überweisung_日本"),
        ("bt-{application}-x", named(application=""), "bt-unknown-x"),
        ("{name}", named("-_+.x"), "x"),
        ("{name}", named("..."), "unknown"),
        ("-BizEvents: {date}", named(), "bizevents__2026-01-31"),
        ("{system_profile}.{server}", named(), "production.appmon-01"),
    ],
)
def test_names_are_made_legal(text: str, transaction: Transaction, expected: str) -> None:
    """Lower case, without characters and first characters that Elasticsearch forbids."""
    assert IndexName(text).name_for(transaction, DATE) == expected


@given(st.text(max_size=400), st.text(max_size=400))
def test_every_name_is_legal_and_matches_the_pattern(name: str, application: str) -> None:
    """Whatever AppMon's users call their transactions."""
    for text in ("bt-{name}-{date}", "bt-{application}.{name}.end", "{name}"):
        index = IndexName(text)
        found = index.name_for(named(name, application), DATE)
        assert 0 < len(found.encode()) <= MAX_NAME_SIZE
        assert found == found.lower()
        assert not set(found) & FORBIDDEN
        assert found[0] not in "-_+."
        before, _, after = index.pattern.partition("*")
        assert found.startswith(before)
        assert found.endswith(after.rpartition("*")[2])


def test_long_names_are_cut_and_stay_apart() -> None:
    """Names that differ only after the cut stay different. The date is never cut, nor is a character."""
    index = IndexName("bt-{name}-{date}")
    first, second = (index.name_for(named("ä" * 300 + end), DATE) for end in "ab")
    assert first != second
    assert first.endswith(DATE)
    assert len(first.encode()) <= MAX_NAME_SIZE


@pytest.mark.parametrize("text", ["", "x" * 256, "x" * 230 + "{name}"])
def test_a_template_without_room_is_refused(text: str) -> None:
    """If its own text is too long, or leaves too little for its placeholders."""
    with pytest.raises(ValueError, match=r"empty|too long"):
        check_name(text)
    assert check_name("x" * 200 + "{name}")


def test_the_template_says_what_the_field_table_says() -> None:
    """Every field with its type; dimensions as one field, measures always as doubles."""
    template = index_template(IndexName(DEFAULT_INDEX), data_stream=False, context=CONTEXT)
    assert template["index_patterns"] == ["bizevents-appmon-*-*"]
    mappings = template["template"]["mappings"]
    properties = mappings["properties"]
    assert set(properties) == {field.name for field in RECORD_FIELDS} | {"@timestamp", "appmon.dimension"}
    assert properties["@timestamp"] == properties["end_time"] == {"type": "date"}
    assert properties["duration"] == {"type": "long"}
    assert properties["appmon.cpu_time_ms"] == {"type": "double"}
    assert properties["appmon.visit.converted"] == {"type": "boolean"}
    assert properties["geo.country.name"]["type"] == properties["appmon.visit.converted_by"]["type"] == "keyword"
    assert properties["client.ip"] == {"type": "ip", "ignore_malformed": True}
    assert properties["appmon.dimension"]["type"] == "flattened"
    assert {"measures": {"path_match": "appmon.measure.*", "mapping": {"type": "double"}}} in mappings["dynamic_templates"]
    assert template["template"]["settings"]["index.mapping.total_fields.ignore_dynamic_beyond_limit"] is True
    assert "data_stream" not in template
    assert index_template(IndexName("x"), data_stream=True, context=CONTEXT)["data_stream"] == {}


def test_the_version_grows_with_the_template() -> None:
    """Servers keep their template unless the version is newer, so a change of the template changes both values here."""
    made = json.dumps(index_template(IndexName(DEFAULT_INDEX), data_stream=False, context=CONTEXT), sort_keys=True)
    assert (TEMPLATE_VERSION, hashlib.sha256(made.encode()).hexdigest()[:16]) == (1, "d066fc91e0e1413d")


def test_of_two_templates_the_closer_one_counts() -> None:
    """Elasticsearch refuses two templates of equal priority that match one index."""
    texts = ("bt-{name}", "bt-{category}-{date}", "bt-visit-{date}")
    priorities = [index_template(IndexName(text), False, CONTEXT)["priority"] for text in texts]
    assert priorities == sorted(set(priorities))
    assert template_name(IndexName(texts[1])) == "btfeed-bt-category-date"
