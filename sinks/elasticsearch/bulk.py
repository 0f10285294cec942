"""Bulk requests of Elasticsearch: their bytes from a batch, and what a reply says of each record.

`verdict` is a pure function; all of the protocol that matters to delivery is there. Every record is a `create` under its
own event.id: what has been taken before is answered with 409, so that nothing is there twice however often it is sent.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import accumulate
from typing import Any

import msgspec

from sinks.base import BatchRefused, Misconfigured, OutcomeUnknown, Unavailable, WriteResult
from sinks.batch import Batch, Transaction
from sinks.elasticsearch.index import IndexName
from sinks.shared.http import retry_after, short

DAY = 86_400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def bulk(batch: Batch, index: IndexName) -> bytes:
    """The request: a line that says where to, and the record's own bytes with `@timestamp` in front, for each record."""
    whole = memoryview(batch.ndjson)
    targets: dict[tuple[Transaction, int], str] = {}  # transaction, day -> how the line begins
    target, last, today = "", None, None
    parts: list[bytes | memoryview] = []
    columns = zip(batch.ids, batch.timestamps, batch.transactions, batch.sizes, accumulate(batch.sizes), strict=True)
    for event_id, at, transaction, size, end in columns:
        second, millisecond = divmod(at, 1000)
        moment, day = _second(second), second // DAY
        if transaction is not last or day != today:  # most records go where the one before went
            last, today = transaction, day
            if (transaction, day) not in targets:
                name = msgspec.json.encode(index.of(transaction, moment[:10])).decode()
                targets[transaction, day] = f'{{"create":{{"_index":{name},"_id":"'
            target = targets[transaction, day]
        parts.append(f'{target}{event_id}"}}}}\n{{"@timestamp":"{moment}.{millisecond:03}Z",'.encode())
        parts.append(whole[end - size + 1 : end])  # but for the brace that opens it
    return b"".join(parts)


@lru_cache(maxsize=10_000)
def _second(seconds: int) -> str:
    """Seconds since the epoch as `2013-01-16T18:19:17`; records of one batch share few of them."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]


_WAITING = {
    "index_closed_exception",
    "index_not_found_exception",
    "cluster_block_exception",
    "security_exception",
    "validation_exception",  # of a new index: the cluster has no room for its shards
}
"""What is not the record's fault: an index or a cluster that takes nothing now."""
_WAITING_REASONS = re.compile(r"no write index is defined|pipeline with id \[.*\] does not exist|require_data_stream")
_UNREADABLE = re.compile(r"\[?[\w-]*(pars|e_o_f|eof)\w*_exception|action/metadata line|Validation Failed")
"""What is said where a whole request is refused for what is in it. Other reasons of a 400 would refuse every batch."""
_HINTS = {
    401: "are the credentials in `auth` right, and not expired?",
    403: "a role has to allow it, or a block to be lifted",
}
_NOT_THE_API = "this is not how Elasticsearch answers: are `hosts` right?"


def verdict(status: int, headers: Mapping[str, str], answer: Any, records: int) -> WriteResult:
    """What became of a bulk request of so many records. `answer` is the reply's body, decoded. Raises a SinkError.

    200          item by item, see `_items`
    400          a line that Elasticsearch can't read refuses the whole request; halved
    413          too large; halved
    429, 503     later
    408, other 5xx
                 nobody knows
    401, 403, 501, other 4xx and redirects need a person
    """
    if status == 200:
        return _items(answer, records)
    said = explain(status, answer)
    if status == 413 or (status == 400 and _UNREADABLE.search(said)):
        raise BatchRefused(said)
    if status in (429, 503):
        raise Unavailable(said, retry_after(headers))
    if status == 408 or (status >= 500 and status != 501):
        raise OutcomeUnknown(said, retry_after(headers))
    raise Misconfigured(f"{said}; {_HINTS.get(status, _NOT_THE_API)}")


def _items(answer: Any, records: int) -> WriteResult:
    """Each record by its status.

    2xx            taken
    409            taken before: delivered, counted as a duplicate
    429, 5xx       again
    401, 403, 404, and what is in _WAITING
                   again: it waits for a person, and is no fault of the record
    other 4xx      refused: a dead letter

    A reply about another number of records is none. Where no record was taken or refused, raises Unavailable or
    Misconfigured with what was said of one of them, so that it can be seen what they wait for.
    """
    items = answer.get("items") if isinstance(answer, dict) else None
    if not isinstance(items, list) or len(items) != records:
        found = f"{len(items)} records" if isinstance(items, list) else "no records"
        raise OutcomeUnknown(f"the reply is about {found}, and {records} were sent")
    if answer.get("errors") is False:
        return WriteResult()
    retry, refused, duplicates = [], {}, 0
    person, later = "", ""
    for index, item in enumerate(items):
        status, kind, reason = _outcome(item)
        if 200 <= status < 300:
            continue
        if status == 409:
            duplicates += 1
        elif status == 429 or not 400 <= status < 500:
            retry.append(index)
            later = later or f"{status} {kind}: {short(reason)}"
        elif status in (401, 403, 404) or kind in _WAITING or _WAITING_REASONS.search(reason):
            retry.append(index)
            person = person or f"{kind}: {short(reason)}"
        else:
            refused[index] = f"{kind}: {short(reason)}"
    if retry and len(retry) == records:
        raise Misconfigured(person) if person else Unavailable(later)
    return WriteResult(tuple(retry), refused, flagged={"duplicate": duplicates} if duplicates else {})


def _outcome(item: Any) -> tuple[int, str, str]:
    """Status, and type and reason of the error. 0 where the item can't be understood."""
    outcome = next(iter(item.values()), None) if isinstance(item, dict) else None
    if not isinstance(outcome, dict) or not isinstance(outcome.get("status"), int):
        return 0, "not understood", str(item)
    return outcome["status"], *_error(outcome)


def _error(answer: Any) -> tuple[str, str]:
    """Type and reason of an error as Elasticsearch describes it; empty where it is none."""
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        return "", error if isinstance(error, str) else ""
    cause = error.get("caused_by")
    reasons = [error.get("reason"), cause.get("reason") if isinstance(cause, dict) else None]
    return str(error.get("type") or ""), ": ".join(reason for reason in reasons if isinstance(reason, str))


def explain(status: int, answer: Any) -> str:
    """A status, and what the decoded body says of it in words."""
    said = ": ".join(part for part in _error(answer) if part) or (answer if isinstance(answer, str) else "")
    return f"HTTP {status}: {short(said)}" if said.strip() else f"HTTP {status}"
