"""How a definition fits the records of a source: what `flow check` judges."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from btfeed.faults import most_similar
from btfeed.flow import clauses
from btfeed.flow.clauses import milliseconds
from btfeed.flow.definition import Definition
from btfeed.flow.duck import Database, identifier
from btfeed.flow.fields import TIME, TYPE, types
from btfeed.flow.matching import conditions
from btfeed.flow.options import Source
from btfeed.flow.reading import files, is_end, place, records
from btfeed.flow.report import Read
from btfeed.telemetry.wording import cut

MOST_FREQUENT = 50
SOME_VALUES = 8
"""Values that there are of a field of `where` that no record fits."""
SOME_RECORDS = 100_000
NO_TYPE = "(none)"


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of the records that fit `where` and have a time.

    by_step      name of a step -> records that are it
    several      names of two or more steps -> records that fit all of them; they count as the first
    exceptions   records that are an exception of a step and not the step itself
    ends         records that say that a flow is over
    passed       event.type -> records that are no step, no exception and no end; the most frequent 50
    value_types  event.type -> steps, exceptions and ends that have the value's field
    strangers    see `strangers`
    similar      fields that the definition names and no step, exception or end has -> the one that is meant in all
                 probability: the same, if only records have it that are passed over
    """

    read: Read
    by_step: Mapping[str, int]
    several: Mapping[tuple[str, ...], int]
    exceptions: int
    ends: int
    passed: Mapping[str, int]
    value_types: Mapping[str, int]
    strangers: Mapping[str, list[str]] = field(default_factory=dict)
    similar: Mapping[str, str] = field(default_factory=dict)


def coverage(database: Database, definition: Definition, source: Source, read: Read) -> Coverage:
    """Reads the files once more. Raises FlowError."""
    rows = database.rows(f"""WITH records AS (
{records(database, source, types(definition))}
)
SELECT {_fitting(definition)} AS steps, {place(definition)} AS place, {is_end(definition)} AS ends,
    coalesce({identifier(TYPE)}, '{NO_TYPE}') AS type, {_has_value(definition)} AS has_value, count(*) AS n
FROM records
WHERE {clauses.fits(conditions(definition.where))} AND {milliseconds(TIME)} IS NOT NULL
GROUP BY ALL""")
    names = [step.name for step in definition.steps]
    by_step, passed, value_types = Counter(dict.fromkeys(names, 0)), Counter[str](), Counter[str]()
    several, exceptions, ends = Counter[tuple[str, ...]](), 0, 0
    for fitting, step, is_over, event_type, has_value, n in rows:
        if step is not None and step >= 0:
            by_step[names[step]] += n
        elif step is not None:
            exceptions += n
        elif not is_over:
            passed[event_type] += n
        if len(fitting) > 1:
            several[tuple(names[rank] for rank in fitting)] += n
        ends += n if is_over else 0
        if has_value and (step is not None or is_over):
            value_types[event_type] += n
    frequent = dict(sorted(passed.items(), key=lambda item: (-item[1], item[0]))[:MOST_FREQUENT])
    types_of_value = dict(sorted(value_types.items()))
    unlike = {} if rows else strangers(database, definition, source)
    like = similar(read.missing, names_of_fields(database, source)) if read.missing else {}
    return Coverage(read, dict(by_step), dict(several), exceptions, ends, frequent, types_of_value, unlike, like)


def names_of_fields(database: Database, source: Source) -> set[str]:
    """The fields that records have; of JSON those of some records. Raises FlowError."""
    found: set[str] = set()
    if source.ndjson:
        rows = database.rows(f"""SELECT DISTINCT unnest(json_keys(json)) FROM (
    SELECT json FROM read_json_objects({files(source.ndjson)}, format = 'newline_delimited', ignore_errors = true)
    LIMIT {SOME_RECORDS})""")
        found |= {row[0] for row in rows}
    if source.parquet:
        rows = database.rows(f"DESCRIBE SELECT * FROM read_parquet({files(source.parquet)}, union_by_name = true)")
        found |= {row[0] for row in rows}
    return found


def similar(missing: Sequence[str], known: Iterable[str]) -> dict[str, str]:
    """Which of the known names each is meant to be, a typing error or its beginning apart; those that are none are left
    out."""
    ends: dict[str, str] = {}
    for name in sorted(known, key=lambda name: (name.count("."), name)):
        parts = name.split(".")
        for first in range(len(parts)):
            ends.setdefault(".".join(parts[first:]), name)
    return {name: ends[close] for name in missing if (close := most_similar(name, ends))}


def strangers(database: Database, definition: Definition, source: Source) -> dict[str, list[str]]:
    """Field of `where` whose condition no record fits -> its most frequent values. Reads the files. Raises FlowError."""
    found: dict[str, list[str]] = {}
    relation = records(database, source, types(definition))
    for condition in conditions(definition.where):
        column = identifier(condition.field)
        rows = database.rows(f"""WITH records AS (
{relation}
)
SELECT {column} AS value, bool_or(coalesce({clauses.fits((condition,))}, false)) AS fits FROM records
GROUP BY value ORDER BY fits DESC, count(*) DESC, value LIMIT {SOME_VALUES + 1}""")
        if rows and not rows[0][1]:
            found[condition.field] = [value for value, _ in rows if value is not None][:SOME_VALUES]
    return found


def without_fit(definition: Definition, unlike: Mapping[str, list[str]]) -> Iterator[str]:
    """That no record fits `where`, for each of its fields that is why."""
    for name, values in unlike.items():
        wanted = definition.where[name]
        asked = f"{name} = {cut(wanted)}" if isinstance(wanted, str) else f"the {name} that it asks for"
        there = f"there is {', '.join(map(cut, values))}" if values else "none has this field"
        yield f"where: no record has {asked}; {there}: take other records, or a definition whose `where` fits these"


def _fitting(definition: Definition) -> str:
    """The ranks of all steps that a record fits."""
    each = [f"CASE WHEN {clauses.fits(step.matches)} THEN {rank} END" for rank, step in enumerate(definition.steps)]
    return f"list_filter([{', '.join(each)}], lambda rank: rank IS NOT NULL)"


def _has_value(definition: Definition) -> str:
    if definition.value is None:
        return "false"
    return f"try_cast({identifier(definition.value.field)} AS {clauses.MONEY}) IS NOT NULL"
