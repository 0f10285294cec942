"""Bulk requests to Elasticsearch: their bytes from a batch, and what a reply says of each record.

Every record is a `create` with its event.id as `_id`. If it is sent again, Elasticsearch answers with 409, so no record
is there twice. `verdict` is a pure function that decides what became of a request.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import accumulate
from typing import Any

import msgspec

from sinks.base import BatchRefused, Blocked, Misconfigured, OutcomeUnknown, Unavailable, WriteResult
from sinks.batch import Batch, Transaction
from sinks.elasticsearch.index import IndexName
from sinks.shared.http import Reply, shorten, with_quote

SECONDS_OF_DAY = 86_400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def bulk_request(batch: Batch, index: IndexName) -> bytes:
    """The body of a request: for each record a line with its index and id, and the record with `@timestamp` in front."""
    whole = memoryview(batch.ndjson)
    actions: dict[tuple[Transaction, int], str] = {}  # transaction and day -> the start of the first line
    action, last, today = "", None, None
    parts: list[bytes | memoryview] = []
    columns = zip(batch.ids, batch.timestamps, batch.transactions, batch.sizes, accumulate(batch.sizes), strict=True)
    for event_id, at, transaction, size, end in columns:
        second, millisecond = divmod(at, 1000)
        moment, day = _iso_second(second), second // SECONDS_OF_DAY
        if transaction is not last or day != today:  # most records go to the same index as the one before
            last, today = transaction, day
            if (transaction, day) not in actions:
                name = msgspec.json.encode(index.name_for(transaction, moment[:10])).decode()
                actions[transaction, day] = f'{{"create":{{"_index":{name},"_id":"'
            action = actions[transaction, day]
        parts.append(f'{action}{event_id}"}}}}\n{{"@timestamp":"{moment}.{millisecond:03}Z",'.encode())
        parts.append(whole[end - size + 1 : end])  # without its opening brace
    return b"".join(parts)


def index_names(batch: Batch, index: IndexName) -> list[str]:
    """The index of each record."""
    known: dict[tuple[Transaction, int], str] = {}
    found = []
    for at, transaction in zip(batch.timestamps, batch.transactions, strict=True):
        key = transaction, at // (1000 * SECONDS_OF_DAY)
        if key not in known:
            known[key] = index.name_for(transaction, _iso_second(at // 1000)[:10])
        found.append(known[key])
    return found


def at_timestamp(at: int) -> str:
    """The field @timestamp, from milliseconds since the epoch."""
    second, millisecond = divmod(at, 1000)
    return f"{_iso_second(second)}.{millisecond:03}Z"


@lru_cache(maxsize=10_000)
def _iso_second(seconds: int) -> str:
    """Seconds since the epoch as `2013-01-16T18:19:17`. Cached: the records of a batch share few of them."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]


_INDEX_FAULTS = {
    "index_closed_exception",
    "index_not_found_exception",
    "security_exception",
    "validation_exception",  # for a new index: the cluster may hold no more shards
}
"""Errors of a record that are its index's: that accepts nothing until a person acts."""
_INDEX_FAULT_REASONS = re.compile(r"no write index is defined|pipeline with id \[.*\] does not exist|require_data_stream")
_BLOCK = "cluster_block_exception"
"""The error of a block, on one index or on the whole cluster. On one index, `_INDEX_BLOCK` matches the reason."""
_INDEX_BLOCK = re.compile(r"index \[")
_UNREADABLE = re.compile(r"\[?[\w-]*(pars|e_o_f|eof)\w*_exception|action/metadata line|Validation Failed")
"""Reasons of a 400 that are in the request's records. With any other reason, every batch would be refused."""
_HINTS = {
    401: "check that the credentials in `auth` are right and not expired",
    403: "grant the privilege to a role of these credentials, or remove the block",
}
_NOT_THE_API = "unexpected answer: check that `hosts` are Elasticsearch servers"


def verdict(reply: Reply[Any], records: int, destinations: Callable[[], Sequence[str]] | None = None) -> WriteResult:
    """What became of a bulk request with that many records. The reply's body is decoded. Raises a SinkError.

    destinations: gives the name of each record's index, such as `index orders`; None if the sink has only one.

    200                             see `_item_results`
    400 for an unreadable request   BatchRefused
    413                             too large: BatchRefused
    429, 503                        Unavailable
    408, other 5xx but 501          OutcomeUnknown
    anything else                   Misconfigured
    """
    if reply.status == 200:
        return _item_results(reply.body, records, destinations)
    description = describe_error(reply)
    if reply.status == 413 or (reply.status == 400 and _UNREADABLE.search(description)):
        raise BatchRefused(description)
    if reply.status in (429, 503):
        raise Unavailable(description, reply.retry_after)
    if reply.status == 408 or (reply.status >= 500 and reply.status != 501):
        raise OutcomeUnknown(description, reply.retry_after)
    raise Misconfigured(f"{description}; {_HINTS.get(reply.status, _NOT_THE_API)}")


def _item_results(answer: Any, records: int, destinations: Callable[[], Sequence[str]] | None) -> WriteResult:
    """The result by the status of each record.

    2xx                               delivered
    409                               delivered before; counted as a duplicate
    see _is_index_fault               blocked: its index takes nothing
    429, 5xx, a block on the cluster  retry: the record is not at fault
    other 4xx                         refused

    If every record has to be retried, or the only index takes nothing, raises Unavailable or Misconfigured with the reason
    of one record, so that it is shown. Raises OutcomeUnknown if the reply is about another number of records.
    """
    items = answer.get("items") if isinstance(answer, dict) else None
    if not isinstance(items, list) or len(items) != records:
        found = len(items) if isinstance(items, list) else "no"
        raise OutcomeUnknown(f"the reply is about {found} records, but {records} were sent")
    if answer.get("errors") is False:
        return WriteResult()
    retry, refused, held, duplicates = [], {}, {}, 0
    person, later = "", ""
    for index, item in enumerate(items):
        status, kind, reason = _outcome(item)
        if 200 <= status < 300:
            continue
        if status == 409:
            duplicates += 1
        elif _is_index_fault(status, kind, reason):
            held[index] = f"{kind}: {shorten(reason)}"
        elif status == 429 or not 400 <= status < 500:
            retry.append(index)
            later = later or f"{status} {kind}: {shorten(reason)}"
        elif kind == _BLOCK:
            retry.append(index)
            person = person or f"{kind}: {shorten(reason)}"
        else:
            refused[index] = f"{kind}: {shorten(reason)}"
    flagged = {"duplicate": duplicates} if duplicates else {}
    if destinations is None and held:
        person = next(iter(held.values()))
        retry = sorted([*retry, *held])
        held = {}
    if retry and len(retry) == records:
        raise Misconfigured(person) if person else Unavailable(later)
    names = destinations() if destinations and held else ()
    blocked = {index: Blocked(names[index], reason) for index, reason in held.items()}
    return WriteResult(tuple(retry), refused, flagged=flagged, blocked=blocked)


def _is_index_fault(status: int, kind: str, reason: str) -> bool:
    """Whether a record's index takes nothing until a person acts: it is closed, blocked, missing or not permitted."""
    if kind == _BLOCK:
        return bool(_INDEX_BLOCK.search(reason))
    return status in (401, 403, 404) or kind in _INDEX_FAULTS or bool(_INDEX_FAULT_REASONS.search(reason))


def _outcome(item: Any) -> tuple[int, str, str]:
    """The status of an item, and the type and reason of its error. Status 0 if the item can't be read."""
    outcome = next(iter(item.values()), None) if isinstance(item, dict) else None
    if not isinstance(outcome, dict) or not isinstance(outcome.get("status"), int):
        return 0, "unreadable item", str(item)
    return outcome["status"], *_error(outcome)


def _error(answer: Any) -> tuple[str, str]:
    """The type and reason of Elasticsearch's error object in `answer`. Empty strings if it contains none."""
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        return "", error if isinstance(error, str) else ""
    cause = error.get("caused_by")
    reasons = [error.get("reason"), cause.get("reason") if isinstance(cause, dict) else None]
    return str(error.get("type") or ""), ": ".join(reason for reason in reasons if isinstance(reason, str))


def describe_error(reply: Reply[Any]) -> str:
    """The reply's status, and the error in its body if there is one."""
    text = ": ".join(part for part in _error(reply.body) if part) or (reply.body if isinstance(reply.body, str) else "")
    return with_quote(f"HTTP {reply.status}", text)
