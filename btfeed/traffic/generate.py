"""Generates the posts that an AppMon server would send for the visits of a profile, in the same order.

Visits begin at random, as often as the profile says for each hour. Their occurrences wait in a heap until they arrive.
Arrived occurrences make a post once there are enough of them, or once the oldest has waited for MAX_WAIT_MS. Equal options
give equal bytes.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from random import Random

from btfeed.posts.bt_pb2 import BusinessTransaction, BusinessTransactions
from btfeed.posts.files import varint
from btfeed.traffic.profile import Profile
from btfeed.traffic.sending import ScheduledPost
from btfeed.traffic.visits import HOUR, PendingOccurrence, TransactionHeader, VisitSimulator

MAX_WAIT_MS = 5_000
"""How long an occurrence waits at most for its post to fill up, in milliseconds."""
BULK_SIZE = 100
"""Occurrences per post: an AppMon server's default."""
DEFAULT_BEGIN = 1_767_571_200_000
"""2026-01-05T00:00Z, a Monday: when the first visit may begin if no time is given."""


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """What to generate.

    begin       first moment, in milliseconds since the epoch. Visits that began earlier and are still under way then are
                included, unless `visits` or `live` is set
    end         nothing arrives from then on; None: no end
    visits      how many to generate; None: no limit
    rate        new visits per second at any hour, instead of the profile's rate
    time_scale  divides the times between steps
    bulk_size   maximum number of occurrences per post
    live        posts are due when an AppMon server would send them; otherwise at once
    """

    profile: Profile
    seed: int = 0
    begin: int = DEFAULT_BEGIN
    end: int | None = None
    visits: int | None = None
    rate: float | None = None
    time_scale: float = 1.0
    bulk_size: int = BULK_SIZE
    live: bool = False


def generate(options: GenerateOptions) -> Iterator[ScheduledPost]:
    """The posts, in the order in which they are sent."""
    simulator = VisitSimulator(options.profile, options.seed, options.time_scale)
    builder = _PostBuilder(simulator.transactions, options)
    warm_up = options.visits is None and not options.live
    first = options.begin - simulator.max_duration() if warm_up else options.begin
    for occurrence in _in_order(simulator, _starts(options, first), options.visits):
        if options.end is not None and occurrence.arrival >= options.end:
            break
        if occurrence.arrival >= options.begin:
            yield from builder.add(occurrence)
    yield from builder.finish()


def _in_order(simulator: VisitSimulator, starts: Iterator[int], visits: int | None) -> Iterator[PendingOccurrence]:
    """The occurrences of all visits, in the order of their arrival."""
    heap: list[PendingOccurrence] = []
    for start in islice(starts, visits):
        while heap and heap[0].arrival <= start:
            yield heapq.heappop(heap)
        for occurrence in simulator.visit(start):
            heapq.heappush(heap, occurrence)
    while heap:
        yield heapq.heappop(heap)


def _starts(options: GenerateOptions, first: int) -> Iterator[int]:
    """When visits begin, from `first` until the end: a Poisson process whose rate changes every hour."""
    rng = Random(f"starts {options.seed}")
    rates = _HourlyRates(options.profile)
    time = float(first)
    while options.end is None or time < options.end:
        rate = options.rate / 1000 if options.rate else rates.at(int(time))  # visits per millisecond
        next_hour = (time // HOUR + 1) * HOUR
        time += rng.expovariate(rate) if rate else HOUR
        if time >= next_hour:
            time = next_hour  # draw again with the next hour's rate; a Poisson process has no memory
        elif options.end is None or time < options.end:
            yield int(time)


class _HourlyRates:
    """How many visits begin in each hour of a week."""

    def __init__(self, profile: Profile) -> None:
        times = profile.times
        mean = sum(times.hours) / 24 * (5 * times.weekday + 2 * times.weekend) / 7
        self._hours = [profile.flows_per_hour / HOUR * weight / mean for weight in times.hours]
        self._days = [times.weekday] * 5 + [times.weekend] * 2

    def at(self, time: int) -> float:
        """Visits per millisecond. time: milliseconds since the epoch."""
        when = datetime.fromtimestamp(time / 1000, UTC)
        return self._hours[when.hour] * self._days[when.weekday()]


class _PostBuilder:
    """Collects occurrences into posts. A post is assembled from encoded parts: that is faster than a message of objects."""

    def __init__(self, transactions: list[TransactionHeader], options: GenerateOptions) -> None:
        profile = options.profile
        self._headers = [_encode_header(transaction, profile.application) for transaction in transactions]
        self._system_profile = BusinessTransaction(systemProfile=profile.system_profile).SerializePartialToString()
        self._server_name = BusinessTransactions(serverName=profile.server).SerializeToString()
        self._bulk_size = options.bulk_size
        self._begin, self._live = options.begin, options.live
        self._occurrences: dict[int, list[bytes]] = {}  # by transaction
        self._count = 0
        self._first_arrival = 0

    def add(self, occurrence: PendingOccurrence) -> Iterator[ScheduledPost]:
        """Add an occurrence. Gives the posts that are due by its arrival."""
        if self._count and occurrence.arrival - self._first_arrival > MAX_WAIT_MS:
            yield self._build(self._first_arrival + MAX_WAIT_MS)
        if not self._count:
            self._first_arrival = occurrence.arrival
        self._occurrences.setdefault(occurrence.transaction, []).append(occurrence.data)
        self._count += 1
        if self._count == self._bulk_size:
            yield self._build(occurrence.arrival)

    def finish(self) -> Iterator[ScheduledPost]:
        """The last post, if occurrences are left."""
        if self._count:
            yield self._build(self._first_arrival + MAX_WAIT_MS)

    def _build(self, time: int) -> ScheduledPost:
        parts = []
        for transaction in sorted(self._occurrences):
            content = b"".join((self._headers[transaction], *self._occurrences[transaction], self._system_profile))
            parts += [b"\x0a", varint(len(content)), content]
        body = b"".join((*parts, self._server_name))
        post = ScheduledPost(body, self._count, (time - self._begin) / 1000 if self._live else 0.0)
        self._occurrences = {}
        self._count = 0
        return post


def _encode_header(transaction: TransactionHeader, application: str) -> bytes:
    return BusinessTransaction(
        name=transaction.name,
        type=transaction.type,
        application=application,
        measureNames=transaction.measures,
        dimensionNames=transaction.dimensions,
    ).SerializeToString()
