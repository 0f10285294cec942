"""The definition of a flow, as users write it in TOML: which records are its steps, and what ties them together.

`load` gives it by name or from a file. Everything that is wrong with it is reported at once, each with its path.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from functools import cached_property
from hashlib import blake2b
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import Field

from btfeed.faults import UNPRINTABLE, ConfigError, Faults, most_similar, validate
from btfeed.flow import matching
from btfeed.flow.fields import VISIT, alike
from btfeed.flow.graph import Graph, graph
from btfeed.toml_file import read_toml
from sinks.settings import Seconds, Settings

Name = Annotated[str, Field(min_length=1)]
Table = dict[str, Any]
"""A match: what its keys may be is said by `matching`."""
BUCKETS = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "6h": 21_600, "1d": 86_400, "7d": 604_800}
"""Widths of a time series -> seconds."""
MOST_STEPS = 50
UNFIT = re.compile(r"[,=/\x00-\x1f\x7f]")
"""What no name of a dimension may have."""
LONGEST_DIMENSION = 100
"""Bytes. Two names fit into that of a file."""
_UNFIT_DIMENSION = (
    f"must be a name of at most {LONGEST_DIMENSION} bytes without commas, equals signs, slashes and control characters, as "
    "--split, --where and the names of CSV files need it"
)


class StepSettings(Settings):
    """One step of the process.

    name        as shown; unique
    event       event.type of its records, or a list of them; required without `match`
    match       further conditions on its records
    after       names of earlier steps of which any has to come first; `[]`: a flow may begin here. Default: the step
                before; where that is optional, the ones before it, too, up to the first that is not
    optional    whether a flow may pass it over
    repeats     whether more than once in a row is expected
    back_to     names of steps; going back there is expected
    goal        whether a flow that comes here has converted; default: the last step alone
    exceptions  matches: further records that are exceptions of this step, and not the step itself
    lost_after  how long a flow may wait here until it is lost; default: that of the flow
    target      the time from the step before that is promised
    """

    name: Name
    event: Name | list[Name] | None = None
    match: Table = {}
    after: list[str] | None = None
    optional: bool = False
    repeats: bool = False
    back_to: list[str] = []
    goal: bool = False
    exceptions: list[Table] = []
    lost_after: Seconds | None = None
    target: Seconds | None = None

    @cached_property
    def matches(self) -> matching.Match:
        """`event` and `match` together."""
        event = {} if self.event is None else {"event.type": self.event}
        return matching.conditions(event) + matching.conditions(self.match)


class ExceptionSettings(Settings):
    """What is an exception at every step.

    when  a match; `{}`: nothing is
    """

    when: Table = {"event.outcome": "failure"}


class ValueSettings(Settings):
    """What a flow is worth.

    label          as shown
    field          the record field
    step           name of the step whose records have it; default: all steps, exceptions and ends of a flow
    calculation    of the values of a flow: `sum`, `first`, `last` or `max`
    unit           as shown; a label alone: amounts in several currencies are summed as they are
    estimate_from  name of a step: a flow that came so far and has no value is worth the average of converted flows
    estimate_by    name of a dimension: the average of the flows that have the same
    """

    label: Name = "Value"
    field: Name
    step: str | None = None
    calculation: Literal["sum", "first", "last", "max"] = "sum"
    unit: str = ""
    estimate_from: str | None = None
    estimate_by: str | None = None


class TimeSettings(Settings):
    """A pair of steps whose time is told, besides those of neighbours.

    name  as shown
    from  name of a step
    to    name of a later step
    """

    name: Name
    begin: Annotated[str, Field(alias="from")]
    to: str


class Definition(Settings):
    """The top level of a definition.

    name         as shown
    correlation  the field that the records of one flow share, new with each pass; of a list the first one that a record has
    where        a match: only records that fit
    ends         a match: records that say that this flow is over
    window       a goal that comes longer after the start does not count; also how far before a period records are read
    lost_after   without a record that says that it is over: no step for so long or longer, and the flow is lost
    order        `sequence`: a step is reached once a step that may come before it is; `any`: whatever came before
    tolerance    how much before its predecessor a step may be, since servers have several clocks
    bucket       width of the time series: 1m, 5m, 15m, 1h, 6h, 1d or 7d, which begins on Monday; default: the widest that
                 gives at least 24 of them, or 1m
    timezone     where days and weeks begin, and in which text and page show moments
    steps        2 to 50 steps, in order; see below
    exceptions   what is an exception, see below
    value        what a flow is worth, see below
    dimensions   name -> record field; of several values of a flow, the first in time counts, of its steps, exceptions and
                 ends
    times        more pairs of steps whose time is told; see below
    alerts       for later versions; not read
    """

    name: Name
    correlation: Name | Annotated[list[Name], Field(min_length=1)] = VISIT
    where: Table = {}
    ends: Table | None = None
    window: Seconds | None = None
    lost_after: Seconds = 86_400.0
    order: Literal["sequence", "any"] = "sequence"
    tolerance: Seconds = 0.0
    bucket: Seconds | None = None
    timezone: str = "UTC"
    steps: Annotated[list[StepSettings], Field(min_length=2, max_length=MOST_STEPS)]
    exceptions: ExceptionSettings = ExceptionSettings()
    value: ValueSettings | None = None
    dimensions: dict[str, Name] = {}
    times: list[TimeSettings] = []
    alerts: list[dict[str, Any]] = []

    @cached_property
    def graph(self) -> Graph:
        return graph(self.steps)

    @cached_property
    def ranks(self) -> dict[str, int]:
        """Name of a step -> its rank."""
        return {step.name: rank for rank, step in enumerate(self.steps)}

    @cached_property
    def digest(self) -> str:
        """Equal for definitions whose numbers mean the same: of all keys but the alerts."""
        content = json.dumps(self.model_dump(mode="json", exclude={"alerts"}, by_alias=True), sort_keys=True)
        return blake2b(content.encode(), digest_size=6).hexdigest()

    @property
    def correlations(self) -> list[str]:
        return self.correlation if isinstance(self.correlation, list) else [self.correlation]


def shipped() -> dict[str, str]:
    """The built-in definitions as TOML, by name. They are twins of the built-in profiles of traffic."""
    folder = resources.files("btfeed.flow") / "definitions"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return {file.name.removesuffix(".toml"): file.read_text(encoding="utf-8") for file in files}


def load(name: str) -> Definition:
    """The built-in definition of that name, or the one in the file at that path. Raises ConfigError."""
    known = shipped()
    if name in known:
        return parse(tomllib.loads(known[name]))
    if not Path(name).exists():
        raise ConfigError([f"{name}: no such file, and not a built-in definition ({', '.join(known)})"])
    tables = read_toml(Path(name))
    try:
        return parse(tables)
    except ConfigError as error:
        raise ConfigError([_by_name(fault, tables) for fault in error.faults], error.unresolved) from None


def text(name: str) -> str:
    """What is in the built-in definition of that name, or in the file at that path. Raises OSError or ValueError."""
    return shipped().get(name) or Path(name).read_text(encoding="utf-8")


def _by_name(fault: str, tables: dict[str, Any]) -> str:
    """A fault with the name of the step that it is of, or its number, from 1: `steps.0.after` is no place to look for."""
    found = re.fullmatch(r"(step|time)s\.(\d+)(?:\.|: )(.*)", fault, re.DOTALL)
    if found is None:
        return fault
    row = dict(_tables(tables[f"{found[1]}s"])).get(found[2], {})
    name = row.get("name")
    told = name if isinstance(name, str) and name and not UNPRINTABLE.search(name) else int(found[2]) + 1
    return f"{found[1]} {told}: {found[3]}"


def parse(tables: dict[str, Any]) -> Definition:
    """The definition in parsed TOML. Raises ConfigError."""
    faults = Faults()
    definition = validate(Definition, tables, (), faults)
    for path, message in (*_faults_of_matches(tables), *_faults_of_steps(tables), *_faults_of_rest(tables)):
        faults.add(path, message)
    for path, message in alike(definition) if definition and not faults else ():
        faults.add(path, message)
    if faults or definition is None:
        raise ConfigError(faults.lines())
    return definition


# What pydantic does not see. It is looked for in the tables as they are, so that it is found beside what pydantic finds;
# what has the wrong type is passed over, since pydantic says that.

Fault = tuple[tuple[str, ...], str]


def _tables(value: Any) -> list[tuple[str, dict[str, Any]]]:
    """The tables of a list, each with its place."""
    rows = value if isinstance(value, list) else []
    return [(str(place), row) for place, row in enumerate(rows) if isinstance(row, dict)]


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _faults_of_matches(tables: dict[str, Any]) -> Iterator[Fault]:
    exceptions = tables.get("exceptions")
    found: list[tuple[tuple[str, ...], Any]] = [((key,), tables.get(key, {})) for key in ("where", "ends")]
    found.append((("exceptions", "when"), exceptions.get("when", {}) if isinstance(exceptions, dict) else {}))
    for place, step in _tables(tables.get("steps")):
        found.append((("steps", place, "match"), step.get("match", {})))
        for number, match in _tables(step.get("exceptions")):
            if not match:
                yield ("steps", place, "exceptions", number), "must not be empty: every record would fit"
            found.append((("steps", place, "exceptions", number), match))
    if tables.get("ends") == {}:
        yield ("ends",), "must not be empty: every record would fit. Leave it out if no record says that a flow is over"
    for path, match in found:
        for below, message in matching.faults(match) if isinstance(match, dict) else ():
            yield (*path, *below), message


def _faults_of_steps(tables: dict[str, Any]) -> Iterator[Fault]:
    steps = _tables(tables.get("steps"))
    ranks: dict[str, int] = {}
    for rank, (_, step) in enumerate(steps):
        if isinstance(step.get("name"), str):
            ranks.setdefault(step["name"], rank)
    for rank, (place, step) in enumerate(steps):
        path = ("steps", place)
        if ranks.get(step.get("name", ""), rank) != rank:
            yield (*path, "name"), "an earlier step has the same name"
        if _is_no_time(step.get("target")):
            yield (*path, "target"), "must be more than 0"
        if "event" not in step and not step.get("match"):
            yield (*path, "event"), "is required, unless match has conditions"
        if step.get("event") == []:
            yield (*path, "event"), "must not be empty"
        yield from _faults_of_after(path, rank, step, ranks)
        for number, name in enumerate(_texts(step.get("back_to"))):
            if name not in ranks:
                yield (*path, "back_to", str(number)), _no_step(name, ranks)
            elif ranks[name] > rank:
                yield (*path, "back_to", str(number)), f"{name!r} comes later; write after = [...] there"
            elif ranks[name] == rank:
                yield (*path, "back_to", str(number)), "is this step; write repeats = true"
    if steps and steps[-1][1].get("goal") is False and not any(step.get("goal") is True for _, step in steps):
        yield ("steps", steps[-1][0], "goal"), "no other step is a goal, so this one is: leave it out, or set one to true"
    if steps and steps[0][1].get("optional") is True and "after" not in steps[1 % len(steps)][1]:
        yield ("steps", "0", "optional"), "a flow begins here; write after = [] at each step where it may begin instead"


def _faults_of_after(path: tuple[str, ...], rank: int, step: dict[str, Any], ranks: dict[str, int]) -> Iterator[Fault]:
    names = _texts(step.get("after"))
    if rank == 0 and names:
        yield (*path, "after"), "the first step can't come after another; move it below, or write after = []"
        return
    for number, name in enumerate(names):
        if name not in ranks:
            yield (*path, "after", str(number)), _no_step(name, ranks)
        elif ranks[name] == rank:
            yield (*path, "after", str(number)), "a cycle: the step can't come after itself; write repeats = true"
        elif ranks[name] > rank:
            message = f"a cycle, or the wrong order: {name!r} stands below; move it up, or write back_to = [...] there"
            yield (*path, "after", str(number)), message


def _faults_of_rest(tables: dict[str, Any]) -> Iterator[Fault]:
    names = {step["name"]: int(place) for place, step in _tables(tables.get("steps")) if isinstance(step.get("name"), str)}
    value, dimensions = tables.get("value"), tables.get("dimensions", {})
    if isinstance(value, dict):
        for key in ("step", "estimate_from"):
            if isinstance(value.get(key), str) and value[key] not in names:
                yield ("value", key), _no_step(value[key], names)
        by = value.get("estimate_by")
        if isinstance(by, str) and by not in (dimensions if isinstance(dimensions, dict) else ()):
            yield ("value", "estimate_by"), "there is no dimension with this name"
        if by is not None and "estimate_from" not in value:
            yield ("value", "estimate_by"), "needs estimate_from, the step from which on a flow is worth something"
    for place, pair in _tables(tables.get("times")):
        ends = [(key, pair[key]) for key in ("from", "to") if isinstance(pair.get(key), str)]
        for key, name in ends:
            if name not in names:
                yield ("times", place, key), _no_step(name, names)
        if len(ends) == 2 and all(name in names for _, name in ends) and names[ends[0][1]] >= names[ends[1][1]]:
            yield ("times", place, "to"), "must be a later step than from"
    yield from _faults_of_times(tables)
    for name in dimensions if isinstance(dimensions, dict) else ():
        if not name or UNFIT.search(name) or len(name.encode()) > LONGEST_DIMENSION:
            yield ("dimensions", name), _UNFIT_DIMENSION


def _faults_of_times(tables: dict[str, Any]) -> Iterator[Fault]:
    if isinstance(tables.get("bucket"), str) and tables["bucket"] not in BUCKETS:
        yield ("bucket",), f"must be one of {', '.join(BUCKETS)}"
    zone = tables.get("timezone")
    if isinstance(zone, str) and zone not in available_timezones():
        yield ("timezone",), 'there is no such time zone; write "UTC" or a name such as "Europe/Vienna"'
    for key in ("window", "lost_after"):
        if _is_no_time(tables.get(key)):
            yield (key,), "must be more than 0"


def _is_no_time(value: Any) -> bool:
    return isinstance(value, str) and value.strip("0.smhd ") == ""


def _no_step(name: str, names: dict[str, int]) -> str:
    similar = most_similar(name, names)
    return "there is no step with this name" + (f"; did you mean {similar!r}?" if similar else "")
