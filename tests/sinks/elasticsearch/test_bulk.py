"""Bulk requests to Elasticsearch, and what canned replies mean; without a server."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from sinks.base import BatchRefused, Blocked, Misconfigured, OutcomeUnknown, SinkError, Unavailable, WriteResult
from sinks.batch import Batch, Transaction
from sinks.elasticsearch.bulk import bulk_request, index_names, verdict
from sinks.elasticsearch.index import IndexName
from sinks.shared.http import Reply
from tests.support.fakes import batch_of, mapped

INDEX = IndexName("bt-{category}-{date}")
DAY = 86_400_000


def test_each_record_is_a_line_of_where_to_and_its_own_bytes() -> None:
    """With `@timestamp` in front. The index depends on the record alone."""
    batch = mapped(200)
    lines = bulk_request(batch, INDEX).splitlines()
    assert len(lines) == 400
    for head, document, body, event_id in zip(lines[::2], lines[1::2], batch.bodies, batch.ids, strict=True):
        record = json.loads(body)
        index = f"bt-{record['event.category']}-{record['timestamp'][:10]}"
        assert json.loads(head) == {"create": {"_index": index, "_id": event_id}}
        assert document == b'{"@timestamp":"%s",' % record["timestamp"].encode() + body[1:]


def test_batches_that_share_buffers_are_cut_right() -> None:
    """However the records are distributed over parts."""
    batch = mapped(30)
    whole = bulk_request(batch, INDEX)
    assert bulk_request(batch.slice(0, 7), INDEX) + bulk_request(batch.slice(7, 30), INDEX) == whole
    assert bulk_request(Batch.concat([batch.slice(0, 7), batch.slice(7, 30)]), INDEX) == whole
    assert bulk_request(batch.take([3, 4, 9]), INDEX).count(b"\n") == 6


@pytest.mark.parametrize(
    ("at", "moment"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (DAY - 1, "1970-01-01T23:59:59.999Z"),
        (DAY, "1970-01-02T00:00:00.000Z"),
        (-62_135_596_800_000, "0001-01-01T00:00:00.000Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_the_date_is_the_events_own_in_utc(at: int, moment: str) -> None:
    """At both ends of a day, and of the calendar."""
    head, document = bulk_request(one_at(at), INDEX).splitlines()
    assert json.loads(document)["@timestamp"] == moment
    assert json.loads(head)["create"]["_index"] == f"bt-purepath-{moment[:10]}"


def test_neighbors_go_to_indexes_of_their_own() -> None:
    """By their own day and transaction, in any order."""
    visits = Transaction("v", "a", "p", "s", "visit")
    batch = Batch.concat([one_at(0), one_at(DAY), one_at(0, visits), one_at(0), one_at(DAY, visits)])
    found = [json.loads(line)["create"]["_index"] for line in bulk_request(batch, INDEX).splitlines()[::2]]
    assert [name.removeprefix("bt-") for name in found] == [
        "purepath-1970-01-01", "purepath-1970-01-02", "visit-1970-01-01", "purepath-1970-01-01", "visit-1970-01-02",
    ]  # fmt: skip


def test_the_names_of_indexes_are_those_in_the_request() -> None:
    """For each record, also when transactions and days alternate."""
    for batch in (mapped(200), Batch.concat([one_at(DAY), one_at(-1), one_at(0), one_at(DAY)])):
        heads = bulk_request(batch, INDEX).splitlines()[::2]
        assert index_names(batch, INDEX) == [json.loads(head)["create"]["_index"] for head in heads]


def test_awkward_names_stay_inside_their_line() -> None:
    """Names are escaped as JSON."""
    batch = one_at(0, Transaction('a"\\\n{ä', "", "", "", "purepath"))
    head, _ = bulk_request(batch, IndexName("bt-{name}")).split(b"\n", 1)
    assert json.loads(head)["create"]["_index"] == "bt-a___{ä"


def one_at(at: int, transaction: Transaction | None = None) -> Batch:
    body = b'{"event.id":"x"}\n'
    transaction = transaction or Transaction("n", "a", "p", "s", "purepath")
    return Batch(["x"], ["x"], [at], [transaction], [len(body)], [memoryview(body)])


# What a reply says

CREATED: dict[str, Any] = {"create": {"status": 201}}


def item(status: int, kind: str = "", reason: str = "r", cause: str = "") -> dict[str, Any]:
    error: dict[str, Any] = {"type": kind, "reason": reason}
    if cause:
        error["caused_by"] = {"type": "t", "reason": cause}
    return {"create": {"status": status, "error": error}}


def reply(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Reply[Any]:
    return Reply(status, headers or {}, body, received=0.0)


def item_results(*items: Any, several: bool = True) -> WriteResult:
    """The result of these items, each of another index if there are several."""
    names = [f"index {place}" for place in range(len(items))]
    return verdict(reply(200, {"errors": True, "items": list(items)}), len(items), (lambda: names) if several else None)


def test_what_is_taken_is_not_named() -> None:
    """With and without errors of other records."""
    assert verdict(reply(200, {"errors": False, "items": [CREATED] * 3}), 3) == WriteResult()
    assert item_results(CREATED, {"create": {"status": 200}}) == WriteResult()


def test_409_is_a_duplicate() -> None:
    """It was delivered, and counts as a duplicate."""
    conflict = item(409, "version_conflict_engine_exception")
    assert item_results(conflict, CREATED, conflict) == WriteResult(flagged={"duplicate": 2})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, "es_rejected_execution_exception"),
        (429, "cluster_block_exception"),  # the disk's flood stage
        (503, "unavailable_shards_exception"),
        (500, "i_o_exception"),
        (502, ""),
    ],
)
def test_what_is_pushed_back_is_written_again(status: int, kind: str) -> None:
    """Only that record. If no record was taken, the error has the reason."""
    assert item_results(CREATED, item(status, kind), CREATED).retry == (1,)
    with pytest.raises(Unavailable, match=rf"{status} {kind}: r") as raised:
        item_results(item(status, kind), item(status, kind))
    assert not isinstance(raised.value, OutcomeUnknown)


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (400, "index_closed_exception", "closed"),
        (403, "cluster_block_exception", "index [x] blocked by: [FORBIDDEN/8/index write (api)];"),
        (
            429,
            "cluster_block_exception",
            "index [x] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage watermark];",
        ),
        (403, "security_exception", "action is unauthorized"),
        (404, "index_not_found_exception", "no such index [x] and [action.auto_create_index] is [false]"),
        (404, "resource_not_found_exception", "[require_data_stream] request flag is [true] and [x] is not a data stream"),
        (400, "validation_exception", "this action would add [2] shards, but this cluster has [1]/[1] maximum shards open"),
        (400, "illegal_argument_exception", "no write index is defined for alias [x]"),
        (400, "illegal_argument_exception", "pipeline with id [x] does not exist"),
    ],
)
def test_what_is_an_indexs_fault_is_blocked(status: int, kind: str, reason: str) -> None:
    """Its neighbors are delivered, or written again. If there is only one index, a person is told."""
    fault = item(status, kind, reason)
    assert item_results(CREATED, fault, item(429)) == WriteResult(
        retry=(2,), blocked={1: Blocked("index 1", f"{kind}: {reason}")}
    )
    assert item_results(CREATED, fault, several=False) == WriteResult(retry=(1,))
    with pytest.raises(Misconfigured) as raised:
        item_results(item(503, "unavailable_shards_exception"), fault, several=False)
    assert str(raised.value) == f"{kind}: {reason}"


@pytest.mark.parametrize("several", [True, False])
def test_a_block_on_the_cluster_holds_all_records(several: bool) -> None:
    """No index is at fault, so nothing stands aside."""
    block = item(403, "cluster_block_exception", "blocked by: [FORBIDDEN/6/cluster read-only (api)];")
    assert item_results(CREATED, block, several=several) == WriteResult(retry=(1,))
    with pytest.raises(Misconfigured, match="cluster read-only"):
        item_results(block, block, several=several)


@pytest.mark.parametrize(
    "kind",
    [
        "document_parsing_exception",
        "mapper_parsing_exception",
        "strict_dynamic_mapping_exception",
        "illegal_argument_exception",
        "invalid_index_name_exception",
    ],
)
def test_what_is_the_records_fault_is_refused(kind: str) -> None:
    """With Elasticsearch's reason; its neighbors are delivered."""
    result = item_results(CREATED, item(400, kind, "failed to parse field [duration]", 'For input string: "abc"'), CREATED)
    assert result == WriteResult(refused={1: f'{kind}: failed to parse field [duration]: For input string: "abc"'})


def test_every_kind_of_result_in_one_reply() -> None:
    """Each record has its own result."""
    result = item_results(
        CREATED, item(409), item(429), item(400, "document_parsing_exception"), item(403), {"create": {}}, None
    )
    assert result == WriteResult(
        (2, 5, 6), {3: "document_parsing_exception: r"}, flagged={"duplicate": 1}, blocked={4: Blocked("index 4", ": r")}
    )


@pytest.mark.parametrize(
    "answer",
    [
        {"errors": False, "items": [CREATED]},
        {"errors": False, "items": [CREATED] * 3},
        {"errors": False, "items": []},
        {"errors": False},
        {},
        [],
        None,
        "<html>",
    ],
)
def test_a_reply_about_another_number_of_records_is_an_unknown_outcome(answer: Any) -> None:
    """The outcome is unknown. The batch is written again, which duplicates nothing."""
    with pytest.raises(OutcomeUnknown, match="but 2 were sent"):
        verdict(reply(200, answer), 2)


def whole(kind: str, reason: str) -> dict[str, Any]:
    return {"error": {"type": kind, "reason": reason, "root_cause": []}}


MALFORMED = whole("illegal_argument_exception", "Malformed action/metadata line [1], expected field [create]")


@pytest.mark.parametrize(
    ("status", "answer", "error", "said"),
    [
        (400, MALFORMED, BatchRefused, "action/metadata line"),
        (400, whole("x_content_parse_exception", "[1:2] Unexpected character"), BatchRefused, "Unexpected"),
        (400, whole("json_e_o_f_exception", "end"), BatchRefused, "end"),
        (413, None, BatchRefused, "HTTP 413"),
        (400, whole("illegal_argument_exception", "unrecognized parameter: [x]"), Misconfigured, "unrecognized"),
        (400, "The plain HTTP request was sent to HTTPS port", Misconfigured, "plain HTTP"),
        (401, whole("security_exception", "unable to authenticate user [x]"), Misconfigured, "credentials"),
        (403, whole("security_exception", "action is unauthorized"), Misconfigured, "role"),
        (403, whole("cluster_block_exception", "[FORBIDDEN/6/cluster read-only (api)];"), Misconfigured, "read-only"),
        (404, {"error": "no handler"}, Misconfigured, "no handler; unexpected answer"),
        (302, "", Misconfigured, "check that `hosts` are"),
        (429, whole("circuit_breaking_exception", "Data too large"), Unavailable, "Data too large"),
        (503, whole("cluster_block_exception", "no master"), Unavailable, "no master"),
        (500, whole("x", "y"), OutcomeUnknown, "y"),
        (502, "<html>bad gateway</html>", OutcomeUnknown, "bad gateway"),
        (504, None, OutcomeUnknown, "HTTP 504"),
        (408, None, OutcomeUnknown, "HTTP 408"),
    ],
)  # fmt: skip
def test_a_request_that_failed_as_a_whole(status: int, answer: Any, error: type[SinkError], said: str) -> None:
    """Each status has its error, with Elasticsearch's message."""
    with pytest.raises(error) as raised:
        verdict(reply(status, answer), 5)
    assert type(raised.value) is error
    assert said in str(raised.value)


@pytest.mark.parametrize("status", [429, 503, 502])
def test_retry_after_is_the_least_time_to_wait(status: int) -> None:
    """With every status that has it."""
    with pytest.raises(Unavailable) as raised:
        verdict(reply(status, None, {"Retry-After": "7"}), 1)
    assert raised.value.retry_after == 7


def test_long_reasons_are_cut() -> None:
    """They are kept with the dead letters."""
    result = item_results(CREATED, item(400, "document_parsing_exception", "x" * 5_000))
    assert len(result.refused[1]) < 400


def test_the_shared_bodies_are_left_as_they_were() -> None:
    """Other sinks write the same buffers."""
    batch = batch_of([b'{"a":1}', b'{"b":2}'])
    before = batch.ndjson
    bulk_request(batch, INDEX)
    assert batch.ndjson == before
