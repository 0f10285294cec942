"""From flows to figures: one row of aggregates for each set of flows, and how it is read.

A set is all rows of the table `picked`, or those of a table made of it that have the same key: a bucket of time, a part of
a split.
"""

from collections import defaultdict
from collections.abc import Mapping
from math import sqrt
from typing import Any

from btfeed.flow.clauses import least, ratio, read_spread, spread, to_ms
from btfeed.flow.definition import Definition
from btfeed.flow.duck import Database, Row, listed
from btfeed.flow.errors import FlowError
from btfeed.flow.options import STATES
from btfeed.flow.report import Conversion, Counts, Exceptions, Figures, Step, Time, Value
from btfeed.flow.states import CONVERTED, LATE, OPEN, with_exceptions
from btfeed.flow.values import Money, value

MANY = 5
"""The last class of a distribution: that many events, or more."""
DROPPED = f"state NOT IN ({CONVERTED}, {LATE}, {OPEN})"
TOGETHER = 60
"""The most aggregates of a query: DuckDB takes memory for each of them, and 50 steps may have 6,000."""
WILSON = 1.959963984540054
"""Standard deviations on both sides that hold 95 %."""


def pairs(definition: Definition) -> list[tuple[str, int, int]]:
    """Name and steps of each time that is told: of neighbours, then of those that the definition names."""
    names = [step.name for step in definition.steps]
    near = [(f"{names[p]} to {names[rank]}", p, rank) for rank, after in enumerate(definition.graph.after) for p in after]
    ranks = definition.ranks
    return near + [(pair.name, ranks[pair.begin], ranks[pair.to]) for pair in definition.times]


def figures(
    database: Database, definition: Definition, money: Mapping[Any, Money], key: str = "", table: str = "picked"
) -> dict[Any, Figures]:
    """Of all rows of a table under the key None; with the name of a column, for each value of it. Raises FlowError."""
    rows = _rows(database, definition, table, key)
    return {part: _read(definition, row, money.get(part)) for part, row in rows.items()}


def nothing(database: Database, definition: Definition) -> Figures:
    """The figures of no flow."""
    return _read(definition, _rows(database, definition, "picked WHERE false")[None], None)


def _rows(database: Database, definition: Definition, source: str, key: str = "") -> dict[Any, Row]:
    """The aggregates for each value of the key, or all under None."""
    found: dict[Any, Row] = defaultdict(dict)
    columns = _aggregates(definition)
    for first in range(0, len(columns), TOGETHER):
        some = listed(columns[first : first + TOGETHER])
        query = f"SELECT {key} AS key, {some} FROM {source} GROUP BY {key}" if key else f"SELECT {some} FROM {source}"
        for row in database.dicts(query):
            found[row.get("key")] |= row
    for row in database.dicts(_times(definition, source, key)):
        number = row.pop("pair")
        found[row.pop("key")] |= {f"pair{number}_{name}": value for name, value in row.items()}
    return dict(found)


def _times(definition: Definition, source: str, key: str) -> str:
    """A query of the times of all pairs, with a row for each that has any: 50 steps may have 1,200 pairs, of which a
    statement with columns for each would be long in the making."""
    each = pairs(definition)
    taken = ", ".join(f"t{to} - t{begin}" for _, begin, to in each)
    columns = ", ".join(aggregate.replace(" AS time_", " AS ") for aggregate in spread("time", "taken"))
    return f"""SELECT key, pair, {columns}
FROM (SELECT {key or "NULL"} AS key, unnest(range({len(each)})) AS pair, unnest([{taken}]) AS taken FROM {source})
WHERE taken IS NOT NULL
GROUP BY key, pair"""


def _aggregates(definition: Definition) -> list[str]:
    columns = ["count(*) AS started"]
    columns += [f"count(*) FILTER (state = {number}) AS {name}" for number, name in enumerate(STATES)]
    columns += ["coalesce(sum(exceptions), 0) AS exceptions"]
    columns += ["count(*) FILTER (exceptions > 0) AS with_exceptions"]
    columns += [f"count(*) FILTER (exceptions > 0 AND {DROPPED}) AS with_exceptions_dropped"]
    astray = " OR ".join(f"(v{rank} > 0 AND t{rank} IS NULL)" for rank in range(len(definition.steps)))
    columns += [f"count(*) FILTER ({astray}) AS disordered"]
    columns += spread("duration", f"CASE WHEN state = {CONVERTED} THEN goal - start END")
    for rank in range(len(definition.steps)):
        columns += _aggregates_of_step(definition, rank)
    return columns


def _aggregates_of_step(definition: Definition, rank: int) -> list[str]:
    time, visits, name = f"t{rank}", f"v{rank}", f"step{rank}"
    before = definition.graph.before[rank]
    first = least(f"t{p}" for p in before) if before else "NULL"
    reached = f"{time} IS NOT NULL"
    columns = [
        f"count({time}) AS {name}_reached",
        f"count({first}) AS {name}_before",
        f"count(*) FILTER (furthest = {rank} AND {DROPPED}) AS {name}_dropped",
        f"count(*) FILTER (furthest = {rank} AND state = {OPEN}) AS {name}_open",
        f"count(*) FILTER ({reached} AND state = {LATE}) AS {name}_late",
        f"count(*) FILTER ({visits} > 0 AND NOT {reached}) AS {name}_disordered",
        f"count(*) FILTER ({visits} >= {MANY} AND {reached}) AS {name}_times{MANY}",
        *(f"count(*) FILTER ({visits} = {times} AND {reached}) AS {name}_times{times}" for times in range(1, MANY)),
        f"coalesce(sum({visits}), 0) AS {name}_visits",
        f"coalesce(sum(x{rank}), 0) AS {name}_exceptions",
    ]
    if rank in with_exceptions(definition):
        columns.append(f"coalesce(sum(a{rank}), 0) AS {name}_attempts")
    if len(before) > 1:
        columns += spread(f"{name}_time", f"{time} - {first}")
    target = definition.steps[rank].target
    if before and target is not None:
        columns.append(f"count(*) FILTER ({time} - {first} > {to_ms(target)}) AS {name}_beyond")
    return columns


def _read(definition: Definition, row: Row, money: Money | None) -> Figures:
    counts = Counts(row["started"], **{name: row[name] for name in STATES}, disordered=row["disordered"])
    times = tuple(
        Time(name, definition.steps[begin].name, definition.steps[to].name, read_spread(row, f"pair{number}"))
        for number, (name, begin, to) in enumerate(pairs(definition))
    )
    steps = tuple(_step(definition, row, rank) for rank in range(len(definition.steps)))
    _check(counts, steps)
    return Figures(
        counts, wilson(counts.converted, counts.started), read_spread(row, "duration"), _value(definition, money),
        _exceptions(row, counts, steps), steps, times,
    )  # fmt: skip


def _value(definition: Definition, money: Money | None) -> Value | None:
    return value(definition.value, money) if definition.value else None


def _exceptions(row: Row, counts: Counts, steps: tuple[Step, ...]) -> Exceptions:
    exceptions, attempts = int(row["exceptions"]), sum(step.attempts for step in steps)
    flows, dropped = row["with_exceptions"], row["with_exceptions_dropped"]
    rate, success = _rates(exceptions, attempts)
    return Exceptions(exceptions, attempts, rate, success, flows, dropped, counts.started - flows, counts.dropped - dropped)


def _rates(exceptions: int, attempts: int) -> tuple[float | None, float | None]:
    """The rate of exceptions, and that of successes."""
    return ratio(exceptions, attempts), ratio(attempts - exceptions, attempts)


def _step(definition: Definition, row: Row, rank: int) -> Step:
    step, graph = definition.steps[rank], definition.graph
    name, before = f"step{rank}", graph.before[rank]
    reached, dropped, visits = row[f"{name}_reached"], row[f"{name}_dropped"], int(row[f"{name}_visits"])
    exceptions, attempts = int(row[f"{name}_exceptions"]), int(row.get(f"{name}_attempts", visits))
    distribution = tuple(row[f"{name}_times{times}"] for times in range(1, MANY + 1))
    left = dropped + sum(row[f"step{passed}_dropped"] for passed in graph.passed[rank])
    time = (
        read_spread(row, _time_from(definition, rank) or f"{name}_time") if before else read_spread({"none_n": 0}, "none")
    )
    rate, success = _rates(exceptions, attempts)
    return Step(
        name=step.name,
        optional=step.optional,
        goal=rank in graph.goals,
        before=tuple(definition.steps[p].name for p in before),
        reached=reached,
        of_start=ratio(reached, row["started"]),
        of_before=ratio(reached, row[f"{name}_before"]) if before else None,
        dropped=dropped,
        open=row[f"{name}_open"],
        late=row[f"{name}_late"] if rank in graph.goals else 0,
        drop_off=ratio(left, reached),
        time=time,
        target=None if step.target is None else to_ms(step.target),
        beyond=ratio(row[f"{name}_beyond"], time.n) if f"{name}_beyond" in row else None,
        visits=visits,
        more_than_once=ratio(sum(distribution[1:]), reached),
        times_each=ratio(visits, reached),
        distribution=distribution,
        exceptions=exceptions,
        attempts=attempts,
        exception_rate=rate,
        success_rate=success,
        disordered=row[f"{name}_disordered"],
    )


def _time_from(definition: Definition, rank: int) -> str:
    """The name of the pair that has the time from the step before, if only one is before."""
    before = definition.graph.before[rank]
    if len(before) > 1:
        return ""
    return next(f"pair{n}" for n, (_, begin, to) in enumerate(pairs(definition)) if (begin, to) == (before[0], rank))


def wilson(hits: int, of: int) -> Conversion:
    """A share, and the interval that holds the true one in 95 of 100 cases."""
    if not of:
        return Conversion(None, None, None)
    share, z = hits / of, WILSON
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return Conversion(share, max(0.0, middle - half), min(1.0, middle + half))


def _check(counts: Counts, steps: tuple[Step, ...]) -> None:
    """Every flow is somewhere, and only once. Raises FlowError."""
    states = counts.converted + counts.late + counts.dropped + counts.open
    places = counts.converted + counts.late + sum(step.dropped + step.open for step in steps)
    if not counts.started == states == places:
        raise FlowError(
            f"a fault of btfeed: {counts.started} flows have started, {states} have a state, {places} are at a step;"
            " please report it with the definition"
        )
