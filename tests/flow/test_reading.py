"""Files of records: formats, names, odd content, and what is missing."""

import builtins
import gzip
import json
import shutil
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from btfeed.flow.definition import Definition, load, parse
from btfeed.flow.duck import Database, literal
from btfeed.flow.engine import Engine, EngineMissing, FlowError, fields
from btfeed.flow.options import ReportOptions, Source
from btfeed.flow.reading import parquet
from btfeed.flow.report import Report
from tests.flow.records import write

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of 200 visits to the web shop."""
    return write(tmp_path_factory.mktemp("records") / "a.ndjson", "web-shop", seed=3, visits=200)


def report(*ndjson: Path, parquet: tuple[Path, ...] = (), **options: Any) -> Report:
    with Engine(load("web-shop"), Source("files", ndjson, parquet), **options) as engine:
        return engine.report(ReportOptions(split=(("segment", "country"),), lists=5))


def to_parquet(path: Path) -> Path:
    """The same records as a Parquet file, with types of its own."""
    database = Database()
    target = path.with_suffix(".parquet")
    relation = f"read_json({literal(str(path))}, format = 'newline_delimited', sample_size = -1)"
    database.run(f"COPY (SELECT * FROM {relation}) TO {literal(str(target))} (FORMAT parquet)")
    database.close()
    return target


def test_every_format_gives_the_same_report(plain: Path, tmp_path: Path) -> None:
    """NDJSON plain, gzip and zstd, each of several members; Parquet; and parts of all of them together."""
    lines = plain.read_bytes().splitlines(keepends=True)
    parts = [lines[: len(lines) // 2], lines[len(lines) // 2 :]]
    (tmp_path / "a.ndjson.gz").write_bytes(b"".join(gzip.compress(b"".join(part)) for part in parts))
    (tmp_path / "a.ndjson.zst").write_bytes(b"".join(zstd.compress(b"".join(part)) for part in parts))
    (tmp_path / "b.ndjson").write_bytes(b"".join(parts[0]))
    (tmp_path / "c.ndjson").write_bytes(b"".join(parts[1]))
    expected = report(plain)
    assert expected.figures.counts.started == 200
    assert report(tmp_path / "a.ndjson.gz") == expected
    assert report(tmp_path / "a.ndjson.zst") == expected
    assert report(parquet=(to_parquet(plain),)) == expected
    assert report(tmp_path / "b.ndjson", parquet=(to_parquet(tmp_path / "c.ndjson"),)) == expected


ORDERS = parse({
    "name": "orders", "correlation": "visit", "steps": [{"name": "A", "event": "a"}, {"name": "B", "event": "b"}],
    "value": {"field": "amount"}, "dimensions": {"city": "city"},
})  # fmt: skip


def columns(directory: Path, visit: int, amount: str, city: str, name: str = "amount") -> Path:
    """A Parquet file with one record: these values in SQL, with their types."""
    path = directory / f"{visit}.parquet"
    record = f"""SELECT '{visit}' AS visit, 'a' AS "event.type", TIMESTAMP '2026-03-02 10:00:00' AS timestamp,
    {amount} AS {name}, {city} AS city"""
    with Database() as database:
        database.run(f"COPY ({record}) TO {literal(str(path))} (FORMAT parquet)")
    return path


def told(*paths: Path) -> tuple[int, float, int, list[str], list[str]]:
    """Records, the value, values that are no number, the cities of all visits, and the records of their traces."""
    with Engine(ORDERS, Source("files", parquet=paths)) as engine:
        found = engine.report(ReportOptions(split=(("city",),), compare="none"))
        traces = [engine.trace(path.stem) for path in paths]
    assert found.figures.value
    cities = [str(part.values[0]) for part in found.splits["city"] for _ in range(part.figures.counts.started)]
    traced = [record.record for trace in traces if trace for record in trace.records]
    return found.source.records, found.figures.value.at_risk.known, found.source.no_numbers, sorted(cities), traced


ODD = (
    "true",
    "[1]",
    "{'a': 1}",
    "MAP {'a': 1}",
    "'6'::JSON",
    "DATE '2026-01-01'",
    "'6'::BLOB",
    "6::DOUBLE",
    "6",
    "'6'",
    "NULL",
)


def test_what_a_parquet_file_says_does_not_depend_on_the_others(tmp_path: Path) -> None:
    """Whatever types its columns have, or letters of another case."""
    paths = [columns(tmp_path, visit, odd, odd) for visit, odd in enumerate(ODD)]
    paths.append(columns(tmp_path, len(ODD), "6", "'x'", name="AMOUNT"))
    records, known, no_numbers, cities, traced = zip(*map(told, paths), strict=True)
    assert (set(records), set(map(len, traced))) == ({1}, {1})
    assert told(*paths) == (len(paths), sum(known), sum(no_numbers), sorted(chain(*cities)), list(chain(*traced)))


@pytest.mark.parametrize("odd", ["true", "DATE '2026-01-01'"])
def test_a_value_that_is_no_number_stays_so_beside_numbers(odd: str, tmp_path: Path) -> None:
    """In Parquet files, of which one has numbers and the other a type that DuckDB takes for one, or can't."""
    assert told(columns(tmp_path, 1, odd, "'x'"), columns(tmp_path, 2, "5", "'x'"))[:3] == (2, 5, 1)


def test_parquet_files_of_the_same_columns_are_one_relation(tmp_path: Path) -> None:
    """Thousands of them are read as fast as one large file. A column that only some have makes two."""
    paths = [columns(tmp_path, visit, f"[{visit}]", "'x'") for visit in range(5)]
    other = columns(tmp_path, 5, "['7']", "'x'")
    with Database() as database:
        assert len(parquet(database, paths)) == 1
        assert sorted(relation.count(".parquet") for relation in parquet(database, [*paths, other])) == [1, 5]


def test_records_in_two_files_count_once(plain: Path, tmp_path: Path) -> None:
    """They are told as duplicates, and no number changes."""
    shutil.copy(plain, tmp_path / "again.ndjson")
    once, twice = report(plain), report(plain, tmp_path / "again.ndjson")
    assert twice.source.duplicates == once.source.matched
    assert twice.figures == once.figures
    assert twice.transitions == once.transitions


def test_no_records_and_no_files_give_a_report_of_nothing(tmp_path: Path) -> None:
    """With a note that says so."""
    (tmp_path / "empty.ndjson").touch()
    for found in (report(), report(tmp_path / "empty.ndjson")):
        assert (found.figures.counts.started, found.figures.conversion.rate, found.series.rows) == (0, None, ())
        assert found.as_of is None
        assert found.notes == ("no record is a step of this flow; flow check tells which records there are",)


def test_a_compressed_file_that_is_cut_is_an_error(plain: Path, tmp_path: Path) -> None:
    """No numbers of half the data."""
    (tmp_path / "a.ndjson.gz").write_bytes(gzip.compress(plain.read_bytes())[:-2000])
    with pytest.raises(FlowError):
        report(tmp_path / "a.ndjson.gz")


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """Its name is in the message."""
    with pytest.raises(FlowError, match=r"no-such\.ndjson"):
        report(tmp_path / "no-such.ndjson")


def odd(names: list[str]) -> Definition:
    """A definition whose names break SQL that does not quote."""
    a, b, c = names
    return parse({
        "name": a, "correlation": a, "where": {b: {"not": c}}, "dimensions": {c: b},
        "steps": [{"name": a, "event": a, "match": {c: {"prefix": b}}}, {"name": b, "event": [b, c]}],
        "value": {"field": c, "step": a},
    })  # fmt: skip


@pytest.mark.parametrize("names", [["a'b", 'c"d', "e''f"], ["x; DROP TABLE found", "--", "\\"], ["ä\n", "{y}", "$1 ? :n"]])
def test_names_in_definitions_and_files_are_no_sql(names: list[str], tmp_path: Path) -> None:
    """Quotes, comments, backslashes: of fields, of steps, of values and of files."""
    a, b, c = names
    time = {"timestamp": "2026-03-29T00:00:00.000Z"}
    rows = [{"event.type": a, a: "1", c: f"{b}!", b: b, **time}, {"event.type": c, a: "1", b: b, **time}]
    path = tmp_path / "it's [a] *?.ndjson"
    path.write_text("\n".join(map(json.dumps, rows)))
    with Engine(odd(names), Source("files", [path])) as engine:
        found = engine.report(ReportOptions(split=((c,),), where=((c, b),), lists=1))
        trace = engine.trace("1")
    assert (found.figures.counts.started, found.figures.counts.converted) == (1, 1)
    assert found.splits[c][0].values == (b,)
    assert trace
    assert trace.flow
    assert trace.flow.state == "converted"


def test_a_source_that_leaves_out_fields_knows_which_are_needed() -> None:
    """Those of conditions, of the value, of dimensions, and those of every record."""
    assert fields(load("web-shop")) == [
        "appmon.dimension.customer_segment", "appmon.measure.revenue", "appmon.visit.id", "browser.name", "duration",
        "end_time", "event.category", "event.id", "event.outcome", "event.provider", "event.type", "geo.country.name",
        "timestamp",
    ]  # fmt: skip


def test_little_memory_is_enough(plain: Path, tmp_path: Path) -> None:
    """What does not fit goes to a directory, which is gone afterwards."""
    assert report(plain, memory=100 * 2**20, temp=tmp_path) == report(plain)
    assert list(tmp_path.iterdir()) == []


def test_no_extension_is_downloaded(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without extensions stays so, and a file that would need one is an error."""
    monkeypatch.setenv("HOME", str(tmp_path))
    report(plain)
    with Database() as database, pytest.raises(FlowError):
        database.run("SELECT * FROM read_avro('a.avro')")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def without_duckdb(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were not installed."""
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "duckdb":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.usefixtures("without_duckdb")
def test_a_missing_extra_is_said_with_how_to_install_it() -> None:
    """As an error of its own kind, so that the command can end with 2."""
    with pytest.raises(EngineMissing, match=r"pip install 'btfeed\[flow\]'"):
        Engine(load("web-shop"), Source("files"))
