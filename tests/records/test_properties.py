"""For any post, the mapper agrees with an oracle made from the documented field table."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btfeed.posts import admission
from btfeed.posts.admission import TooManyOccurrences
from btfeed.posts.bt_pb2 import BusinessTransactions
from btfeed.posts.post import Malformed, digest
from btfeed.records.mapper import create_mapper
from btfeed.records.result import MappingResult
from btfeed.records.settings import RecordSettings
from btfeed.records.validation import ValidationSettings
from tests.records.mapping import equal, mapped, parsed
from tests.records.oracle import expect
from tests.support import strategies
from tests.support.strategies import examples

POLICIES = [("report", "report"), ("report", "drop"), ("dead-letter", "report"), ("report", "dead-letter")]
SHARED = create_mapper(RecordSettings(), ValidationSettings())
"""Maps one post after another, as in a running server."""


def check(body: bytes, found: MappingResult, missing: str = "report", unexpected: str = "report") -> None:
    """The result agrees with the oracle."""
    expected = expect(body, missing, unexpected)
    assert [parsed(record) for record in found.batch.bodies] == expected.delivered
    assert [parsed(refused.body) for refused in found.refused] == expected.refused
    counts = found.counts
    assert (counts.left_out, counts.violations) == (expected.left_out, expected.violations)
    assert (counts.mismatches, counts.invalid_utf8) == (expected.mismatches, expected.invalid_utf8)


@pytest.mark.parametrize(("missing", "unexpected"), POLICIES)
@given(body=strategies.bodies)
@settings(max_examples=examples(100))
def test_mapping_says_what_the_contract_says(missing: str, unexpected: str, body: bytes) -> None:
    """No field is lost, invented or changed, and the counts agree, under each policy."""
    check(body, mapped(body, missing=missing, unexpected=unexpected), missing, unexpected)


@given(body=strategies.almost_posts)
@settings(max_examples=examples(400))
def test_any_bytes_are_malformed_or_mapped(body: bytes) -> None:
    """Every post that the receiver accepts is mapped as the oracle says. Other bodies raise Malformed or are mapped too."""
    try:
        admission.admit(body, 1000)
    except (Malformed, TooManyOccurrences):
        try:
            SHARED.map(body, digest(body))
        except Malformed:
            return
    check(body, SHARED.map(body, digest(body)))


@given(bodies=st.lists(strategies.bodies, min_size=2, max_size=3))
@settings(max_examples=examples(50))
def test_the_same_post_gives_the_same_bytes(bodies: list[bytes]) -> None:
    """From the same mapper again, and from another one, whatever was mapped in between."""
    mapper = create_mapper(RecordSettings(), ValidationSettings())
    rounds = [[mapper.map(body, digest(body)) for body in bodies] for _ in range(2)]
    for body, one, two in zip(bodies, *rounds, strict=True):
        for other in (two, mapped(body)):
            equal(other, one)


@given(body=strategies.bodies)
@settings(max_examples=examples(100))
def test_columns_fit_together(body: bytes) -> None:
    """They have equal length, and each record is one line. Each occurrence is either in the batch or refused."""
    result = mapped(body)
    batch = result.batch
    columns = (batch.ids, batch.keys, batch.timestamps, batch.transactions, batch.bodies)
    assert {len(column) for column in columns} == {len(batch)} == {len(batch.sizes)}
    assert sum(batch.sizes) == len(batch.ndjson) == batch.nbytes
    assert batch.ndjson == b"".join(record + b"\n" for record in batch.bodies)
    message = BusinessTransactions.FromString(body)
    occurrences = [(bt, occurrence) for bt in message.businessTransactions for occurrence in bt.occurrences]
    refused = {letter.ordinal: letter for letter in result.refused}
    kept = [pair for ordinal, pair in enumerate(occurrences) if ordinal not in refused]
    assert len(kept) == len(batch)
    for index, (bt, occurrence) in enumerate(kept):
        record = parsed(batch.body(index))
        assert (batch.ids[index], batch.timestamps[index]) == (record["event.id"], occurrence.startTime)
        assert batch.keys[index] == record.get("appmon.visit.id", record["event.id"])
        one = batch.transactions[index]
        assert (one.name, one.application, one.system_profile) == (bt.name, bt.application, bt.systemProfile)
        assert (one.server, one.category) == (message.serverName, record["event.category"])
    assert all(letter.id.endswith(f"-{ordinal}") for ordinal, letter in refused.items())
