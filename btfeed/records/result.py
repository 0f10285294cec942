"""What mapping a post gives: its records as a batch, the occurrences that are refused, and counts."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sinks.batch import Batch, Transaction


@dataclass(frozen=True, slots=True)
class RefusedRecord:
    """An occurrence that must not be delivered.

    timestamp  startTime, also where it is outside the calendar
    body       its record as JSON, without a newline
    """

    ordinal: int
    id: str
    key: str
    timestamp: int
    transaction: Transaction
    reason: str
    body: bytes


@dataclass(slots=True)
class Counts:
    """What the metrics tell about a post.

    occurrences      by event.category
    violations       by (business transaction, field, rule)
    left_out         values that a record cannot hold, by record field
    mismatches       occurrences with more or fewer values than names, by (field, "fewer" or "more")
    unknown_fields   by message of proto/bt.proto
    invalid_utf8     strings that were not valid UTF-8
    lost             BusinessTransactions.lostTransactions
    """

    occurrences: Counter[str] = field(default_factory=Counter)
    violations: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    mismatches: Counter[tuple[str, str]] = field(default_factory=Counter)
    unknown_fields: Counter[str] = field(default_factory=Counter)
    invalid_utf8: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class MappingResult:
    """What a post became. The batch has the records in the order of the post, without those of `refused`."""

    batch: Batch
    refused: list[RefusedRecord]
    counts: Counts


Posts = Sequence[tuple[bytes, bytes]]
"""Bodies of posts, each with its digest."""


def map_each(
    map_post: Callable[[bytes, bytes], MappingResult], posts: Posts, max_bytes: int
) -> list[MappingResult | Exception]:
    """The result of each post, or the exception that it raised.

    Stops after the post with which the records have more than `max_bytes`, so that the list may be shorter than `posts`.
    """
    results: list[MappingResult | Exception] = []
    for body, digest in posts:
        try:
            result = map_post(body, digest)
            max_bytes -= result.batch.nbytes
            results.append(result)
        except Exception as error:  # noqa: BLE001 - one post must not harm the others
            results.append(error)
        if max_bytes < 0:
            break
    return results
