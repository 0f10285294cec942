"""Generate: posts as an AppMon server would make them of a profile's flows, in the order in which it would post them.

Flows begin at random, as many as the profile says for each hour; their occurrences wait in a heap until their time has
come, and are posted when there are enough for a post or the oldest has waited for INTERVAL. Equal arguments give equal
bytes.
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
from btfeed.traffic.sending import Outgoing
from btfeed.traffic.visits import HOUR, Entry, Flows, Kind

INTERVAL = 5_000
"""Milliseconds that an occurrence waits for others at most."""
BULK_SIZE = 100
"""Occurrences in a post, as an AppMon server has it by default."""
MONDAY = 1_767_571_200_000
"""2026-01-05T00:00Z: when flows begin of which nobody says when."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made.

    begin       the first moment, in milliseconds since the epoch. What began before and is still under way then is there,
                but where `flows` is set
    end         nothing arrives from then on; None: never
    flows       how many begin; None: as many as do
    rate        flows a second, whatever the hour, in the place of the profile's
    time_scale  by what the times between steps are divided
    bulk_size   occurrences in a post at most
    live        posts are due at their own time; else at once
    """

    profile: Profile
    seed: int = 0
    begin: int = MONDAY
    end: int | None = None
    flows: int | None = None
    rate: float | None = None
    time_scale: float = 1.0
    bulk_size: int = BULK_SIZE
    live: bool = False


def generate(order: Order) -> Iterator[Outgoing]:
    """The posts."""
    flows = Flows(order.profile, order.seed, order.time_scale)
    packer = _Packer(flows.transactions, order)
    warm = order.flows is None and not order.live
    first = order.begin - flows.longest() if warm else order.begin
    for entry in _in_order(flows, _starts(order, first), order.flows):
        if order.end is not None and entry.arrival >= order.end:
            break
        if entry.arrival >= order.begin:
            yield from packer.add(entry)
    yield from packer.rest()


def _in_order(flows: Flows, starts: Iterator[int], number: int | None) -> Iterator[Entry]:
    """The occurrences of all flows, as they arrive."""
    heap: list[Entry] = []
    for start in islice(starts, number):
        while heap and heap[0].arrival <= start:
            yield heapq.heappop(heap)
        for entry in flows.flow(start):
            heapq.heappush(heap, entry)
    while heap:
        yield heapq.heappop(heap)


def _starts(order: Order, first: int) -> Iterator[int]:
    """When flows begin, from `first` on, to the order's end: a Poisson process whose rate changes with the hour."""
    rng = Random(f"starts {order.seed}")
    weights = _Weights(order.profile)
    time = float(first)
    while order.end is None or time < order.end:
        rate = order.rate / 1000 if order.rate else weights.rate(int(time))  # flows a millisecond
        border = (time // HOUR + 1) * HOUR
        time += rng.expovariate(rate) if rate else HOUR
        if time >= border:
            time = border  # nothing is remembered: what was drawn for this hour says nothing of the next
        elif order.end is None or time < order.end:
            yield int(time)


class _Weights:
    """How many flows begin in which hour of a week."""

    def __init__(self, profile: Profile) -> None:
        times = profile.times
        mean = sum(times.hours) / 24 * (5 * times.weekday + 2 * times.weekend) / 7
        self._hours = [profile.flows_per_hour / HOUR * weight / mean for weight in times.hours]
        self._days = [times.weekday] * 5 + [times.weekend] * 2

    def rate(self, time: int) -> float:
        """Flows a millisecond."""
        when = datetime.fromtimestamp(time / 1000, UTC)
        return self._hours[when.hour] * self._days[when.weekday()]


class _Packer:
    """Collects occurrences for a post."""

    def __init__(self, kinds: list[Kind], order: Order) -> None:
        profile = order.profile
        self._heads = [_head(kind, profile.application) for kind in kinds]
        tail = BusinessTransaction(systemProfile=profile.system_profile)
        self._tail = tail.SerializePartialToString()
        self._server = BusinessTransactions(serverName=profile.server).SerializeToString()
        self._bulk_size = order.bulk_size
        self._begin, self._live = order.begin, order.live
        self._parts: dict[int, list[bytes]] = {}
        self._count = 0
        self._first = 0

    def add(self, entry: Entry) -> Iterator[Outgoing]:
        """The posts that are ready when `entry` arrives."""
        if self._count and entry.arrival - self._first > INTERVAL:
            yield self._post(self._first + INTERVAL)
        if not self._count:
            self._first = entry.arrival
        self._parts.setdefault(entry.transaction, []).append(entry.data)
        self._count += 1
        if self._count == self._bulk_size:
            yield self._post(entry.arrival)

    def rest(self) -> Iterator[Outgoing]:
        if self._count:
            yield self._post(self._first + INTERVAL)

    def _post(self, time: int) -> Outgoing:
        parts = []
        for transaction in sorted(self._parts):
            content = b"".join((self._heads[transaction], *self._parts[transaction], self._tail))
            parts += [b"\x0a", varint(len(content)), content]
        made = Outgoing(b"".join((*parts, self._server)), self._count, (time - self._begin) / 1000 if self._live else 0.0)
        self._parts = {}
        self._count = 0
        return made


def _head(kind: Kind, application: str) -> bytes:
    transaction = BusinessTransaction(
        name=kind.name, type=kind.type, application=application, measureNames=kind.measures, dimensionNames=kind.dimensions
    )
    return transaction.SerializeToString()
