"""Single flows: lists of a report, and what `flow list` shows."""

from typing import Any

from btfeed.flow.definition import Definition
from btfeed.flow.duck import Database, Row
from btfeed.flow.options import STATES, ListOptions
from btfeed.flow.report import UNKNOWN, ListedFlow
from btfeed.flow.states import ENDED, LOST, OPEN

SORTS = {"start": "start DESC", "last": "last DESC", "value": "value DESC NULLS LAST", "exceptions": "exceptions DESC"}
LISTS = {
    "dropped_with_exception": (f"state IN ({ENDED}, {LOST}) AND exceptions > 0", "decided DESC"),
    "open_longest_idle": (f"state = {OPEN}", "last"),
    "largest_lost": (f"state IN ({ENDED}, {LOST}) AND value IS NOT NULL", "value DESC"),
}
"""Lists of a report -> which flows, in which order."""


def lists(database: Database, definition: Definition, most: int) -> dict[str, tuple[ListedFlow, ...]]:
    """Lists of flows of `picked`, each with a limit. Raises FlowError."""
    return (
        {name: listed(database, definition, which, order, most) for name, (which, order) in LISTS.items()} if most else {}
    )


def chosen(database: Database, definition: Definition, options: ListOptions, as_of: int) -> tuple[ListedFlow, ...]:
    """The flows of `picked` that a list is asked for. Raises FlowError."""
    which = ["true"]
    if options.states:
        which.append(f"state IN ({', '.join(str(STATES.index(state)) for state in options.states)})")
    if options.at is not None:
        which.append(f"furthest = {definition.ranks[options.at]}")
    if options.idle is not None:
        which.append(f"last <= {as_of - options.idle}")
    if options.exceptions:
        which.append("exceptions > 0")
    return listed(database, definition, " AND ".join(which), SORTS[options.sort], options.limit)


def listed(
    database: Database, definition: Definition, which: str, order: str, most: int | None = None
) -> tuple[ListedFlow, ...]:
    """The flows of `picked` that are such. Raises FlowError."""
    limit = "" if most is None else f"LIMIT {most}"
    rows = database.dicts(f"SELECT * FROM picked WHERE {which} ORDER BY {order}, flow {limit}")
    return tuple(flow(definition, row) for row in rows)


def flow(definition: Definition, row: Row) -> ListedFlow:
    """A row of `flows`."""
    value: Any = row["value"]
    return ListedFlow(
        id=str(row["flow"]),
        start=row["start"],
        state=STATES[row["state"]],
        furthest=definition.steps[row["furthest"]].name,
        last=row["last"],
        decided=row["decided"],
        value=None if value is None else float(value),
        exceptions=row["exceptions"],
        dimensions={
            name: UNKNOWN if row[f"d{n}"] is None else row[f"d{n}"] for n, name in enumerate(definition.dimensions)
        },
    )
