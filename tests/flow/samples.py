"""A report made by hand, with something of everything: for tests of how reports are shown, which need no engine."""

from dataclasses import replace

from btfeed.flow.report import (
    Amount,
    Bucket,
    Change,
    Comparison,
    Conversion,
    Counts,
    Exceptions,
    Figures,
    ListedFlow,
    Part,
    Period,
    Read,
    Report,
    Series,
    Spread,
    Step,
    Time,
    Transition,
    Value,
)

HOUR, DAY = 3_600_000, 86_400_000
BEGIN = 1_772_582_400_000
"""2026-03-04 00:00 UTC."""
NAMES = ("Calculator", "Application", "Documents", "Interview", "Decision", "Signed")
REACHED = (13_367, 4_605, 3_634, 800, 2_898, 1_441)
DROPPED = (8_735, 920, 132, 36, 1_353, 0)
OPEN = (27, 51, 534, 34, 104, 0)


def spread(n: int, median: float | None = None) -> Spread:
    if not median:
        return Spread(n, None, None, None, None, None)
    return Spread(n, median, median * 2.5, median * 1.1, median / 10, median * 6, 3)


def figures(part: float = 1.0) -> Figures:
    """part: of the flows of the whole."""
    reached = [round(each * part) for each in REACHED]
    dropped, open_ = ([round(each * part) for each in row] for row in (DROPPED, OPEN))
    counts = Counts(reached[0], reached[-1], 0, sum(dropped), 0, sum(open_), round(805 * part), 12, 4)
    rate = reached[-1] / reached[0]
    value = Value(
        "Commission", "EUR", 1_441_000.0 * part, reached[-1], 1000.0, Amount(0.0, 0, 1_353_000.0 * part, dropped[4], 3),
        Amount(0.0, 0, 12_000.0, 12), Amount(120.5, 1), Amount(0.0, 0),
    )  # fmt: skip
    exceptions = Exceptions(round(366 * part), round(9000 * part), 366 / 9000, 1 - 366 / 9000, 300, 40, 13_067, 11_136)
    steps = tuple(_step(rank, reached, dropped[rank], open_[rank]) for rank in range(len(NAMES)))
    times = (
        *(Time(f"{step.before[0]} to {step.name}", step.before[0], step.name, step.time) for step in steps[1:]),
        Time("documents to signature", "Documents", "Signed", spread(1441, 60 * HOUR)),
    )
    return Figures(
        counts,
        Conversion(rate, rate - 0.005, rate + 0.005),
        spread(reached[-1], 2.9 * DAY),
        value,
        exceptions,
        steps,
        times,
    )


def _step(rank: int, reached: list[int], dropped: int, open_: int) -> Step:
    before = {0: (), 4: ("Documents",)}.get(rank, (NAMES[rank - 1],))
    base = reached[NAMES.index(before[0])] if before else 0
    exceptions = {2: 346, 4: 20}.get(rank, 0)
    return Step(
        NAMES[rank], rank == 3, rank == 5, before, reached[rank], reached[rank] / reached[0],
        reached[rank] / base if base else None, dropped, open_, 0, dropped / max(1, reached[rank]),
        spread(reached[rank], (0.0, 1.8, 12.1, 33.5, 37.0, 18.3)[rank] * HOUR),
        24.0 * HOUR if rank in (2, 5) else None, 0.041 if rank in (2, 5) else None,
        reached[rank] * 2, 0.352 if rank in (0, 2) else 0.0, 2.0, (reached[rank], 0, 0, 0, 0),
        exceptions, reached[rank] * 2, exceptions / (reached[rank] * 2), 1 - exceptions / (reached[rank] * 2), 0,
    )  # fmt: skip


def series(part: float = 1.0, begin: int = BEGIN) -> Series:
    shares = (0.04, 0.09, 0.08, 0.07, 0.03, 0.02, 0.1, 0.11, 0.09, 0.08, 0.07, 0.05, 0.02, 0.01)
    rows = [
        Bucket(begin + index * DAY, begin + (index + 1) * DAY, index > 10, figures(part * share))
        for index, share in enumerate(shares)
    ]
    return Series(DAY, tuple(rows))


def _way(begin: int, to: int, n: int, way: str | None) -> Transition:
    gap = spread(n, 5 * HOUR)
    return Transition(NAMES[begin], NAMES[to], n, gap, way, ("8589934593", "8589934600", "8589934611"))  # type: ignore[arg-type]


def report() -> Report:
    """Of loans, in two weeks."""
    transitions = (
        _way(0, 0, 9000, "repeats"), _way(0, 1, 4605, "after"), _way(1, 2, 3634, "after"), _way(2, 2, 2000, "repeats"),
        _way(2, 3, 800, "after"), _way(2, 4, 2150, "after"), _way(3, 4, 748, "after"), _way(4, 5, 1441, "after"),
        _way(4, 1, 60, None), _way(1, 3, 7, None),
    )  # fmt: skip
    now, before = figures(), figures(0.8)
    changes = {
        "started": Change(13_367.0, 10_694.0, 0.25, False, 17.2, False),
        "conversion": Change(now.conversion.rate, before.conversion.rate, 0.004, True, 0.4, True),
        "exception_rate": Change(0.041, 0.04, 0.001, True, 0.3, True),
        "duration.median": Change(2.9 * DAY, 3.0 * DAY, -0.033),
        "value.won": Change(1_441_000.0, 1_152_800.0, 0.25),
        "steps.Documents.reached": Change(3634.0, 2907.0, 0.25, False, 9.0, False),
    }
    flows = tuple(
        ListedFlow(
            f"85899345{number}", BEGIN + number * HOUR, "ended", "Documents", BEGIN + (number + 9) * HOUR,
            BEGIN + (number + 10) * HOUR, 512.5 if number % 2 else None, number % 3, {"segment": "gold", "city": "Graz"},
        )
        for number in range(10, 16)
    )  # fmt: skip
    opened = tuple(replace(flow, state="open", decided=None) for flow in flows)
    return Report(
        flow="Loan application",
        definition="5b2f0c9e41d7a830",
        as_of=BEGIN + 14 * DAY - 120_000,
        period=Period(BEGIN, BEGIN + 14 * DAY, "start", False),
        source=Read("files", 176_000, 60_100, 2, 5, 1, BEGIN - DAY, BEGIN + 14 * DAY - 120_000),
        usual=7.4 * DAY,
        figures=now,
        transitions=transitions,
        series=series(),
        splits={"segment": tuple(Part((name,), figures(part), ()) for name, part in SEGMENTS.items())},
        lists={"dropped_with_exception": flows, "open_longest_idle": opened, "largest_lost": flows[:2]},
        compare=Comparison(
            "previous", 14 * DAY, Period(BEGIN - 14 * DAY, BEGIN, "start", False), BEGIN - 120_000, before,
            series(0.8, BEGIN - 14 * DAY), changes,
        ),
        notes=("805 flows without a first step", "5.6 % are still open: rates will rise; --mature leaves them out"),
    )  # fmt: skip


SEGMENTS = {"basic": 0.6, "silver": 0.25, "gold": 0.1, "(unknown)": 0.05}
