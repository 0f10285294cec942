"""A report's flows by one or two of their dimensions: the largest parts, and what is not among them."""

from btfeed.flow.definition import Definition
from btfeed.flow.duck import Database
from btfeed.flow.numbers import figures
from btfeed.flow.report import OTHERS, UNKNOWN, Part
from btfeed.flow.transitions import transitions
from btfeed.flow.values import money

LARGEST = 20
"""Parts that are told one by one."""


def split(database: Database, definition: Definition, names: tuple[str, ...]) -> tuple[Part, ...]:
    """The parts of the flows in `picked`, the largest first, at last the others. Raises FlowError."""
    columns = [known(definition, name) for name in names]
    named = ", ".join(f"{column} AS value{n}" for n, column in enumerate(columns))
    keys = ", ".join(f"value{n}" for n in range(len(names)))
    strange = " AND ".join(f"value{n} = '{OTHERS}'" for n in range(len(names)))  # with the others: there is one such part
    database.run(f"""CREATE OR REPLACE TABLE parts AS
SELECT {keys}, row_number() OVER (ORDER BY count(*) DESC, {keys}) - 1 AS part
FROM (SELECT {named} FROM picked) WHERE NOT ({strange}) GROUP BY {keys}
QUALIFY part < {LARGEST}""")
    same = " AND ".join(f"{column} = parts.value{n}" for n, column in enumerate(columns))
    database.run(f"""CREATE OR REPLACE TABLE divided AS
SELECT picked.*, coalesce(parts.part, {LARGEST}) AS part FROM picked LEFT JOIN parts ON {same}""")
    labels = {row[-1]: row[:-1] for row in database.rows(f"SELECT {keys}, part FROM parts")}
    labels[LARGEST] = (OTHERS,) * len(names)
    worth = money(database, definition, "part", "divided")
    by_part = figures(database, definition, worth, "part", "divided")
    ways = transitions(database, definition, "part", "divided")
    database.run("DROP TABLE divided; DROP TABLE parts")
    return tuple(Part(labels[part], found, ways.get(part, ())) for part, found in sorted(by_part.items()))


def known(definition: Definition, name: str) -> str:
    """The value of a dimension of a flow, in SQL."""
    return f"coalesce(picked.d{list(definition.dimensions).index(name)}, '{UNKNOWN}')"
