"""What a reader of a report has to know so that its numbers are not misread."""

from collections.abc import Iterator, Sequence

from btfeed.flow.options import ReportOptions
from btfeed.flow.report import Comparison, Figures, Read, Transition

MUCH_OPEN = 0.02
"""Share of open flows from which on rates are said to rise."""
MANY_WAYS = 0.01
"""Share of neighbours from which on ways that the definition does not have are told."""


def notes(
    options: ReportOptions, read: Read, figures: Figures, ways: Sequence[Transition], compare: Comparison | None
) -> tuple[str, ...]:
    """Sentences."""
    return (*_of_records(read), *_of_flows(options, figures), *_of_ways(ways), *_of_comparison(options, compare))


def _of_records(read: Read) -> Iterator[str]:
    if not read.matched:
        yield "no record is a step of this flow; flow check tells which records there are"
    if read.unreadable:
        yield f"{read.unreadable:,} lines are no records, are cut or have no time; they are left out"
    if read.uncorrelated:
        yield f"{read.uncorrelated:,} records without a correlation id are left out"
    if read.duplicates:
        yield f"{read.duplicates:,} records are there more than once; they count once"


def _of_flows(options: ReportOptions, figures: Figures) -> Iterator[str]:
    counts = figures.counts
    if counts.headless:
        yield f"{counts.headless:,} flows without a first step are left out: begun before the records, or one is missing"
    if counts.carried_in:
        yield f"{counts.carried_in:,} flows begun before the period have events in it; they are left out"
    if counts.started and counts.open / counts.started > MUCH_OPEN:
        share = f"{100 * counts.open / counts.started:.1f} % still open: rates will rise"
        yield share if options.mature else f"{share}, --mature leaves them out"
    if counts.disordered:
        yield f"{counts.disordered:,} flows have a step out of order; it does not count as reached"


def _of_ways(ways: Sequence[Transition]) -> Iterator[str]:
    total, unknown = sum(way.n for way in ways), [way for way in ways if way.way is None]
    if unknown and sum(way.n for way in unknown) / total > MANY_WAYS:
        most = max(unknown, key=lambda way: way.n)
        yield (
            f"{100 * sum(way.n for way in unknown) / total:.1f} % of ways are not in the definition, "
            f"most often from {most.begin} to {most.to}"
        )


def _of_comparison(options: ReportOptions, compare: Comparison | None) -> Iterator[str]:
    asked = options.compare not in (None, "none")
    if asked and compare is None:
        yield "nothing is compared: that needs the beginning of the period"
    if compare and not compare.figures.counts.started:
        yield "no flow has started in the period that is compared"
