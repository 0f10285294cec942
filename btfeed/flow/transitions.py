"""The directly-follows graph: which step's event comes next after which, how often, and after which gap.

Further exceptions of steps, and what only ends a flow, are not in it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from btfeed.flow.clauses import gaps, read_spread, to_ms
from btfeed.flow.definition import Definition
from btfeed.flow.duck import Database, listed
from btfeed.flow.report import Transition

MICROSECONDS = 1000
"""In a millisecond. Gaps are whole microseconds, so that their sums are exact."""
PLACES = 64
"""More than there are steps. A time and a place are one whole number, which sorts faster than two."""
MANY_UNKNOWN = 0.01
"""Share of the ways that the definition does not have, from which on they are told."""
FLOWS = 3
"""How many flows are named that went a way that the definition does not have."""


def make(database: Database, whole: bool) -> None:
    """Make the table `neighbours`, of the flows in `picked`: came, went, gap in microseconds. Raises FlowError.

    whole: whether all flows are picked
    """
    database.run(f"""CREATE OR REPLACE TABLE neighbours AS
WITH packed AS (
    SELECT flow, place, took, id, t * {PLACES} + place AS point
    FROM seen {"" if whole else "SEMI JOIN picked USING (flow)"}
    WHERE place >= 0
), followed AS (
    SELECT flow, place AS came, took, point - place AS here, lead(point) OVER ordered AS next
    FROM packed
    WINDOW ordered AS (PARTITION BY flow ORDER BY point, id)
), followers AS (
    SELECT *, next & {PLACES - 1} AS went FROM followed WHERE next IS NOT NULL
)
SELECT flow, came, CAST(went AS TINYINT) AS went, (next - went - here) // {PLACES} * {MICROSECONDS} - took AS gap
FROM followers""")


def resumed(database: Database, definition: Definition) -> int:
    """How many of these flows began again after their goal, or went on after they could have been lost at any step: their
    id may be that of several passes. With the order `any`, a beginning after the goal is nothing special. Raises FlowError.
    """
    patience = max(definition.lost_after, *(step.lost_after or 0.0 for step in definition.steps))
    roots = ", ".join(str(rank) for rank, after in enumerate(definition.graph.after) if not after)
    again = f"place IN ({roots}) AND t > goal + {to_ms(definition.tolerance)}"
    found = database.one(f"""SELECT count(DISTINCT flow) AS n FROM (
    SELECT flow FROM neighbours WHERE gap > {to_ms(patience) * MICROSECONDS}
    UNION ALL
    SELECT flow FROM seen JOIN picked USING (flow) WHERE {again if definition.order == "sequence" else "false"}
)""")
    return int(found["n"])


def transitions(
    database: Database, definition: Definition, key: str = "", table: str = "picked"
) -> Mapping[Any, tuple[Transition, ...]]:
    """Of all flows under the key None; with a column of a table of flows, for each value of it. Raises FlowError."""
    source = f"(SELECT neighbours.*, {key} AS key FROM neighbours JOIN {table} USING (flow))" if key else "neighbours"
    groups = ["key", "came", "went"] if key else ["came", "went"]
    columns = listed([*groups, "count(*) AS n", *gaps("gap", "gap")])
    rows = database.dicts(f"SELECT {columns} FROM {source} GROUP BY {', '.join(groups)} ORDER BY {', '.join(groups)}")
    ways = definition.graph.ways
    unknown = sorted({(row["came"], row["went"]) for row in rows} - ways.keys())
    named = _flows(database, source, groups, unknown) if unknown else {}
    names = [step.name for step in definition.steps]
    found: dict[Any, list[Transition]] = defaultdict(list)
    for row in rows:
        begin, to, part = row["came"], row["went"], row.get("key")
        gap, way = read_spread(row, "gap", MICROSECONDS), ways.get((begin, to))
        flows = named.get((part, begin, to), ())
        found[part].append(Transition(names[begin], names[to], row["n"], gap, way, flows))
    return {part: tuple(each) for part, each in found.items()}


def _flows(
    database: Database, source: str, groups: list[str], unknown: list[tuple[int, int]]
) -> dict[tuple[Any, int, int], tuple[str, ...]]:
    """For each of these ways the first flows, by id, that went so."""
    wanted = ", ".join(f"({begin}, {to})" for begin, to in unknown)
    rows = database.dicts(f"""SELECT {", ".join(groups)}, min(flow, {FLOWS}) AS flows
FROM (SELECT DISTINCT {", ".join(groups)}, flow FROM {source} WHERE (came, went) IN ({wanted}))
GROUP BY {", ".join(groups)}""")
    return {(row.get("key"), row["came"], row["went"]): tuple(map(str, row["flows"])) for row in rows}


def many_unknown(definition: Definition, found: Sequence[Transition]) -> tuple[float, Transition] | None:
    """The share of the ways that the definition does not have, and the most frequent of these. None if they are few, and
    with the order `any`, which expects all ways."""
    unknown = [each for each in found if each.way is None]
    if not unknown or definition.order == "any":
        return None
    share = sum(each.n for each in unknown) / sum(each.n for each in found)
    return (share, max(unknown, key=lambda each: each.n)) if share > MANY_UNKNOWN else None
