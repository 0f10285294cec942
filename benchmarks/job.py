"""A job measures one case in one turn; a plan says how much is measured in all."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.results import Case
from benchmarks.workshop import Workshop

Sample = dict[str, float]


@dataclass
class Job:
    """run: gives about `rounds` samples for the case. once: not in every turn, since it takes long. failure: why it gave
    nothing."""

    case: Case
    rounds: int
    run: Callable[[Workshop], Iterator[Sample]]
    once: bool = False
    failure: str = ""


@dataclass(frozen=True)
class Plan:
    """turns: of all jobs but those that run once. rounds: of a case in one turn.

    occurrences     that a stage works on
    burst           seconds that the whole server is given posts as fast as it takes them
    sizes           occurrences in a post, for sinks other than the file sink, which has all
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
    occurrences: int
    burst: float
    sizes: tuple[int, ...]
    paced: float
    rates: tuple[float, ...]
    backlogs: tuple[int, ...]
    transactions: tuple[int, ...]
    sinks: tuple[int, ...]
    connections: tuple[int, ...]
    minutes: int


SHORT = Plan(
    turns=2, rounds=2, occurrences=10_000, burst=0.7, sizes=(100, 1_000), paced=10.0, rates=(100, 200), backlogs=(0, 50),
    transactions=(1, 10_000), sinks=(1, 4), connections=(1, 64), minutes=0,
)  # fmt: skip
"""A few minutes."""
FULL = Plan(
    turns=5, rounds=3, occurrences=40_000, burst=1.5, sizes=(1, 10, 100, 1_000, 10_000), paced=60.0,
    rates=(20, 100, 200, 400), backlogs=(0, 1_000, 10_000), transactions=(1, 10, 100, 1_000, 10_000), sinks=(1, 2, 4, 8),
    connections=(1, 8, 64, 256, 900), minutes=60,
)  # fmt: skip
"""Hours."""
