"""From files of records to numbers: reads the records once, then answers as often as it is asked.

with Engine(definition, source) as engine:
    report = engine.report(ReportOptions(begin=..., end=...))
    for flow in engine.flows(ListOptions(states=("lost",))): ...
    trace = engine.trace("8589934593")
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from btfeed.flow import ahead, listing, numbers, reading, transitions, values
from btfeed.flow.changes import changes
from btfeed.flow.coverage import Coverage, coverage, strangers
from btfeed.flow.definition import Definition
from btfeed.flow.duck import Database
from btfeed.flow.earlier import earlier
from btfeed.flow.errors import EngineMissing, FlowError
from btfeed.flow.fields import fields
from btfeed.flow.notes import Beside, notes
from btfeed.flow.options import ListOptions, ReportOptions, Source
from btfeed.flow.report import Comparison, Figures, ListedFlow, Read, Report, Series, Trace, Transition
from btfeed.flow.selecting import Picked, nameless, pick
from btfeed.flow.selecting import values as values_of
from btfeed.flow.series import series
from btfeed.flow.splits import split
from btfeed.flow.tracing import trace

__all__ = ["Coverage", "Engine", "EngineMissing", "FlowError", "fields"]


class Engine:
    """Numbers of the records of one source. Use it as a context manager.

    memory  the most bytes to use; None: half of the free memory, at most 4 GiB. What does not fit goes to `temp`
    temp    directory for that; None: the system's

    Raises EngineMissing. Its methods raise FlowError.
    """

    def __init__(self, definition: Definition, source: Source, memory: int | None = None, temp: Path | None = None) -> None:
        self._definition, self._source = definition, source
        self._memory, self._temp = memory, temp
        self._database = Database(memory, temp)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.close()

    @cached_property
    def read(self) -> Read:
        """What was read. The files are read when it is first asked for."""
        return reading.read(self._database, self._definition, self._source)

    def as_of(self, asked: int | None = None) -> int | None:
        """The moment that a report looks from, unless it is asked for another; None: there is no record."""
        return next((each for each in (asked, self._source.now, self.read.last) if each is not None), None)

    def report(self, options: ReportOptions) -> Report:
        """All numbers of the flows of a period."""
        database, definition, read = self._database, self._definition, self.read
        as_of = self.as_of(options.as_of)
        picked, figures, ways, times = self._figures(options, as_of or 0, None)
        splits = {",".join(names): split(database, definition, names) for names in options.split}
        lists = listing.lists(database, definition, options.lists)
        beside = Beside(
            picked.young,
            {}
            if figures.counts.started
            else {name: values_of(database, definition, name, at) for name, at in options.where},
            nameless(database, definition, options, picked.period) if figures.counts.started else {},
            ahead.ahead(database, definition, read.last) if as_of is not None and as_of == read.last else None,
            {} if read.matched else strangers(database, definition, self._source),
        )
        compare = self._compare(options, as_of, figures, times)
        made = Report(
            flow=definition.name,
            definition=definition.digest,
            as_of=as_of,
            period=picked.period,
            source=read,
            usual=picked.usual,
            figures=figures,
            transitions=ways,
            series=times,
            splits=splits,
            lists=lists,
            compare=compare,
            notes=(),
        )
        return replace(made, notes=notes(definition, options, made, beside))

    def flows(self, options: ListOptions) -> Sequence[ListedFlow]:
        """The flows of a selection."""
        as_of = self.as_of(options.as_of) or 0
        pick(self._database, self._definition, options, as_of)
        return listing.chosen(self._database, self._definition, options, as_of)

    def trace(self, flow: str, as_of: int | None = None) -> Trace | None:
        """Everything about one flow; None if no record has this id."""
        with Database(self._memory, self._temp) as database:
            return trace(database, self._definition, self._source, flow, as_of, self.as_of)

    def check_files(self) -> None:
        """After an error: raises FlowError with the name of the Parquet file that is damaged, if one is."""
        with Database(self._memory, self._temp) as database:
            reading.check_parquet(database, self._source.parquet)

    def coverage(self) -> Coverage:
        """How the definition fits the records."""
        return coverage(self._database, self._definition, self._source, self.read)

    def _figures(
        self, options: ReportOptions, as_of: int, bucket: int | None
    ) -> tuple[Picked, Figures, tuple[Transition, ...], Series]:
        database, definition = self._database, self._definition
        picked = pick(database, definition, options, as_of)
        transitions.make(database, picked.whole)
        found = numbers.figures(database, definition, values.money(database, definition))[None]
        resumed = transitions.resumed(database, definition)
        counts = replace(found.counts, headless=picked.headless, carried_in=picked.carried_in, resumed=resumed)
        ways = transitions.transitions(database, definition).get(None, ())
        times = series(database, definition, picked.frame, picked.period, self.read.first, bucket)
        return picked, replace(found, counts=counts), ways, times

    def _compare(self, options: ReportOptions, as_of: int | None, figures: Figures, times: Series) -> Comparison | None:
        then = earlier(self._definition, options, as_of, self.read.first)
        if then is None:
            return None
        picked, before, _, series_then = self._figures(then.options, then.as_of, times.bucket)
        found = changes(figures, before)
        return Comparison(then.how, then.shift, picked.period, then.as_of, before, series_then, found)
