"""A job measures one case in one turn; a plan says how much is measured in all."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.load import SIZES
from benchmarks.results import Case
from benchmarks.workshop import Workshop

Sample = dict[str, float]


@dataclass
class Job:
    """run: yields about `rounds` samples of the case. once: runs in one turn only, because it takes long. gib: free disk
    that it needs. failure: why it has no samples."""

    case: Case
    rounds: int
    run: Callable[[Workshop], Iterator[Sample]]
    once: bool = False
    gib: float = 4.0
    failure: str = ""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    turns           how often all jobs run, except those that run once
    rounds          rounds of a case in a turn
    once            groups whose jobs take long to prepare: they run once, with the rounds of all turns
    occurrences     occurrences that a stage works on
    burst           seconds of a burst, in which the server gets posts as fast as it takes them; growth halves it
    sizes           occurrences in a post; the file sink is measured with all SIZES
    few             occurrences in a post, for all sinks together and for the plain path
    viewed          seconds of a burst with and without viewers of the page, which gets news every two seconds
    paced           seconds at each of `rates`
    rates           posts per second, of 100 occurrences each
    backlogs        MiB of posts that wait when a server starts
    transactions    numbers of business transactions with different names
    sinks           numbers of file sinks
    connections     numbers of kept-alive connections
    codecs          compression of the Kafka sink and of its bare client
    minutes         minutes at a steady rate
    load            occurrences of the posts that the whole server gets, over and over
    warm            occurrences before the first burst
    at_once         posts that are sent in one go while a backlog is made
    drain           seconds for which the delivery of a backlog is watched
    """

    turns: int
    rounds: int
    once: tuple[str, ...]
    occurrences: int
    burst: float
    sizes: tuple[int, ...]
    few: tuple[int, ...]
    viewed: float
    paced: float
    rates: tuple[float, ...]
    backlogs: tuple[int, ...]
    transactions: tuple[int, ...]
    sinks: tuple[int, ...]
    connections: tuple[int, ...]
    codecs: tuple[str, ...]
    minutes: int
    load: int = 20_000
    warm: int = 10_000
    at_once: int = 200
    drain: float = 1.0

    def rounds_of(self, group: str) -> int:
        """The rounds of a case of this group, each time that it runs."""
        return self.rounds * self.turns if group in self.once else self.rounds


SHORT = Plan(
    turns=2, rounds=1,
    once=("whole server", "latency", "growth", "viewers", "bare client", "journals", "peers", "sources", "flows"),
    occurrences=10_000, burst=1.2, sizes=(100, 1_000), few=(1_000,), viewed=6.0, paced=5.0, rates=(200, 400),
    backlogs=(0, 50), transactions=(1, 10_000), sinks=(1, 4), connections=(1, 64), codecs=("none", "zstd"), minutes=0,
)  # fmt: skip
"""Takes minutes."""
FULL = Plan(
    turns=5, rounds=3, once=(), occurrences=40_000, burst=1.5, sizes=SIZES, few=SIZES, viewed=10.0, paced=60.0,
    rates=(20, 100, 200, 400), backlogs=(0, 1_000, 10_000), transactions=(1, 10, 100, 1_000, 10_000), sinks=(1, 2, 4, 8),
    connections=(1, 8, 64, 256, 900), codecs=("none", "gzip", "snappy", "lz4", "zstd"), minutes=60,
)  # fmt: skip
"""Takes hours."""
