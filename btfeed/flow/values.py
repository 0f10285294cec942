"""What flows are worth: won, lost, at risk, late; what is known, and apart from it what is estimated.

Money is summed exactly. Only the averages that an estimate multiplies are IEEE doubles.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from btfeed.flow.definition import Definition, ValueSettings
from btfeed.flow.duck import Database, Row, listed
from btfeed.flow.report import UNKNOWN, Amount, Value
from btfeed.flow.states import CONVERTED, ENDED, LATE, LOST, OPEN

SETS = {
    "won": f"state = {CONVERTED}",
    "lost": f"state IN ({ENDED}, {LOST})",
    "at_risk": f"state = {OPEN}",
    "lost_with_exceptions": f"state IN ({ENDED}, {LOST}) AND exceptions > 0",
    "late": f"state = {LATE}",
}
"""Sets of flows whose value is told -> which they are."""


@dataclass(slots=True)
class Money:
    """Of a set of flows. kinds: for each value of `estimate_by`, sorted: its row of sums and numbers."""

    kinds: list[Row] = field(default_factory=list)


def money(database: Database, definition: Definition, key: str = "", table: str = "picked") -> Mapping[Any, Money]:
    """Of all rows of a table under the key None; with the name of a column, for each value of it. Raises FlowError."""
    settings = definition.value
    if settings is None:
        return {}
    names = list(definition.dimensions)
    by = names.index(settings.estimate_by) if settings.estimate_by else None
    kind = f"'{UNKNOWN}'" if by is None else f"coalesce(d{by}, '{UNKNOWN}')"
    groups = f"{key or 'NULL'} AS key, {kind} AS kind"
    found: dict[Any, Money] = defaultdict(Money)
    for row in database.dicts(f"SELECT {groups}, {listed(_aggregates(definition, settings))} FROM {table} GROUP BY ALL"):
        found[row["key"]].kinds.append(row)
    for each in found.values():
        each.kinds.sort(key=lambda row: str(row["kind"]))
    return found


def _aggregates(definition: Definition, settings: ValueSettings) -> list[str]:
    come = "false" if settings.estimate_from is None else f"t{definition.ranks[settings.estimate_from]} IS NOT NULL"
    columns = []
    for name, which in SETS.items():
        columns.append(f"coalesce(sum(value) FILTER ({which}), 0) AS {name}")
        columns.append(f"count(value) FILTER ({which}) AS {name}_n")
        columns.append(f"count(*) FILTER ({which} AND value IS NULL AND {come}) AS {name}_about")
    return columns


def value(settings: ValueSettings, found: Money | None) -> Value:
    kinds = found.kinds if found else []
    won, valued = _sum(kinds, "won"), sum(row["won_n"] for row in kinds)
    amounts = [_amount(settings, kinds, name) for name in ("lost", "at_risk", "lost_with_exceptions", "late")]
    return Value(settings.label, settings.unit, float(won), valued, float(won) / valued if valued else None, *amounts)


def _sum(kinds: Iterable[Row], name: str) -> Decimal:
    return sum((row[name] for row in kinds), Decimal(0))


def _amount(settings: ValueSettings, kinds: list[Row], name: str) -> Amount:
    known, flows = _sum(kinds, name), sum(row[f"{name}_n"] for row in kinds)
    if settings.estimate_from is None:
        return Amount(float(known), flows)
    fit = [row for row in kinds if row["won_n"]]
    about = sum(row[f"{name}_about"] * (float(row["won"]) / row["won_n"]) for row in fit)
    estimated, all_ = (sum(row[f"{name}_about"] for row in rows) for rows in (fit, kinds))
    return Amount(float(known), flows, float(about) if fit else None, estimated, all_ - estimated)
