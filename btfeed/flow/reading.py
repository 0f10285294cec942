"""From files to events: one scan of the files makes the table `events`, of every record that is a step, an exception of one
or an end, each of them once.

    flow    the correlation id: BIGINT if all ids are decimal numbers of at most 18 digits, else VARCHAR
    t       the start, in milliseconds since the epoch
    place   the step's rank; -1 - rank for a further exception of a step; NULL for what only ends a flow
    failed  whether it is an exception
    ended   when the flow is over, in milliseconds since the epoch; NULL if this record doesn't say that
    took    how long it took, in microseconds
    value   its part of the flow's value
    d0 ..   the dimensions
    id      64-bit hash of event.id; NULL without one, and of an empty text
    has     which of the fields that records should have it has, as bits
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from btfeed.flow import clauses
from btfeed.flow.clauses import milliseconds
from btfeed.flow.definition import Definition
from btfeed.flow.duck import Database, identifier, listed, literal
from btfeed.flow.errors import FlowError, MemoryMissing
from btfeed.flow.fields import DURATION, END, ID, MOMENT, TIME, TYPE, expected, types
from btfeed.flow.matching import Condition, Match, conditions
from btfeed.flow.options import Source
from btfeed.flow.report import Read

NUMBER = "0|[1-9][0-9]{0,17}"
"""Ids that are taken as numbers: as these, they are what they were as texts."""

MOST_BITS = 62
"""Fields that are looked for in records: as many as a BIGINT has bits."""

# The files


def records(database: Database, source: Source, columns: Mapping[str, str]) -> str:
    """A SELECT of these fields of all records, with their types; an invalid line gives a row of NULLs."""
    parts = [_json(source.ndjson, columns)] if source.ndjson else []
    parts += [_parquet(database, relation, columns) for relation in parquet(database, source.parquet)]
    if not parts:
        nothing = [f"CAST(NULL AS {kind}) AS {identifier(name)}" for name, kind in columns.items()]
        parts.append(f"SELECT {listed(nothing)} WHERE false")
    return "\nUNION ALL\n".join(parts)


def files(paths: Iterable[Path | str]) -> str:
    """A list in SQL. Names are taken as they are: a `*` in one is a letter."""
    return "[" + ", ".join(literal(_without_patterns(str(path))) for path in paths) + "]"


def _without_patterns(path: str) -> str:
    """DuckDB takes *, ? and [ as patterns, which brackets turn off."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)


def _json(paths: Sequence[Path], columns: Mapping[str, str]) -> str:
    names = ", ".join(f"{literal(name)}: '{kind}'" for name, kind in columns.items())
    return f"""SELECT {listed([identifier(name) for name in columns])}
FROM read_json({files(paths)}, format = 'newline_delimited', ignore_errors = true,
    columns = {{{names}}})"""


def parquet(database: Database, paths: Sequence[Path]) -> list[str]:
    """Relations of Parquet files, one for those with the same columns and types. In one of all files, a column would have
    one type: what a file says would depend on the others, and a value that has no such type would be an error."""
    if not paths:
        return []
    rows = database.rows(f"""SELECT list(file_name) FROM (
    SELECT file_name, list((name, duckdb_type) ORDER BY column_id) AS columns
    FROM parquet_schema({files(paths)}) WHERE column_id > 0 GROUP BY file_name
) GROUP BY columns""")
    return [f"read_parquet({files(alike)})" for (alike,) in rows]


def _parquet(database: Database, relation: str, columns: Mapping[str, str]) -> str:
    known = {str(row[0]): str(row[1]) for row in database.rows(f"DESCRIBE SELECT * FROM {relation}")}
    parts = [f"{_converted(name, known.get(name), kind)} AS {identifier(name)}" for name, kind in columns.items()]
    return f"SELECT {listed(parts)}\nFROM {relation}"


def _converted(name: str, known: str | None, wanted: str) -> str:
    """A column of another type as that of JSON would be: by way of its text, unless that would change nothing."""
    if known is None:
        return f"CAST(NULL AS {wanted})"
    if known == wanted or (known, wanted) == ("TIMESTAMP", MOMENT):
        return f"CAST({identifier(name)} AS {wanted})"
    return f"try_cast(CAST({identifier(name)} AS VARCHAR) AS {wanted})"


def check_parquet(database: Database, paths: Sequence[Path]) -> None:
    """Read all of these files, one by one. Raises FlowError with the name of the first that is damaged: what DuckDB says
    of it may not have that. What is only counted, it may not read."""
    for path in paths:
        try:
            database.rows(f"SELECT max(hash(COLUMNS(*))) FROM read_parquet({files([path])})")
        except MemoryMissing:
            raise
        except FlowError as error:
            raise FlowError(
                f"{path}: damaged inside, so nothing of it is read: leave it out, or have it written again"
            ) from error


def count(database: Database, source: Source, read_json: int) -> int:
    """All records of the source. read_json: those in JSON files, which were counted as they were read."""
    if not source.parquet:
        return read_json
    found = database.one(f"SELECT sum(num_rows) AS n FROM parquet_file_metadata({files(source.parquet)})")
    return read_json + int(found["n"])


# What a record is


def place(definition: Definition) -> str:
    """The step that a record is, or the step that it is an exception of; the first that fits."""
    rows = [(clauses.fits(step.matches), rank) for rank, step in enumerate(definition.steps)]
    rows += [(clauses.fits(match), -1 - rank) for rank, match in further_exceptions(definition)]
    whens = "\n        ".join(f"WHEN {fits} THEN {number}" for fits, number in rows)
    return f"CAST(CASE\n        {whens}\n    END AS TINYINT)"


def further_exceptions(definition: Definition) -> list[tuple[int, Match]]:
    """The rank of a step, and what are exceptions of it and not the step itself."""
    return [(rank, conditions(match)) for rank, step in enumerate(definition.steps) for match in step.exceptions]


def is_exception(definition: Definition) -> str:
    """Whether a record that is a step is an exception."""
    when = conditions(definition.exceptions.when)
    return clauses.fits(when) if when else "false"


def is_end(definition: Definition) -> str:
    return clauses.fits(conditions(definition.ends)) if definition.ends else "false"


def correlation(definition: Definition) -> str:
    """The first of the fields that a record has; an empty text does not count."""
    given = [f"nullif({identifier(name)}, '')" for name in definition.correlations]
    return f"coalesce({', '.join(given)})"


def took() -> str:
    """Microseconds, of a field in nanoseconds."""
    return f"greatest(0, coalesce(try_cast({identifier(DURATION)} AS BIGINT), 0)) // 1000"


def value(definition: Definition) -> str:
    """The part of the flow's value that a record has, NULL if it has none."""
    return f"try_cast({_written_value(definition)} AS {clauses.MONEY})"


def _written_value(definition: Definition) -> str:
    """The same, as it is written; NULL if it is empty."""
    if definition.value is None:
        return "NULL"
    written = f"nullif({identifier(definition.value.field)}, '')"
    if definition.value.step is None:
        return written
    return f"CASE WHEN place = {definition.ranks[definition.value.step]} THEN {written} END"


def events(definition: Definition, further: Sequence[str] = ()) -> str:
    """A SELECT of the events among `records`, which must be a relation. Those without a time have no `t`.

    further: columns of `records` that it has, too
    """
    dimensions = [f"{identifier(field)} AS d{n}" for n, field in enumerate(definition.dimensions.values())]
    columns = [
        "number",
        "CASE WHEN number IS NULL THEN correlation END AS name",
        "t",
        "place",
        f"coalesce(place < 0 OR (place >= 0 AND {is_exception(definition)}), false) AS failed",
        f"CASE WHEN ends THEN coalesce({milliseconds(END)}, t) END AS ended",
        f"{took()} AS took",
        f"{value(definition)} AS value",
        f"{_written_value(definition)} IS NOT NULL AND {value(definition)} IS NULL AS no_number",
        *dimensions,
        f"CASE WHEN {identifier(ID)} <> '' THEN hash({identifier(ID)}) END AS id",
        f"{_has(definition)} AS has",
        *further,
    ]
    return f"""SELECT
    {listed(columns)}
FROM (
    SELECT *, {milliseconds(TIME)} AS t, {place(definition)} AS place,
        {is_end(definition)} AS ends, {correlation(definition)} AS correlation,
        CASE WHEN regexp_full_match(correlation, '{NUMBER}') THEN try_cast(correlation AS BIGINT) END AS number
    FROM records
    WHERE ({clauses.fits(conditions(definition.where))} AND ({_is_event(definition)})) OR {milliseconds(TIME)} IS NULL
) AS classed"""


def _has(definition: Definition) -> str:
    """A bit for each field that is expected, so that those that no record has are known without reading once more."""
    bits = [
        f"CASE WHEN {identifier(field)} IS NULL THEN 0 ELSE {1 << n} END" for n, field in enumerate(_expected(definition))
    ]
    return f"CAST({' + '.join(bits) or '0'} AS BIGINT)"


def _expected(definition: Definition) -> list[str]:
    return sorted(expected(definition))[:MOST_BITS]


def _is_event(definition: Definition) -> str:
    """Whether a record is a step, an exception of one, or an end. Most are none of these: so it is asked first, and in few
    comparisons."""
    plain = [step for step in definition.steps if step.event is not None and not step.match]
    types = [event for step in plain for event in ([step.event] if isinstance(step.event, str) else step.event or [])]
    matches: list[Match] = [(Condition(TYPE, any_of=tuple(types)),)] if types else []
    matches += [step.matches for step in definition.steps if step not in plain]
    matches += [match for _, match in further_exceptions(definition)]
    return " OR ".join([*map(clauses.fits, matches), is_end(definition)])


# The table of events


def read(database: Database, definition: Definition, source: Source) -> Read:
    """Make the table `events`. Raises FlowError."""
    relation = records(database, source, types(definition))
    statement = f"CREATE TABLE found AS WITH records AS (\n{relation}\n)\n{events(definition)}"
    return keep(database, definition, source.kind, count(database, source, database.run_counted(statement)))


def keep(database: Database, definition: Definition, kind: str, number: int) -> Read:
    """Make `events` of the table `found`. number: how many records were read."""
    counts = database.one("""SELECT
    count(t) AS matched,
    count(*) - count(t) AS unreadable,
    count(*) FILTER (t IS NOT NULL AND number IS NULL AND name IS NULL) AS uncorrelated,
    count(name) FILTER (t IS NOT NULL) AS names,
    coalesce(bit_or(has) FILTER (t IS NOT NULL), -1) AS has,
    count(*) FILTER (t IS NOT NULL AND no_number) AS no_numbers,
    min(t) AS first, max(greatest(t, coalesce(ended, t))) FILTER (t IS NOT NULL) AS last
FROM found""")
    flow = "coalesce(name, CAST(number AS VARCHAR))" if counts["names"] else "number"
    rest = "* EXCLUDE (number, name, has, no_number)"
    valid = f"t IS NOT NULL AND {flow} IS NOT NULL"
    database.run(f"CREATE VIEW correlated AS SELECT {flow} AS flow, {rest} FROM found WHERE {valid}")
    duplicates = _copies(database, "id") and _copies(database, "flow, id")
    once = _once(definition) if duplicates else ""
    database.run(f"CREATE {'TABLE' if duplicates else 'VIEW'} events AS SELECT * FROM correlated {once}")
    if duplicates:
        database.run("DROP VIEW correlated; DROP TABLE found")
    names = ("matched", "unreadable", "uncorrelated", "first", "last", "no_numbers")
    missing = tuple(field for n, field in enumerate(_expected(definition)) if not counts["has"] >> n & 1)
    return Read(kind, number, duplicates=duplicates, missing=missing, **{name: counts[name] for name in names})


def _copies(database: Database, key: str) -> int:
    """How many of the events with an id have the key of another. Most files have no id twice, which is found sooner."""
    found = database.one(f"""SELECT count(*) - (SELECT count(*) FROM (
    SELECT DISTINCT {key} FROM correlated WHERE id IS NOT NULL)) AS n
FROM correlated WHERE id IS NOT NULL""")
    return int(found["n"])


def _once(definition: Definition) -> str:
    """Of records with the same event.id in a flow one: should they differ, the earliest, and so on."""
    order = ["t", "place", "failed", "ended", "took", "value", *(f"d{n}" for n in range(len(definition.dimensions)))]
    return f"""
QUALIFY id IS NULL OR row_number() OVER (PARTITION BY flow, id ORDER BY {", ".join(order)}) = 1"""
