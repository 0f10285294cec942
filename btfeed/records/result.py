"""What mapping a post gives: its records as a batch, the occurrences that are refused, and counts."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

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


def _counter() -> dict[Any, int]:
    """collections.Counter takes ten times as long to create, and each post has five."""
    return defaultdict(int)


def _add(counter: dict[Any, int], other: dict[Any, int]) -> None:
    for key, number in other.items():
        counter[key] += number


@dataclass(slots=True)
class Counts:
    """What the metrics count in a post.

    occurrences      by event.category
    violations       by (business transaction, field, rule)
    left_out         values that a record cannot hold, by record field
    mismatches       occurrences with more or fewer values than names, by (field, "fewer" or "more")
    unknown_fields   by message of proto/bt.proto
    invalid_utf8     strings that were not valid UTF-8
    lost             BusinessTransactions.lostTransactions, unless that is negative
    """

    occurrences: dict[str, int] = field(default_factory=_counter)
    violations: dict[tuple[str, str, str], int] = field(default_factory=_counter)
    left_out: dict[str, int] = field(default_factory=_counter)
    mismatches: dict[tuple[str, str], int] = field(default_factory=_counter)
    unknown_fields: dict[str, int] = field(default_factory=_counter)
    invalid_utf8: int = 0
    lost: int = 0

    def add(self, other: "Counts") -> None:
        """Count what `other` counts, too."""
        _add(self.occurrences, other.occurrences)
        _add(self.violations, other.violations)
        _add(self.left_out, other.left_out)
        _add(self.mismatches, other.mismatches)
        _add(self.unknown_fields, other.unknown_fields)
        self.invalid_utf8 += other.invalid_utf8
        self.lost += other.lost


@dataclass(frozen=True, slots=True)
class MappingResult:
    """What a post became, or posts in a row of which no record is refused.

    batch    the records in the order of the posts, without those of `refused`
    ends     the number of records up to the end of each post; empty if it is one post
    """

    batch: Batch
    refused: list[RefusedRecord]
    counts: Counts
    ends: Sequence[int] = ()


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
