"""Simulates visits to the application that a profile describes, as the occurrences that AppMon would post.

Each step that a visitor takes is a user action. The PurePaths behind it run one after the other within the action, and
their times add up to its server time. The visit's own occurrence sums up its actions. All random numbers come from one
seeded generator in a fixed order, so equal seeds give equal visits.
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
FIRST_VISIT_ID = 2**33
"""Visit ids exceed 32 bits, as AppMon's do."""
AGENT_COUNT = 4
"""Number of application servers that handle requests."""
ADDRESS_COUNT = 131_072
"""Client addresses are in 198.18.0.0/15, a range reserved for tests."""
USER_COUNT = 20_000
"""Number of different visit tags."""


class PendingOccurrence(NamedTuple):
    """An occurrence that waits to be put into a post. Sorts by arrival.

    arrival      when AppMon knows of it, in milliseconds since the epoch
    order        number among all occurrences
    transaction  index into `VisitSimulator.transactions`
    data         the encoded `occurrences` field of its BusinessTransaction
    """

    arrival: int
    order: int
    transaction: int
    data: bytes


@dataclass(frozen=True, slots=True)
class TransactionHeader:
    """A business transaction without its occurrences."""

    name: str
    type: BusinessTransaction.Type
    measures: tuple[str, ...]
    dimensions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _CompiledStep:
    """A step with everything that can be computed once.

    transaction, requests  of the user action and of its PurePaths, as indexes into `VisitSimulator.transactions`
    error, extra           percent of actions that fail, and the microseconds that they take longer
    back_to                index of the step where the loop starts again
    """

    settings: StepSettings
    action: str
    url: str
    transaction: int
    requests: tuple[int, ...]
    revenue: bool
    error: float
    extra: int
    client_errors: int
    back_to: int


class _WeightedChoice(Generic[T]):
    """Picks one of `rows` with the probability of its `percent`."""

    def __init__(self, rows: Sequence[T]) -> None:
        self._rows = rows
        self._bounds = list(accumulate(row.percent for row in rows))  # type: ignore[attr-defined]  # each has one
        self._total = self._bounds[-1]

    def pick(self, number: float) -> T:
        """number: random, from 0 to 1."""
        return self._rows[min(bisect(self._bounds, number * self._total), len(self._rows) - 1)]


class _VisitState:
    """A visit under way: its occurrences and their totals so far. Times in milliseconds since the epoch."""

    __slots__ = ("actions", "agent", "apdex", "client_errors", "converted_by", "end", "failed", "id", "last_failed", "now",
                 "occurrences", "range", "revenue", "segment", "start")  # fmt: skip

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
        self.occurrences: list[PendingOccurrence] = []


class VisitSimulator:
    """Simulates the visits of a profile. time_scale: divides the times between steps."""

    def __init__(self, profile: Profile, seed: int, time_scale: float = 1.0) -> None:
        self.transactions: list[TransactionHeader] = []
        self._profile = profile
        self._rng = Random(f"flows {seed}")  # seeds of earlier versions still give the same bytes
        self._scale = HOUR / time_scale
        self._timeout = round(profile.visit_timeout * 1000 / time_scale)
        self._visits = self._transaction(profile.visits, BusinessTransaction.VISIT, profile.revenue is not None)
        self._steps = [self._compile(step) for step in profile.steps]
        self._segments, self._locations = _WeightedChoice(profile.segments), _WeightedChoice(profile.locations)
        self._clients, self._systems = _WeightedChoice(profile.clients), _WeightedChoice(profile.systems)
        self._connections = _WeightedChoice(profile.connections)
        self._agents = [self._rng.randrange(-(2**31), 2**31) for _ in range(AGENT_COUNT)]
        self._session = self._rng.randrange(-(2**31), 2**31)
        self._visit_id = FIRST_VISIT_ID + (self._rng.getrandbits(16) << 34)
        self._purepath = self._order = 0

    def max_duration(self) -> int:
        """An upper bound of how long a visit takes until its last occurrence arrives, in milliseconds."""
        spans = [
            step.settings.max_hours * self._scale + step.settings.max_ms + step.extra / 1000 + 1 for step in self._steps
        ]
        total = sum(spans)
        for place, step in enumerate(self._steps):
            if step.settings.loop:
                total += step.settings.loop.max_times * sum(spans[step.back_to : place + 1])
        return int(total) + self._timeout + 1

    def visit(self, start: int) -> list[PendingOccurrence]:
        """All occurrences of one visit that begins at `start`, in milliseconds since the epoch."""
        random = self._rng.random
        self._visit_id += 1
        visit = _VisitState(start, self._visit_id)
        segment = self._segments.pick(random())
        visit.segment = segment.name
        if segment.min_revenue is not None and segment.max_revenue is not None:
            visit.range = (segment.min_revenue, segment.max_revenue)
        elif self._profile.revenue:
            visit.range = (self._profile.revenue.min, self._profile.revenue.max)
        visit.agent = self._agents[int(random() * AGENT_COUNT)]
        for step in self._path():
            self._add_action(step, visit)
        self._add_visit(visit)
        return visit.occurrences

    def _path(self) -> Iterator[_CompiledStep]:
        """The steps that one visitor takes, in order."""
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
                    yield from self._steps[step.back_to : place + 1]

    def _add_action(self, step: _CompiledStep, visit: _VisitState) -> None:
        """One user action and its PurePaths. Hot path, with `_add_purepaths`. Times are in microseconds unless noted."""
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
            times = self._add_purepaths(step, visit, start * 1000 + network // 2, server, extra, failed)
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
        end = start - (-total // 1000)  # rounded up
        self._add(visit, end, step.transaction, occurrence)
        self._count_action(visit, step, end, failed, errors, total)
        gap = settings.min_hours + (settings.max_hours - settings.min_hours) * random()
        visit.now = visit.end + int(gap * self._scale)

    def _count_action(
        self, visit: _VisitState, step: _CompiledStep, end: int, failed: bool, errors: int, total: int
    ) -> None:
        """Add an action to the totals of its visit."""
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

    def _add_purepaths(
        self, step: _CompiledStep, visit: _VisitState, start: int, server: int, extra: int, failed: bool
    ) -> dict[str, Any]:
        """The PurePaths of an action, which take `server` microseconds from `start` on. Returns their sums."""
        share = (server - extra) // len(step.requests)
        dimensions = (visit.segment, step.settings.name)
        passed = cpu_sum = 0
        last = len(step.requests) - 1
        first_id = ""
        for place, transaction in enumerate(step.requests):
            took = server - passed if place == last else share + (0 if place else extra)
            cpu = int(took * (0.2 + 0.6 * self._rng.random()))
            self._purepath += 1
            purepath_id = f"PT={self._purepath};PA={visit.agent};PS={self._session}"
            first_id = first_id or purepath_id
            begin = (start + passed) // 1000
            occurrence = BtOccurrence(
                startTime=begin, purePathId=purepath_id, values=_ONE, dimensions=dimensions, responseTime=took / 1000,
                cpuTime=cpu / 1000, syncTime=took // 50 / 1000, waitTime=took // 10 / 1000,
                suspensionTime=took // 100 / 1000, execTime=_execution(took), duration=took / 1000,
                failed=failed and not place,
            )  # fmt: skip
            if self._profile.purepath_visit_id:
                occurrence.visitId = visit.id
            self._add(visit, begin - (-took // 1000), transaction, occurrence)
            passed += took
            cpu_sum += cpu
        return {
            "purePathId": first_id, "responseTime": server / 1000, "cpuTime": cpu_sum / 1000,
            "syncTime": server // 50 / 1000, "waitTime": server // 10 / 1000, "suspensionTime": server // 100 / 1000,
            "execTime": _execution(server),
        }  # fmt: skip

    def _add_visit(self, visit: _VisitState) -> None:
        """The occurrence of the visit itself."""
        random = self._rng.random
        location = self._locations.pick(random())
        system = self._systems.pick(random())
        address = int(random() * ADDRESS_COUNT)
        occurrence = BtOccurrence(
            startTime=visit.start, endTime=visit.end, visitId=visit.id, dimensions=(visit.segment,),
            values=(1.0, round(visit.revenue, 2)) if self._profile.revenue else (1.0,),
            visitTag=f"user{int(random() * USER_COUNT):05}", userExperienceIndex=round(visit.apdex / visit.actions, 2),
            converted=bool(visit.converted_by), convertedBy=visit.converted_by, nrOfActions=visit.actions,
            failedActions=visit.failed, clientErrors=visit.client_errors, exitActionFailed=visit.last_failed,
            bounce=visit.actions == 1, clientFamily=self._clients.pick(random()).family,
            clientIP=f"198.{18 + (address >> 16)}.{address >> 8 & 255}.{address & 255}", continent=location.continent,
            country=location.country, city=location.city, osFamily=system.family, osName=system.name,
            connectionType=self._connections.pick(random()).type,
        )  # fmt: skip
        self._add(visit, visit.end + self._timeout, self._visits, occurrence)

    def _add(self, visit: _VisitState, arrival: int, transaction: int, occurrence: BtOccurrence) -> None:
        self._order += 1
        data = occurrence.SerializeToString()
        visit.occurrences.append(PendingOccurrence(arrival, self._order, transaction, _field_prefix(len(data)) + data))

    def _transaction(self, name: str, kind: BusinessTransaction.Type, revenue: bool = False) -> int:
        """The index of this business transaction in `transactions`, added if it is new."""
        measures = (COUNT, REVENUE) if revenue else (COUNT,)
        dimensions = (SEGMENT,) if kind == BusinessTransaction.VISIT else (SEGMENT, STEP)
        header = TransactionHeader(name, kind, measures, dimensions)
        if header not in self.transactions:
            self.transactions.append(header)
        return self.transactions.index(header)

    def _compile(self, step: StepSettings) -> _CompiledStep:
        profile = self._profile
        revenue = profile.revenue is not None and profile.revenue.step == step.name
        errors = [error for error in profile.errors if error.step == step.name]
        names = [other.name for other in profile.steps]
        back_to = names.index((step.loop.back_to if step.loop else None) or step.name)
        requests = tuple(self._transaction(name, BusinessTransaction.PUREPATH) for name in step.requests)
        return _CompiledStep(
            step, f"Loading of page {step.path}", profile.url.rstrip("/") + step.path,
            self._transaction(step.event, BusinessTransaction.USER_ACTION, revenue), requests, revenue,
            sum(error.percent for error in errors), round(sum(error.extra_ms for error in errors) * 1000),
            sum(error.client_errors for error in errors), back_to,
        )  # fmt: skip


_ONE = (1.0,)


def _execution(took: int) -> float:
    """Execution time in milliseconds, without sync, wait and suspension. took: response time in microseconds."""
    return (took - took // 50 - took // 10 - took // 100) / 1000


@cache
def _field_prefix(length: int) -> bytes:
    """What precedes an occurrence of this length in its BusinessTransaction: the field's tag and the length."""
    return b"\x32" + varint(length)
