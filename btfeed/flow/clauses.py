"""Small pieces of SQL: conditions, times, statistics. Columns of records are texts, under the fields' own names."""

from collections.abc import Iterable, Sequence

from btfeed.flow.duck import Row, identifier, literal
from btfeed.flow.matching import Condition, Match, Scalar
from btfeed.flow.report import Spread

MONEY = "DECIMAL(24, 6)"
"""Of one record. Sums of it are DECIMAL(38, 6), so that no sum of records overflows."""


def fits(match: Match) -> str:
    """Whether a record fits a match; where it doesn't, false or NULL."""
    return " AND ".join(_condition(condition) for condition in match) or "true"


def _condition(condition: Condition) -> str:
    column = identifier(condition.field)
    number = f"try_cast({column} AS DOUBLE)"
    parts = []
    if condition.any_of is not None:
        parts.append(_is_any(column, number, condition.any_of))
    if condition.no is not None:
        parts.append(f"NOT coalesce({_is_any(column, number, condition.no)}, false)")
    if condition.prefix is not None:
        parts.append(f"starts_with({column}, {literal(condition.prefix)})")
    if condition.regex is not None:
        parts.append(f"regexp_matches({column}, {literal(condition.regex)})")
    if condition.min is not None:
        parts.append(f"{number} >= {_double(condition.min)}")
    if condition.max is not None:
        parts.append(f"{number} <= {_double(condition.max)}")
    if condition.exists is not None:
        parts.append(f"{column} IS {'NOT ' if condition.exists else ''}NULL")
    return "(" + " AND ".join(parts) + ")"


def _is_any(column: str, number: str, values: Sequence[Scalar]) -> str:
    texts = [("true" if value else "false") if isinstance(value, bool) else value for value in values]
    words = [literal(value) for value in texts if isinstance(value, str)]
    numbers = [_double(value) for value in texts if not isinstance(value, str)]
    parts = [f"{column} IN ({', '.join(words)})"] if words else []
    parts += [f"{number} IN ({', '.join(numbers)})"] if numbers else []
    return parts[0] if len(parts) == 1 else "(" + " OR ".join(parts) + ")"


def _double(value: float) -> str:
    return f"CAST({literal(repr(float(value)))} AS DOUBLE)"


def milliseconds(field: str) -> str:
    """A field with a time of the years 1 to 9999, in milliseconds since the epoch; NULL where it has none."""
    time = f"try_cast({identifier(field)} AS TIMESTAMPTZ)"
    years = "TIMESTAMPTZ '0001-01-01 00:00:00Z' AND TIMESTAMPTZ '9999-12-30 00:00:00Z'"
    return f"CASE WHEN {time} BETWEEN {years} THEN epoch_ms({time}) END"


def least(columns: Iterable[str]) -> str:
    """The least that is not NULL; NULL where all are."""
    found = list(columns)
    return found[0] if len(found) == 1 else f"least({', '.join(found)})"


def to_ms(seconds: float) -> int:
    """A time of a definition in milliseconds."""
    return round(seconds * 1000)


def spread(name: str, expression: str) -> list[str]:
    """Aggregates of a whole number, for `read_spread`. Negative ones are left out and counted."""
    fine = f"FILTER ({expression} >= 0)"
    return [*_statistics(name, expression, fine), f"count(*) FILTER ({expression} < 0) AS {name}_negative"]


def gaps(name: str, expression: str) -> list[str]:
    """The same, negative ones among them."""
    return _statistics(name, expression, "")


def _statistics(name: str, expression: str, fine: str) -> list[str]:
    return [
        f"count({expression}) {fine} AS {name}_n",
        f"quantile_cont(CAST({expression} AS DOUBLE), [0.0, 0.5, 0.95, 1.0]) {fine} AS {name}_quantiles",
        f"sum({expression}) {fine} AS {name}_sum",
    ]


def read_spread(row: Row, name: str, per_ms: int = 1) -> Spread:
    """What `spread` or `gaps` of this name came to, in milliseconds. per_ms: how many units are one."""
    n, negative = row.get(f"{name}_n", 0), row.get(f"{name}_negative", 0)
    if not n:
        return Spread(0, None, None, None, None, None, negative)
    low, median, p95, high = (each / per_ms for each in row[f"{name}_quantiles"])
    return Spread(n, median, p95, float(row[f"{name}_sum"]) / n / per_ms, low, high, negative)


def ratio(part: float, of: float) -> float | None:
    return part / of if of else None
