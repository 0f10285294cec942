"""The trace of one flow: all records with its id, the PurePaths behind its actions, and what the rules made of them.

The files are read once for the id and once for the PurePaths, which have no id of a visit. They are read a third time only
if the flow is not over: whether it is lost or open depends on the newest record of all.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from btfeed.flow import reading
from btfeed.flow.clauses import milliseconds, to_ms
from btfeed.flow.definition import Definition
from btfeed.flow.duck import Database, Row, identifier, literal
from btfeed.flow.fields import DURATION, ID, OUTCOME, TIME, TYPE, fields
from btfeed.flow.listing import flow as listed_flow
from btfeed.flow.options import STATES, Selection, Source
from btfeed.flow.report import ListedFlow, Trace, TracedRecord
from btfeed.flow.selecting import pick
from btfeed.flow.states import ENDED
from btfeed.flow.words import time

PUREPATH_ID, CATEGORY, PUREPATH = "appmon.purepath.id", "event.category", "purepath"
SAME_IN_JSON = re.compile("[A-Za-z0-9_.:-]")
"""Characters that every writer of JSON writes as they are."""
SHORT_ESCAPES = set('"\\/')
"""Characters that have an escape without their number, as control characters may."""
PREFIX = 3
"""Characters that all ids begin with, from which on one regular expression finds any of them faster than a search for each:
it looks for these first. Without, it is four times slower."""
TOGETHER = 200
"""Ids in one regular expression: with too many it is not compiled."""


def trace(
    database: Database,
    definition: Definition,
    source: Source,
    flow: str,
    asked: int | None,
    newest: Callable[[], int | None],
) -> Trace | None:
    """None if no record has this id. In an empty database. Raises FlowError.

    asked   the moment to look from: later records do not exist; None: `newest`, which is only called if it matters
    """
    wanted = f"{reading.correlation(definition)} = {literal(flow)}"
    database.run("CREATE TABLE raw (record VARCHAR, behind BOOLEAN)")
    columns = sorted({*fields(definition), OUTCOME, PUREPATH_ID, CATEGORY})
    _collect(database, source, columns, wanted, "false", [flow])
    ids = database.rows(f"SELECT DISTINCT {_field(PUREPATH_ID)} AS id FROM raw WHERE id IS NOT NULL ORDER BY id")
    if ids:
        any_of = ", ".join(literal(row[0]) for row in ids)
        behind = f"{identifier(CATEGORY)} = '{PUREPATH}' AND {identifier(PUREPATH_ID)} IN ({any_of})"
        _collect(database, source, columns, f"{behind} AND NOT coalesce({wanted}, false)", "true", [row[0] for row in ids])
    found = int(database.one("SELECT count(*) AS n FROM raw WHERE NOT behind")["n"])
    if not found:
        return None
    _classify(database, definition, columns)
    reading.keep(database, definition, source.kind, found)
    as_of = asked if asked is not None else _newest_of(database)
    pick(database, definition, Selection(as_of=as_of), as_of)
    if asked is None and database.rows(f"SELECT 1 FROM flows WHERE state > {ENDED} OR start IS NULL"):
        as_of = newest() or as_of
        pick(database, definition, Selection(as_of=as_of), as_of)
    found_then = _told(database, definition, flow, as_of, "true" if asked is None else f"coalesce(over, time) <= {asked}")
    return found_then if any(record.kind != "purepath" for record in found_then.records) else None


def _field(name: str) -> str:
    """A field of a record of `raw`, as a text."""
    pointer = "/" + name.replace("~", "~0").replace("/", "~1")
    return f"json_extract_string(record, {literal(pointer)})"


def _collect(
    database: Database, source: Source, columns: Sequence[str], which: str, behind: str, ids: Sequence[str]
) -> None:
    """Add the records that fit a condition to `raw`, whole.

    ids: each of them has one of these somewhere in its text
    """
    relations = []
    if source.ndjson:
        relations.append(f"""SELECT CAST(json AS VARCHAR) AS record FROM read_json_objects({reading.files(source.ndjson)},
    format = 'newline_delimited', ignore_errors = true)""")
    relations += [
        f"SELECT CAST(to_json(columns) AS VARCHAR) AS record FROM {relation} AS columns"
        for relation in reading.parquet(database, source.parquet)
    ]
    each = ", ".join(f"{_field(name)} AS {identifier(name)}" for name in columns)
    for relation in relations:
        # Two statements: in one, DuckDB tries out whether it is faster to parse all lines first, and it never is.
        database.run(f"CREATE OR REPLACE TABLE lines AS SELECT record FROM ({relation}) WHERE {_may_have(ids)}")
        database.run(f"""INSERT INTO raw
WITH records AS (SELECT record, {each} FROM lines)
SELECT record, {behind} FROM records WHERE {which}""")


def _may_have(ids: Sequence[str]) -> str:
    """Whether a line may have one of these ids, so that most lines need not be parsed: it has it as it is, or one of the
    escapes with which JSON writes what it does not write as it is."""
    if len(ids) > 1 and len({name[:PREFIX] for name in ids}) == 1:
        parts = [ids[first : first + TOGETHER] for first in range(0, len(ids), TOGETHER)]
        each = [f"regexp_matches(record, {literal('|'.join(map(re.escape, part)))})" for part in parts]
    else:
        each = [f"contains(record, {literal(name)})" for name in ids]
    letters = set("".join(ids))
    if letters & SHORT_ESCAPES or any(letter < " " for letter in letters):
        each.append("contains(record, '\\')")
    elif not all(map(SAME_IN_JSON.fullmatch, letters)):
        each.append("contains(record, '\\u')")
    return " OR ".join(each)


def _classify(database: Database, definition: Definition, columns: Sequence[str]) -> None:
    """Make the tables `told`, of all records in their order, and `found`, of those that are events; see reading."""
    each = ", ".join(f"{_field(name)} AS {identifier(name)}" for name in columns)
    database.run(f"""CREATE TABLE told AS
SELECT row_number() OVER (ORDER BY {milliseconds(TIME)}, {identifier(ID)}, record) AS number_of, *
FROM (SELECT record, behind, {each} FROM raw)
WHERE {milliseconds(TIME)} IS NOT NULL""")
    database.run(f"""CREATE TABLE found AS WITH records AS (SELECT * FROM told WHERE NOT behind)
{reading.events(definition, ["number_of"])}""")


def _newest_of(database: Database) -> int:
    """The newest time among the events of this flow."""
    row = database.one("SELECT max(greatest(t, coalesce(ended, t))) AS newest FROM events")
    return int(row["newest"] or 0)


def _told(database: Database, definition: Definition, flow: str, as_of: int, which: str) -> Trace:
    """which: the records that exist. That of an end stands where the flow was over, and not where the visit began."""
    flows = database.dicts("SELECT * FROM flows")
    row = flows[0] if flows else None
    times = {step.name: row[f"t{rank}"] if row else None for rank, step in enumerate(definition.steps)}
    listed = listed_flow(definition, row) if row and row["start"] is not None else None
    rows = database.dicts(f"""SELECT record, behind, {milliseconds(TIME)} AS time, {identifier(TYPE)} AS type,
    {identifier(OUTCOME)} AS outcome, try_cast({identifier(DURATION)} AS BIGINT) / 1e6 AS duration,
    {identifier(ID)} AS event_id, {identifier(PUREPATH_ID)} AS purepath,
    CASE WHEN events.place IS NULL THEN events.ended END AS over,
    events.number_of IS NOT NULL AS counts, events.place, events.failed, events.ended, events.value
FROM told LEFT JOIN events USING (number_of)
WHERE {which}
ORDER BY coalesce(over, time), number_of""")
    records: list[TracedRecord] = []
    before: TracedRecord | None = None
    for each in rows:
        record = _record(definition, each, times, before)
        records.append(record)
        if record.kind in ("step", "exception"):
            before = record
    return Trace(flow, as_of, listed, times, _why(definition, listed, row), tuple(records))


def _record(definition: Definition, row: Row, times: dict[str, int | None], before: TracedRecord | None) -> TracedRecord:
    place: int | None = row["place"]
    rank = place if place is None or place >= 0 else -1 - place
    step = None if rank is None else definition.steps[rank].name
    kind = "purepath" if row["behind"] else "other"
    if row["counts"]:
        kind = "end" if place is None else "exception" if place < 0 else "step"
    return TracedRecord(
        time=row["time"] if row["over"] is None else row["over"],
        gap=row["time"] - before.time - (before.duration or 0.0) if before and kind in ("step", "exception") else None,
        step=step,
        kind=kind,
        event_type=row["type"],
        outcome=row["outcome"],
        duration=row["duration"],
        value=None if row["value"] is None else float(row["value"]),
        exception=bool(row["failed"]),
        reached=kind == "step" and step is not None and times[step] == row["time"],
        id=row["event_id"],
        purepath=row["purepath"],
        record=row["record"],
    )


def _why(definition: Definition, flow: ListedFlow | None, row: Row | None) -> str:
    """What made the state what it is."""
    if flow is None or row is None:
        begin = " or ".join(
            step.name for step, after in zip(definition.steps, definition.graph.after, strict=True) if not after
        )
        return f"no state: it has no {begin}, where a flow begins"
    moment = "" if flow.decided is None else f" at {_moment(flow.decided)}"
    rank = definition.ranks[flow.furthest]
    patience = definition.steps[rank].lost_after
    reasons = {
        "converted": f"came to {flow.furthest}{moment}",
        "late": f"came to a goal{moment}, later than the window of the definition allows",
        "ended": f"a record says that it was over{moment}; it had come to {flow.furthest}",
        "lost": f"nothing came after {flow.furthest}, and was given up{moment}",
        "open": f"waits at {flow.furthest} since {_moment(flow.last)}; it is lost after "
        f"{time(to_ms(definition.lost_after if patience is None else patience))}",
    }
    assert reasons.keys() == set(STATES)
    return f"{flow.state}: {reasons[flow.state]}"


def _moment(time: int) -> str:
    return datetime.fromtimestamp(time / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
