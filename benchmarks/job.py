"""A job measures one case in one turn; a plan says how much is measured in all."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.load import SIZES
from benchmarks.results import Case
from benchmarks.workshop import Workshop

Sample = dict[str, float]


@dataclass
class Job:
    """run: gives about `rounds` samples for the case. once: not in every turn, since it takes long. gib: of free disk that
    it needs. failure: why it gave nothing."""

    case: Case
    rounds: int
    run: Callable[[Workshop], Iterator[Sample]]
    once: bool = False
    gib: float = 4.0
    failure: str = ""


@dataclass(frozen=True)
class Plan:
    """turns: of all jobs but those that run once. rounds: of a case in one turn.

    once            groups whose jobs run once, for the rounds of all turns: they take long to prepare
    codecs          of the Kafka sink beside its bare client
    occurrences     that a stage works on
    burst           seconds that the whole server is given posts as fast as it takes them; half of it for what grows
    sizes           occurrences in a post, for sinks other than the file sink, which has all
    few             occurrences in a post, for all sinks together and for the plain path
    paced           seconds at a fixed rate, for each of
    rates           posts of 100 occurrences a second
    backlogs        MiB of posts that wait when a server starts
    transactions    different names of business transactions
    sinks           file sinks at once
    connections     kept alive, all in use
    minutes         at a steady rate, to see what grows
    """

    turns: int
    rounds: int
    once: tuple[str, ...]
    occurrences: int
    burst: float
    sizes: tuple[int, ...]
    few: tuple[int, ...]
    paced: float
    rates: tuple[float, ...]
    backlogs: tuple[int, ...]
    transactions: tuple[int, ...]
    sinks: tuple[int, ...]
    connections: tuple[int, ...]
    codecs: tuple[str, ...]
    minutes: int

    def rounds_of(self, group: str) -> int:
        """Of a case of that group, each time that it is run."""
        return self.rounds * self.turns if group in self.once else self.rounds


SHORT = Plan(
    turns=2, rounds=1, once=("whole server", "latency", "growth", "bare client", "peers", "sources"), occurrences=10_000,
    burst=1.2, sizes=(100, 1_000), few=(1_000,), paced=5.0, rates=(200, 400), backlogs=(0, 50), transactions=(1, 10_000),
    sinks=(1, 4), connections=(1, 64), codecs=("none", "zstd"), minutes=0,
)  # fmt: skip
"""A few minutes."""
FULL = Plan(
    turns=5, rounds=3, once=(), occurrences=40_000, burst=1.5, sizes=SIZES, few=SIZES, paced=60.0,
    rates=(20, 100, 200, 400), backlogs=(0, 1_000, 10_000), transactions=(1, 10, 100, 1_000, 10_000), sinks=(1, 2, 4, 8),
    connections=(1, 8, 64, 256, 900), codecs=("none", "gzip", "snappy", "lz4", "zstd"), minutes=60,
)  # fmt: skip
"""Hours."""
