"""Which flows a report or a list is of: the view `picked` of `flows`."""

from dataclasses import dataclass

from btfeed.flow import states
from btfeed.flow.clauses import to_ms
from btfeed.flow.definition import Definition
from btfeed.flow.duck import Database, literal
from btfeed.flow.errors import FlowError
from btfeed.flow.options import Selection
from btfeed.flow.report import UNKNOWN, Period
from btfeed.flow.splits import known
from btfeed.flow.states import CONVERTED, OPEN, Frame

MOST_FLOWS_IN = 0.99
"""The share of converted flows that come to the goal within the usual time."""

SOME_VALUES = 8
"""Values of a dimension that are named to who asks for one that is not there."""


@dataclass(frozen=True, slots=True)
class Picked:
    """What `picked` is of.

    usual  see Report
    young  flows of the period that are left out, since they began after `period.mature_before`
    whole  whether it is of all flows
    """

    frame: Frame
    period: Period
    usual: float | None
    headless: int
    carried_in: int
    young: int
    whole: bool


def pick(database: Database, definition: Definition, selection: Selection, as_of: int) -> Picked:
    """Make the table `flows`, and of it the view `picked`. Raises FlowError."""
    frame = Frame(selection.begin, selection.end, as_of)
    states.make(database, definition, frame)
    usual = _usual(database, definition)
    before = as_of - usual if selection.mature and usual is not None else None
    mature = _is_mature(before)
    wanted = " AND ".join(_has(definition, name, value) for name, value in selection.where) or "true"
    belongs = _belongs(selection)
    database.run(f"""CREATE OR REPLACE VIEW picked AS
SELECT * EXCLUDE (inside) FROM flows AS picked
WHERE start IS NOT NULL AND {belongs} AND {mature} AND {wanted}""")
    carried = "false" if selection.begin is None else f"start < {selection.begin} AND inside AND NOT ({belongs})"
    beside = database.one(f"""SELECT
    count(*) FILTER (start IS NULL AND inside) AS headless,
    count(*) FILTER ({carried}) AS carried_in,
    count(*) FILTER (start IS NOT NULL AND {belongs} AND NOT {mature}) AS young,
    (SELECT count(*) FROM flows) = (SELECT count(*) FROM picked) AS whole
FROM flows AS picked WHERE {wanted}""")
    period = Period(selection.begin, selection.end, selection.by, selection.mature, before)
    return Picked(frame, period, usual, **beside)


def values(database: Database, definition: Definition, name: str, asked: str) -> list[str]:
    """The most frequent values of a dimension in `flows`, `asked` first if it is there. Raises FlowError."""
    rows = database.rows(f"""SELECT {known(definition, name)} AS named FROM flows AS picked
WHERE start IS NOT NULL GROUP BY named ORDER BY named = {literal(asked)} DESC, count(*) DESC, named
LIMIT {SOME_VALUES}""")
    return [str(row[0]) for row in rows]


def nameless(
    database: Database, definition: Definition, selection: Selection, period: Period
) -> dict[str, tuple[int, int]]:
    """Dimension that flows are chosen by a value of -> open flows of the period in `flows` without any value of it, and all
    open ones. Raises FlowError."""
    names = [name for name, value in selection.where if value != UNKNOWN]
    if not names:
        return {}
    counts = [f"count(*) FILTER ({_has(definition, name, UNKNOWN)})" for name in names]
    row = database.rows(f"""SELECT {", ".join(counts)}, count(*) FROM flows AS picked
WHERE start IS NOT NULL AND state = {OPEN} AND {_belongs(selection)} AND {_is_mature(period.mature_before)}""")[0]
    return {name: (int(without), int(row[-1])) for name, without in zip(names, row[:-1], strict=True)}


def _belongs(selection: Selection) -> str:
    """Whether a flow is of the period."""
    moment = "start" if selection.by == "start" else "decided"
    within = [f"{moment} IS NOT NULL"]
    within += [] if selection.begin is None else [f"{moment} >= {selection.begin}"]
    within += [] if selection.end is None else [f"{moment} < {selection.end}"]
    return " AND ".join(within)


def _is_mature(before: float | None) -> str:
    return "true" if before is None else f"start < CAST('{before!r}' AS DOUBLE)"


def _usual(database: Database, definition: Definition) -> float | None:
    if definition.window is not None:
        return float(to_ms(definition.window))
    found = database.one(f"""SELECT quantile_cont(CAST(goal - start AS DOUBLE), {MOST_FLOWS_IN}) AS usual
FROM flows WHERE state = {CONVERTED} AND start IS NOT NULL""")
    usual: float | None = found["usual"]
    return usual


def _has(definition: Definition, name: str, value: str) -> str:
    if name not in definition.dimensions:
        raise FlowError(f"{name!r} is not a dimension of this flow; it has {', '.join(definition.dimensions) or 'none'}")
    return f"{known(definition, name)} = {literal(value)}"
