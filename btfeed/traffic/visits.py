"""Flows: what one visitor of a profile's business process does, as the occurrences that AppMon would post of it.

A flow is one visit. Each step that it takes is a user action; the PurePaths behind it run one after the other within it,
and their times add up to its server time. The visit says what its actions say together. Draws are made in one order from
one seed, so that equal seeds give equal flows, whenever they begin.
"""

from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from random import Random
from typing import Any, Generic, NamedTuple, TypeVar

from btfeed.posts.bt_pb2 import BtOccurrence, BusinessTransaction
from btfeed.posts.files import varint
from btfeed.traffic.profile import Profile, StepSettings

T = TypeVar("T")

HOUR = 3_600_000
SEGMENT, STEP, COUNT, REVENUE = "Customer segment", "Step", "Count", "Revenue"
"""Names of dimensions and measures."""
FIRST_VISIT = 2**33
"""Visit ids begin beyond 32 bits, as AppMon's do."""
AGENTS = 4
"""Servers on which requests run."""
NETWORK = 131_072
"""Addresses of 198.18.0.0/15, which belongs to nobody."""
USERS = 20_000


class Entry(NamedTuple):
    """An occurrence on its way into a post. arrival: milliseconds since the epoch when AppMon has it. order: among all.
    transaction: place in `Flows.transactions`. data: the field of the BusinessTransaction, encoded."""

    arrival: int
    order: int
    transaction: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Kind:
    """A business transaction without its occurrences."""

    name: str
    type: BusinessTransaction.Type
    measures: tuple[str, ...]
    dimensions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Step:
    """A step, compiled. Times in microseconds, but for gaps in milliseconds."""

    settings: StepSettings
    action: str
    url: str
    transaction: int
    requests: tuple[int, ...]
    revenue: bool
    error: float
    extra: int
    client_errors: int
    back: int


class _Choice(Generic[T]):
    """One of `rows`, as likely as its percent."""

    def __init__(self, rows: Sequence[T]) -> None:
        self._rows = rows
        self._bounds = list(accumulate(row.percent for row in rows))  # type: ignore[attr-defined]  # each has one
        self._total = self._bounds[-1]

    def draw(self, draw: float) -> T:
        """draw: from 0 to 1."""
        return self._rows[min(bisect(self._bounds, draw * self._total), len(self._rows) - 1)]


class _Visit:
    """What a visit's actions say together, and where it stands."""

    __slots__ = ("actions", "agent", "apdex", "client_errors", "converted_by", "end", "failed", "id", "last_failed", "now",
                 "range", "revenue", "segment", "start")  # fmt: skip

    def __init__(self, start: int, number: int) -> None:
        self.start = self.now = self.end = start
        self.id = number
        self.actions = self.failed = self.client_errors = 0
        self.apdex = self.revenue = 0.0
        self.last_failed = False
        self.converted_by: list[str] = []
        self.segment = ""
        self.range = (0.0, 0.0)
        self.agent = 0


class Flows:
    """Makes the flows of a profile. time_scale: by what the times between steps are divided."""

    def __init__(self, profile: Profile, seed: int, time_scale: float = 1.0) -> None:
        self.transactions: list[Kind] = []
        self._profile = profile
        self._rng = Random(f"flows {seed}")
        self._scale = HOUR / time_scale
        self._timeout = round(profile.visit_timeout * 1000 / time_scale)
        self._visits = self._transaction(profile.visits, BusinessTransaction.VISIT, profile.revenue is not None)
        self._steps = [self._compiled(step) for step in profile.steps]
        self._segments, self._locations = _Choice(profile.segments), _Choice(profile.locations)
        self._clients, self._systems = _Choice(profile.clients), _Choice(profile.systems)
        self._connections = _Choice(profile.connections)
        self._agents = [self._rng.randrange(-(2**31), 2**31) for _ in range(AGENTS)]
        self._session = self._rng.randrange(-(2**31), 2**31)
        self._visit_id = FIRST_VISIT + (self._rng.getrandbits(16) << 34)
        self._purepath = self._order = 0

    def longest(self) -> int:
        """Milliseconds that no flow is longer than."""
        spans = [
            step.settings.max_hours * self._scale + step.settings.max_ms + step.extra / 1000 + 1 for step in self._steps
        ]
        total = sum(spans)
        for place, step in enumerate(self._steps):
            if step.settings.loop:
                total += step.settings.loop.max_times * sum(spans[step.back : place + 1])
        return int(total) + self._timeout + 1

    def flow(self, start: int) -> list[Entry]:
        """All occurrences of one flow that begins at `start`, milliseconds since the epoch."""
        random = self._rng.random
        self._visit_id += 1
        visit = _Visit(start, self._visit_id)
        segment = self._segments.draw(random())
        visit.segment = segment.name
        if segment.min_revenue is not None and segment.max_revenue is not None:
            visit.range = (segment.min_revenue, segment.max_revenue)
        elif self._profile.revenue:
            visit.range = (self._profile.revenue.min, self._profile.revenue.max)
        visit.agent = self._agents[int(random() * AGENTS)]
        entries: list[Entry] = []
        for step in self._way():
            self._act(step, visit, entries)
        self._leave(visit, entries)
        return entries

    def _way(self) -> Iterator[_Step]:
        """The steps that a flow takes, one after the other."""
        random = self._rng.random
        for place, step in enumerate(self._steps):
            settings = step.settings
            if settings.drop_off and random() * 100 < settings.drop_off:
                return
            if settings.taken < 100 and random() * 100 >= settings.taken:
                continue
            yield step
            if settings.loop and random() * 100 < settings.loop.percent:
                for _ in range(self._rng.randint(settings.loop.min_times, settings.loop.max_times)):
                    yield from self._steps[step.back : place + 1]

    def _act(self, step: _Step, visit: _Visit, entries: list[Entry]) -> None:
        """One user action and its PurePaths; the hot part, with `_request`."""
        random, settings = self._rng.random, step.settings
        start = visit.now
        failed = step.error > 0 and random() * 100 < step.error
        extra = step.extra if failed else 0
        usual = int((settings.min_ms + (settings.max_ms - settings.min_ms) * random()) * 1000)
        network = int(usual * (0.05 + 0.15 * random()))
        server = int(usual * (0.3 + 0.4 * random())) + extra if step.requests else 0
        total = usual + extra
        client = total - network - server
        times: dict[str, Any] = {}
        if step.requests:
            times = self._requests(step, visit, entries, start * 1000 + network // 2, server, extra, failed)
        values = [1.0]
        if step.revenue:
            low, high = visit.range
            amount = round(low + (high - low) * random(), 2)
            visit.revenue += amount
            values.append(amount)
        errors = step.client_errors if failed else 0
        wire, handled = network // 1000, client // 1000
        occurrence = BtOccurrence(
            startTime=start, values=values, dimensions=(visit.segment, settings.name), actionName=step.action, url=step.url,
            visitId=visit.id, duration=total / 1000, failed=failed, clientErrors=errors, clientTime=client / 1000,
            networkTime=network / 1000, serverTime=server / 1000, urlRedirectionTime=0, dnsTime=wire // 8,
            connectTime=wire // 4, sslTime=wire // 4, documentRequestTime=server // 1000, documentResponseTime=wire // 4,
            processingTime=handled, **times,
        )  # fmt: skip
        self._add(entries, start - (-total // 1000), step.transaction, occurrence)
        self._count(visit, step, start - (-total // 1000), failed, errors, total)
        gap = settings.min_hours + (settings.max_hours - settings.min_hours) * random()
        visit.now = visit.end + int(gap * self._scale)

    def _count(self, visit: _Visit, step: _Step, end: int, failed: bool, errors: int, total: int) -> None:
        """What an action means for its visit."""
        visit.end = end
        visit.actions += 1
        visit.failed += failed
        visit.last_failed = failed
        visit.client_errors += errors
        threshold = self._profile.apdex_ms * 1000
        if not failed:
            visit.apdex += 1.0 if total <= threshold else 0.5 if total <= 4 * threshold else 0.0
        if step.settings.converts and step.settings.event not in visit.converted_by:
            visit.converted_by.append(step.settings.event)

    def _requests(
        self, step: _Step, visit: _Visit, entries: list[Entry], start: int, server: int, extra: int, failed: bool
    ) -> dict[str, Any]:
        """The PurePaths of an action, in `server` microseconds from `start` on; what is added up is the action's."""
        share = (server - extra) // len(step.requests)
        dimensions = (visit.segment, step.settings.name)
        passed = cpu_sum = 0
        last = len(step.requests) - 1
        first = ""
        for place, transaction in enumerate(step.requests):
            took = server - passed if place == last else share + (0 if place else extra)
            cpu = int(took * (0.2 + 0.6 * self._rng.random()))
            self._purepath += 1
            name = f"PT={self._purepath};PA={visit.agent};PS={self._session}"
            first = first or name
            begin = (start + passed) // 1000
            occurrence = BtOccurrence(
                startTime=begin, purePathId=name, values=_ONE, dimensions=dimensions, responseTime=took / 1000,
                cpuTime=cpu / 1000, syncTime=took // 50 / 1000, waitTime=took // 10 / 1000,
                suspensionTime=took // 100 / 1000, execTime=_execution(took), duration=took / 1000,
                failed=failed and not place,
            )  # fmt: skip
            self._add(entries, begin - (-took // 1000), transaction, occurrence)
            passed += took
            cpu_sum += cpu
        return {
            "purePathId": first, "responseTime": server / 1000, "cpuTime": cpu_sum / 1000, "syncTime": server // 50 / 1000,
            "waitTime": server // 10 / 1000, "suspensionTime": server // 100 / 1000, "execTime": _execution(server),
        }  # fmt: skip

    def _leave(self, visit: _Visit, entries: list[Entry]) -> None:
        """The visit itself."""
        random = self._rng.random
        location = self._locations.draw(random())
        system = self._systems.draw(random())
        address = int(random() * NETWORK)
        occurrence = BtOccurrence(
            startTime=visit.start, endTime=visit.end, visitId=visit.id, dimensions=(visit.segment,),
            values=(1.0, round(visit.revenue, 2)) if self._profile.revenue else (1.0,),
            visitTag=f"user{int(random() * USERS):05}", userExperienceIndex=round(visit.apdex / visit.actions, 2),
            converted=bool(visit.converted_by), convertedBy=visit.converted_by, nrOfActions=visit.actions,
            failedActions=visit.failed, clientErrors=visit.client_errors, exitActionFailed=visit.last_failed,
            bounce=visit.actions == 1, clientFamily=self._clients.draw(random()).family,
            clientIP=f"198.{18 + (address >> 16)}.{address >> 8 & 255}.{address & 255}", continent=location.continent,
            country=location.country, city=location.city, osFamily=system.family, osName=system.name,
            connectionType=self._connections.draw(random()).type,
        )  # fmt: skip
        self._add(entries, visit.end + self._timeout, self._visits, occurrence)

    def _add(self, entries: list[Entry], arrival: int, transaction: int, occurrence: BtOccurrence) -> None:
        self._order += 1
        data = occurrence.SerializeToString()
        entries.append(Entry(arrival, self._order, transaction, _prefix(len(data)) + data))

    def _transaction(self, name: str, kind: BusinessTransaction.Type, revenue: bool = False) -> int:
        measures = (COUNT, REVENUE) if revenue else (COUNT,)
        dimensions = (SEGMENT,) if kind == BusinessTransaction.VISIT else (SEGMENT, STEP)
        made = Kind(name, kind, measures, dimensions)
        if made not in self.transactions:
            self.transactions.append(made)
        return self.transactions.index(made)

    def _compiled(self, step: StepSettings) -> _Step:
        profile = self._profile
        revenue = profile.revenue is not None and profile.revenue.step == step.name
        errors = [error for error in profile.errors if error.step == step.name]
        names = [other.name for other in profile.steps]
        back = names.index((step.loop.back_to if step.loop else None) or step.name)
        requests = tuple(self._transaction(name, BusinessTransaction.PUREPATH) for name in step.requests)
        return _Step(
            step, f"Loading of page {step.path}", profile.url.rstrip("/") + step.path,
            self._transaction(step.event, BusinessTransaction.USER_ACTION, revenue), requests, revenue,
            sum(error.percent for error in errors), round(sum(error.extra_ms for error in errors) * 1000),
            sum(error.client_errors for error in errors), back,
        )  # fmt: skip


_ONE = (1.0,)


def _execution(took: int) -> float:
    """Milliseconds of so many microseconds that were neither spent on locks, nor waiting, nor suspended."""
    return (took - took // 50 - took // 10 - took // 100) / 1000


@cache
def _prefix(length: int) -> bytes:
    """The tag of BusinessTransaction.occurrences, and the length of one."""
    return b"\x32" + varint(length)
