"""From events to flows: the table `flows` has a row for each flow, as it stands at a moment.

    t0 ..      when each step was reached; NULL if it was not
    v0 ..      how many events of each step there are
    x0 ..      how many of these, and of the step's further exceptions, are exceptions
    a0 ..      how many events and further exceptions there are, of steps that have further ones
    start      the least of the steps where a flow may begin; NULL: headless
    goal       the least of the goals
    furthest   the highest rank that was reached
    last       time of the last event
    state      its number in options.STATES
    decided    when that was decided; NULL while open
    value, d0 ..
    inside     whether one of its events is in the period

The rule for the time of a step is exact, whatever comes out of order. Most flows come in order: their times are the first
ones of each step. Only the others, those `astray`, go through the rule step by step, with lists.
"""

from dataclasses import dataclass

from btfeed.flow.clauses import least, to_ms
from btfeed.flow.definition import Definition, StepSettings
from btfeed.flow.duck import Database, listed
from btfeed.flow.options import STATES
from btfeed.flow.reading import further_exceptions

CONVERTED, LATE, ENDED, LOST, OPEN = range(len(STATES))


@dataclass(frozen=True, slots=True)
class Frame:
    """What is looked at: the period [begin, end), at the moment as_of, in milliseconds since the epoch."""

    begin: int | None
    end: int | None
    as_of: int


def make(database: Database, definition: Definition, frame: Frame) -> None:
    """Make the view `seen`, the events that are read for a period, and the table `flows`. Raises FlowError."""
    database.run(f"CREATE OR REPLACE VIEW seen AS {_seen(definition, frame)}")
    database.run(f"CREATE OR REPLACE TABLE flows AS {_judged(definition, frame, _firsts(definition, frame))}")
    if definition.order == "sequence" and database.rows("SELECT 1 FROM flows WHERE astray LIMIT 1"):
        _make_exact(database, definition)
        _correct(database, definition, frame)


def _seen(definition: Definition, frame: Frame) -> str:
    """The events of the period, with what orders them. A record that only ends a flow does not exist before it is over."""
    window = None if definition.window is None else to_ms(definition.window)
    bounds = [f"t <= {frame.as_of}", f"(place IS NOT NULL OR ended <= {frame.as_of})"]
    if window is not None and frame.begin is not None:
        bounds.append(f"t >= {frame.begin - window}")
    if window is not None and frame.end is not None:
        bounds.append(f"t <= {frame.end + window}")
    contents = ["t", "place", "failed", "took", "value", *(f"d{n}" for n in range(len(definition.dimensions)))]
    rank = f"CASE WHEN place IS NULL THEN {len(definition.steps)} WHEN place < 0 THEN -1 - place ELSE place END"
    return f"""SELECT * EXCLUDE (ended, id),
    CASE WHEN ended <= {frame.as_of} THEN ended END AS ended,
    {rank} AS rank,
    coalesce(id, hash({", ".join(contents)})) AS id
FROM events
WHERE {" AND ".join(bounds)}"""


def _firsts(definition: Definition, frame: Frame) -> str:
    """For each flow the first time of each step, as t0 .., and everything that doesn't depend on the order of steps."""
    inside = [] if frame.begin is None else [f"stepped >= {frame.begin}"]
    inside += [] if frame.end is None else [f"stepped < {frame.end}"]
    ranks = range(len(definition.steps))
    apart = [
        f"CASE WHEN place = {rank} THEN t END AS at{rank}" for rank in ranks
    ]  # costs less than FILTER of each aggregate
    apart += ["CASE WHEN place IS NOT NULL THEN t END AS stepped"]
    apart += [f"CASE WHEN failed AND rank = {rank} THEN true END AS failed{rank}" for rank in ranks]
    columns = [f"{aggregate} AS {name}" for name, aggregate in _columns(definition).items()]
    columns += [
        "max(stepped) AS last",
        "min(ended) AS ended",
        f"coalesce(bool_or({' AND '.join(inside)}), false) AS inside" if inside else "true AS inside",
        f"{_value(definition)} AS value",
        *(f"arg_min(d{n}, position) AS d{n}" for n in range(len(definition.dimensions))),
    ]
    return f"""SELECT flow,
    {listed(columns)}
FROM (SELECT *, {_position(definition)} AS position, {", ".join(apart)} FROM seen)
GROUP BY flow
HAVING count(place) > 0"""


def _columns(definition: Definition) -> dict[str, str]:
    """Columns of each step -> the aggregate of events that each is."""
    columns = {}
    for rank in range(len(definition.steps)):
        columns[f"t{rank}"] = f"min(at{rank})"
        columns[f"v{rank}"] = f"count(at{rank})"
        columns[f"x{rank}"] = f"count(failed{rank})"
    for rank in sorted(with_exceptions(definition)):
        columns[f"a{rank}"] = f"count(*) FILTER (place = {-1 - rank} OR place = {rank})"
    return columns


def with_exceptions(definition: Definition) -> set[int]:
    """Ranks of the steps that have further exceptions."""
    return {rank for rank, _ in further_exceptions(definition)}


def _position(definition: Definition) -> str:
    """Where an event is in the order of its flow: by time, then rank, then id. As one number, which compares fast."""
    ordered = definition.dimensions or (definition.value and definition.value.calculation in ("first", "last"))
    return (
        "CAST(t AS HUGEINT) * 4722366482869645213696 + rank * CAST(18446744073709551616 AS HUGEINT) + id"
        if ordered
        else "0"
    )


def _value(definition: Definition) -> str:
    """arg_min and arg_max pass over events without a value."""
    calculation = definition.value.calculation if definition.value else "sum"
    return {
        "sum": "sum(value)",
        "max": "max(value)",
        "first": "arg_min(value, position)",
        "last": "arg_max(value, position)",
    }[calculation]


def _bound(definition: Definition, rank: int) -> str:
    """A step is not reached before: the least time of the steps that may come before it, less the tolerance."""
    return f"{least(f't{p}' for p in definition.graph.after[rank])} - {to_ms(definition.tolerance)}"


def _follow(definition: Definition) -> list[int]:
    """The steps that need another before them."""
    return [rank for rank, after in enumerate(definition.graph.after) if after]


def _make_exact(database: Database, definition: Definition) -> None:
    """Make the table `exact`: the times of the steps of flows whose first events are out of order, by the rule, as t0 ..

    The time of a step needs those of the steps before it. Each gets a statement of its own: in one query, DuckDB writes out
    the times in each other, which doubles the query with each optional step.
    """
    begin = [rank for rank, after in enumerate(definition.graph.after) if not after]
    all_times = [f"list(t) FILTER (place = {rank}) AS l{rank}" for rank in _follow(definition)]
    database.run(f"""CREATE OR REPLACE TABLE exact AS SELECT flow,
    {listed([*(f"min(t) FILTER (place = {rank}) AS t{rank}" for rank in begin), *all_times])}
FROM seen
WHERE place >= 0 AND flow IN (SELECT flow FROM flows WHERE astray)
GROUP BY flow""")
    for rank in _follow(definition):
        late_enough = f"list_filter(l{rank}, lambda t: t >= {_bound(definition, rank)})"
        database.run(f"""CREATE OR REPLACE TABLE exact AS
SELECT * EXCLUDE (l{rank}), list_min({late_enough}) AS t{rank} FROM exact""")


def _astray(definition: Definition) -> str:
    """Whether the first events of a flow are out of order."""
    in_order = [
        f"(t{rank} IS NULL OR coalesce(t{rank} >= {_bound(definition, rank)}, false))" for rank in _follow(definition)
    ]
    return f"NOT ({' AND '.join(in_order) or 'true'})"


def _correct(database: Database, definition: Definition, frame: Frame) -> None:
    """Put the flows that are in `exact` in the place of those in `flows` that are astray."""
    times = ", ".join(f"exact.t{rank} AS t{rank}" for rank in range(len(definition.steps)))
    rest = "flows.* EXCLUDE (start, goal, furthest, state, decided, exceptions, astray)"
    source = f"SELECT {rest} REPLACE ({times}) FROM flows JOIN exact USING (flow)"
    database.run(f"CREATE OR REPLACE TABLE corrected AS {_judged(definition, frame, source)}")
    database.run("DELETE FROM flows WHERE astray")
    database.run("INSERT INTO flows SELECT * FROM corrected")
    database.run("DROP TABLE corrected; DROP TABLE exact")


def _judged(definition: Definition, frame: Frame, timed: str) -> str:
    """A SELECT with all columns of `flows`, of a SELECT that has those that don't depend on the order of steps."""
    steps, graph = definition.steps, definition.graph
    ranks = range(len(steps))
    kept = [*_columns(definition), "last", "ended", "inside", "value"]
    kept += [f"d{n}" for n in range(len(definition.dimensions))]
    begin = least(f"t{rank}" for rank in ranks if not graph.after[rank])
    furthest = " ".join(f"WHEN t{rank} IS NOT NULL THEN {rank}" for rank in reversed(ranks))
    patience = " ".join(f"WHEN {rank} THEN {_patience(definition, step)}" for rank, step in enumerate(steps))
    window = "true" if definition.window is None else f"goal - start <= {to_ms(definition.window)}"
    return f"""WITH timed AS (
{timed}
), placed AS (
    SELECT *, {begin} AS start, {least(f"t{rank}" for rank in graph.goals)} AS goal, CASE {furthest} END AS furthest
    FROM timed
), judged AS (
    SELECT *, last + CASE furthest {patience} END AS given_up
    FROM placed
), told AS (
    SELECT *, CASE
        WHEN goal IS NOT NULL AND {window} THEN {CONVERTED}
        WHEN goal IS NOT NULL THEN {LATE}
        WHEN ended IS NOT NULL THEN {ENDED}
        WHEN given_up <= {frame.as_of} THEN {LOST}
        ELSE {OPEN}
    END AS state
    FROM judged
)
SELECT flow, {", ".join(kept)},
    start, goal, CAST(furthest AS TINYINT) AS furthest, CAST(state AS TINYINT) AS state,
    CASE WHEN state <= {LATE} THEN goal WHEN state = {ENDED} THEN ended WHEN state = {LOST} THEN given_up END AS decided,
    {" + ".join(f"x{rank}" for rank in ranks)} AS exceptions,
    {_astray(definition) if definition.order == "sequence" else "false"} AS astray
FROM told"""


def _patience(definition: Definition, step: StepSettings) -> int:
    """How long a flow may wait at a step, in milliseconds."""
    return to_ms(definition.lost_after if step.lost_after is None else step.lost_after)
