"""Whether a definition fits the records: what `btfeed flow check` tells, and what it objects to."""

from collections.abc import Iterator

from btfeed.flow.coverage import Coverage, without_fit
from btfeed.flow.definition import Definition
from btfeed.flow.fields import expected
from btfeed.flow.report import Report
from btfeed.flow.text import table
from btfeed.flow.transitions import many_unknown
from btfeed.flow.words import number, percent
from btfeed.page.wording import count

TOLERATED = 0.01
"""The share of events out of order above which the definition does not fit."""


def lines(definition: Definition, coverage: Coverage) -> Iterator[str]:
    """How many records are what."""
    read = coverage.read
    yield f"{count(read.records, 'record')}, of which {number(read.matched)} matter to the definition"
    yield ""
    rows = [(step.name, number(coverage.by_step.get(step.name, 0))) for step in definition.steps]
    yield from table(("step", "records"), rows)
    if definition.ends:
        yield ""
        yield f"{count(coverage.ends, 'record')} of flows that are over"
    if coverage.passed:
        yield ""
        passed = [(name, number(times)) for name, times in coverage.passed.items()]
        yield from table(("passed over: event.type", "records"), passed)


def findings(definition: Definition, coverage: Coverage, report: Report) -> Iterator[str]:
    """What does not fit, each in a line that says what to do."""
    read = coverage.read
    if coverage.strangers:  # whatever else does not fit is not known
        yield from without_fit(definition, coverage.strangers)
        return
    for name, where in expected(definition).items():
        if name in read.missing:
            yield _missing(name, where, coverage.similar.get(name))
    for step in definition.steps:
        if not coverage.by_step.get(step.name):
            yield f"step {step.name}: no record fits it: compare its event with the event types that are passed over"
    for names, times in coverage.several.items():
        both = " and ".join(names)
        yield f"{count(times, 'record')} of {both} at once, counted as the first: make their conditions exclude each other"
    if definition.ends and not coverage.ends:
        yield "ends: no record fits it, so flows are never ended, only lost: correct it, or leave it out"
    if read.duplicates:
        twice = count(read.duplicates, "copy", "copies")
        yield f"{twice} of records that are there already, not counted: is a file read together with a copy of it?"
    if read.uncorrelated:
        fields = " or ".join(definition.correlations)
        yield f"{count(read.uncorrelated, 'record')} without {fields}, in no flow: is `correlation` right?"
    if read.unreadable:
        yield f"{count(read.unreadable, 'line')} that can't be read as a record with a time"
    visits = sum(step.visits for step in report.figures.steps)
    astray = sum(step.disordered for step in report.figures.steps)
    if visits and astray / visits > TOLERATED:
        yield (
            f"{percent(astray / visits)} of the events are out of order: is `after` right, or are clocks apart, which"
            " `tolerance` allows for?"
        )
    yield from _ways(definition, report)
    value = definition.value
    if value and read.no_numbers:
        yield (
            f"{count(read.no_numbers, 'value')} of {value.field} that can't be read as a number, so missing: it has to be"
            " written such as 1000.50, without a unit"
        )
    if value and value.step is None and len(coverage.value_types) > 1:
        types = ", ".join(coverage.value_types)
        yield f"value.field is on records of several types ({types}), which may count a value twice: set value.step"


def _missing(name: str, where: str, like: str | None) -> str:
    """like: the field that is meant in all probability."""
    if like == name:
        return f"{where}: only records that are passed over have the field {name}: make them a step, or leave it out"
    what_to_do = f"did you mean {like}?" if like else "correct it, or leave it out"
    return f"{where}: no record has the field {name}: {what_to_do}"


def _ways(definition: Definition, report: Report) -> Iterator[str]:
    if unknown := many_unknown(definition, report.transitions):
        share, most = unknown
        yield (
            f"{percent(share)} of the ways are not in the definition, most from {most.begin} to {most.to}: if that is"
            " expected, say so with after, back_to, repeats or optional"
        )
