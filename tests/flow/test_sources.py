"""Sources of records: which files are read, what is damaged is counted, and what can't be read ends the command."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pytest
from typer.testing import Result

from btfeed.flow.damage import SourceError, is_cut
from btfeed.flow.definition import load
from btfeed.flow.engine import Engine
from btfeed.flow.options import ReportOptions
from btfeed.flow.sources import find, of_files, spool
from btfeed.posts import files as postfile
from btfeed.posts.post import digest
from btfeed.records.schema import MAPS, RECORD_FIELDS
from sinks.base import SinkContext
from sinks.file.encoding import AvroEncoder
from tests.commands.test_main import invoke, run, write_config
from tests.flow import records, traffic
from tests.support.fakes import mapper
from tests.support.harness import BTFEED, DEADLINE

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Records of 60 visits of the web shop."""
    return records.write(tmp_path_factory.mktemp("records") / "all.ndjson", "web-shop", visits=60, seed=3).read_bytes()


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 visits as posts."""
    return traffic.posts(tmp_path_factory.mktemp("posts") / "all.btposts", flows=20)


def report(*arguments: object) -> Result:
    return invoke("flow", "report", "web-shop", "--format", "json", *arguments)


def made(*arguments: object) -> dict[str, Any]:
    result = report(*arguments)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def started(*arguments: object) -> int:
    return int(made(*arguments)["counts"]["started"])


def test_files_of_all_names_in_a_folder_are_read(lines: bytes, tmp_path: Path) -> None:
    """Below it, too; others are passed over. A file that is named twice counts once, and its links as well."""
    (tmp_path / "below").mkdir()
    half = lines.index(b"\n", len(lines) // 2) + 1
    (tmp_path / "below" / "a.jsonl").write_bytes(lines[:half])
    (tmp_path / "b.ndjson.zst").write_bytes(zstd.compress(lines[half:]))
    (tmp_path / "notes.md").write_text("no records")
    (tmp_path / "empty.ndjson.gz").touch()
    (tmp_path / "link.ndjson").symlink_to(tmp_path / "below" / "a.jsonl")
    found = made(tmp_path, tmp_path / "b.ndjson.zst")
    assert (found["counts"]["started"], found["source"]["duplicates"]) == (60, 0)


def test_names_are_no_patterns(lines: bytes, tmp_path: Path) -> None:
    """For DuckDB, which reads some characters so."""
    path = tmp_path / "day=1[x]*?" / "a [1-9]{2}.ndjson"
    path.parent.mkdir()
    path.write_bytes(lines)
    assert started(path) == 60


def test_open_files_are_passed_over(lines: bytes, tmp_path: Path) -> None:
    """Their end may be written again. With --open they are read as they are, whatever their compression."""
    (tmp_path / "a.ndjson.gz.open").write_bytes(gzip.compress(lines))
    result = report(tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "only open files" in result.stderr
    assert "--open" in result.stderr
    assert started(tmp_path, "--open") == 60
    (tmp_path / "b.ndjson").write_bytes(lines[: lines.index(b"\n") + 1])
    result = report(tmp_path)
    assert json.loads(result.stdout)["source"]["records"] == 1
    assert "1 open file passed over" in result.stderr


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_cut_file_is_read_up_to_its_end(suffix: str, lines: bytes, tmp_path: Path) -> None:
    """What is cut counts as one unreadable record, and the report says so."""
    noise = "".join(json.dumps({"event.type": "x", "random": os.urandom(200).hex()}) + "\n" for _ in range(200)).encode()
    whole = lines + noise
    packed = {"": whole, ".gz": gzip.compress(whole), ".zst": zstd.compress(whole)}[suffix]
    path = tmp_path / f"a.ndjson{suffix}"
    path.write_bytes(packed[:-100])
    found = made(path)
    assert found["counts"]["started"] == 60
    assert found["source"]["unreadable"] >= 1
    assert any("cut" in note for note in found["notes"])
    if suffix:
        assert f"{path}: damaged, or cut off" in report(path).stderr


def test_damage_in_the_middle_leaves_what_is_before_it(lines: bytes, tmp_path: Path) -> None:
    """Of a compressed file whose lines would all be lost otherwise; the other file is whole."""
    packed = zstd.compress(lines)
    (tmp_path / "bad.ndjson.zst").write_bytes(packed[: len(packed) // 2] + bytes(200) + packed[len(packed) // 2 + 200 :])
    (tmp_path / "bad.ndjson.gz").write_bytes(b"no gzip at all")
    (tmp_path / "good.ndjson").write_bytes(lines)
    result = report(tmp_path)
    found = json.loads(result.stdout)
    assert found["counts"]["started"] == 60
    assert found["source"]["unreadable"] >= 2
    assert "damaged" in result.stderr


def test_a_zstd_file_that_is_cut_is_found_wherever_it_is_cut(tmp_path: Path) -> None:
    """Of two frames, the second with several blocks; also between these, where its lines look whole."""
    noise = os.urandom(2**18)
    path = tmp_path / "a.zst"
    first, second = zstd.compress(b"some lines"), zstd.compress(noise)
    whole = first + second
    skipped = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"notes"
    for content in (whole, whole + skipped, first, b"no zstd at all"):
        path.write_bytes(content)
        assert not is_cut(path)
    for end in (
        *range(len(first) + 4, len(first) + 20),
        *range(len(first) + 131_070, len(first) + 131_100),
        len(whole) - 1,
    ):
        path.write_bytes(whole[:end])
        assert is_cut(path), end


@pytest.mark.slow
@pytest.mark.parametrize("form", ["", ".gz", "-"])
def test_a_line_that_is_too_long_is_left_out(form: str, lines: bytes, tmp_path: Path) -> None:
    """It counts as one unreadable record, in a file or from standard input; all others count, the last one, too."""
    half = lines.index(b"\n", len(lines) // 2) + 1
    content = lines[:half] + b'{"event.type": "' + b"x" * 2**25 + b'"}\n' + lines[half:-1]
    path = tmp_path / f"a.ndjson{form.removeprefix('-')}"
    path.write_bytes(gzip.compress(content, 1) if form == ".gz" else content)
    command = [*BTFEED, "flow", "report", "web-shop", "-" if form == "-" else str(path), "--format", "json"]
    with path.open("rb") as given:
        done = subprocess.run(command, stdin=given, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["counts"]["started"], found["source"]["unreadable"]) == (60, 1)
    name = "standard input" if form == "-" else str(path)
    assert f"{name}: 1 line of more than 16 MiB left out" in done.stderr


@pytest.mark.parametrize("suffix", [".ndjson", ".ndjson.gz", ".ndjson.zst", ".avro", ".btposts", ".parquet"])
def test_where_nothing_can_be_read_there_are_no_numbers(suffix: str, tmp_path: Path) -> None:
    """Zeros would look like numbers. Random bytes under any name are exit status 1, and no words of DuckDB."""
    path = tmp_path / f"a{suffix}"
    path.write_bytes(Random(1).randbytes(20_000))
    result = report(path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "nothing" in result.stderr
    assert "read" in result.stderr
    assert "Error" not in result.stderr


@pytest.mark.parametrize("place", ["pages", "footer", "length"])
@pytest.mark.parametrize("command", [["report"], ["trace", "7"]], ids=["report", "trace"])
def test_a_parquet_file_that_is_damaged_inside_is_named(place: str, command: list[str], tmp_path: Path) -> None:
    """Also among others, with what to do, and without DuckDB's words, some of which name no file."""
    for name in ("good", "bad"):
        lines = " UNION ALL ".join(
            [f"SELECT '{n}' AS \"appmon.visit.id\", repeat('{n}', 99) AS \"event.type\"" for n in range(99)]
        )
        duckdb.sql(f"COPY ({lines}) TO '{tmp_path / name}.parquet' (FORMAT parquet)")
    path = tmp_path / "bad.parquet"
    damaged = bytearray(path.read_bytes())
    footer = len(damaged) - 8 - int.from_bytes(damaged[-8:-4], "little")
    begin, end = {
        "pages": (4, footer),
        "footer": (footer, len(damaged) - 8),
        "length": (len(damaged) - 8, len(damaged) - 4),
    }[place]
    damaged[begin:end] = b"\xff" * (end - begin)
    path.write_bytes(damaged)
    result = invoke("flow", command[0], "web-shop", *command[1:], tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"{path}: damaged inside, so nothing of it is read: leave it out, or have it written again\n"


@pytest.mark.slow
@pytest.mark.parametrize("head", [b"Obj\x01", b"PAR1"], ids=["avro", "parquet"])
def test_what_can_t_come_from_standard_input_is_told(head: bytes) -> None:
    """Formats that are no lines."""
    command = [*BTFEED, "flow", "report", "web-shop", "-"]
    done = subprocess.run(command, input=head + bytes(99), capture_output=True, timeout=DEADLINE, check=False)
    assert done.returncode == 1
    assert b"can't be read from there: name the file" in done.stderr


def test_lines_that_are_no_records_are_counted(lines: bytes, tmp_path: Path) -> None:
    """Whatever they are; and a record is not lost for its neighbors."""
    path = tmp_path / "a.ndjson"
    path.write_bytes(b'no json\n[1]\n7\nnull\n{"timestamp": 5}\n\x00\xff\n' + lines + lines)
    found = made(path)["source"]
    assert (found["unreadable"], found["duplicates"]) == (6, found["matched"] // 2)
    assert started(path) == 60


def test_no_records_give_an_empty_report(tmp_path: Path) -> None:
    """In every form, with exit status 0: nothing has happened, and that is what it says."""
    (tmp_path / "a.ndjson").touch()
    assert made(tmp_path)["counts"]["started"] == 0
    for form in ("text", "html"):
        assert invoke("flow", "report", "web-shop", tmp_path, "--format", form).exit_code == 0


def test_post_files_are_mapped_as_the_server_does(posts: Path, tmp_path: Path) -> None:
    """With the templates and privacy of its configuration. What is no post is counted."""
    damaged = tmp_path / "damaged.btposts"
    damaged.write_bytes(posts.read_bytes() + b"\x02\x0a\xff" + b"\x7f")
    (tmp_path / "zipped.btposts.gz").write_bytes(gzip.compress(posts.read_bytes()))
    assert started(tmp_path / "zipped.btposts.gz") == 20
    found = made(damaged)
    assert (found["counts"]["started"], found["source"]["unreadable"]) == (20, 2)
    config = write_config(tmp_path / "btfeed.toml", '[record]\nprovider = "shop"\n[record.privacy]\ndrop = ["url.full"]\n')
    assert started(posts, "-c", config) == 0
    definition = tmp_path / "own.toml"
    text = invoke("flow", "init", "--profile", "web-shop").stdout
    definition.write_text(text.replace('"event.provider" = "web-shop"', '"event.provider" = "shop"'))
    result = invoke("flow", "report", definition, posts, "-c", config, "--format", "json")
    assert json.loads(result.stdout)["counts"]["started"] == 20


@pytest.mark.parametrize("form", ["ndjson", "ndjson.gz", "ndjson.zst", "posts", "posts.gz", "nothing"])
def test_standard_input_may_be_anything(
    form: str, lines: bytes, posts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records as lines, or posts, plain or compressed: told by how it begins."""
    kind, _, packing = form.partition(".")
    plain = {"ndjson": lines, "posts": posts.read_bytes(), "nothing": b""}[kind]
    (tmp_path / "given").write_bytes({"": plain, "gz": gzip.compress(plain), "zst": zstd.compress(plain)}[packing])
    with (tmp_path / "given").open() as given, spool(tmp_path) as place:
        monkeypatch.setattr(sys, "stdin", given)
        scan = of_files(find([Path("-")]), place, mapper)
        with Engine(load("web-shop"), scan.source) as engine:
            counts = engine.report(ReportOptions()).figures.counts
    assert counts.started == {"ndjson": 60, "posts": 20, "nothing": 0}[kind]


def test_standard_input_is_named_if_it_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the file that it is copied to."""
    (tmp_path / "given").write_bytes(b"\n")
    told: list[str] = []
    with (tmp_path / "given").open() as given, spool(tmp_path) as place:
        monkeypatch.setattr(sys, "stdin", given)
        assert of_files(find([Path("-")]), place, mapper, told.append).unreadable == 1
    assert told == ["standard input: damaged, or cut off: what comes before that is read"]


@pytest.mark.slow
def test_standard_input_is_read_by_the_command(lines: bytes) -> None:
    """Through a pipe."""
    command = [*BTFEED, "flow", "report", "web-shop", "-", "--format", "json"]
    ended = subprocess.run(command, input=gzip.compress(lines), capture_output=True, timeout=DEADLINE, check=True)
    assert json.loads(ended.stdout)["counts"]["started"] == 60


def test_the_sink_of_a_configuration_names_its_files(lines: bytes, tmp_path: Path) -> None:
    """And none of another sink in the same folder. Sinks of other types are not read."""
    config = write_config(
        tmp_path / "btfeed.toml",
        '[sinks.a]\ntype = "file"\ndirectory = "files"\n[sinks.a-b]\ntype = "file"\ndirectory = "files"\n'
        '[sinks.feed]\ntype = "kafka"\nbootstrap_servers = "nowhere.example:9092"\n',
    )
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a-20260131T120000Z-0001.ndjson").write_bytes(lines)
    (tmp_path / "files" / "a-b-20260131T120000Z-0001.ndjson").write_bytes(lines)
    found = made("--sink", "a", "-c", config)
    assert (found["counts"]["started"], found["source"]["duplicates"]) == (60, 0)
    for sink, told in (("feed", "is of type kafka"), ("b", "the sinks are a, a-b, feed")):
        result = report("--sink", sink, "-c", config)
        assert result.exit_code == 2
        assert told in result.stderr


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("missing.ndjson", "missing.ndjson: No such file or directory"),
        ("notes.md", "notes.md: not a file with records: names end like *.ndjson"),
        ("folder", "folder: no file with records in it"),
    ],
)
def test_a_source_that_can_t_be_read_is_exit_1(source: str, told: str, tmp_path: Path) -> None:
    """With its name, and what would do."""
    (tmp_path / "notes.md").write_text("no records")
    (tmp_path / "folder").mkdir()
    result = report(tmp_path / source)
    assert (result.exit_code, result.stdout) == (1, "")
    assert told in result.stderr


def test_temporary_files_are_private_and_do_not_stay(posts: Path, tmp_path: Path) -> None:
    """Records may be personal. A place that can't be written to is told."""
    with spool(tmp_path) as place:
        assert place.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "temp").mkdir()
    assert started(posts, "--temp", tmp_path / "temp") == 20
    assert list((tmp_path / "temp").iterdir()) == []
    with pytest.raises(SourceError, match="see --temp"), spool(tmp_path / "missing"):
        pass


def test_files_are_found_in_one_order(tmp_path: Path) -> None:
    """That of their names: reports of equal files are equal."""
    for name in ("b.ndjson", "a.ndjson", "c.avro"):
        (tmp_path / name).write_text("x")
    found = find([tmp_path])
    assert [path.name for path in (*found.ndjson, *found.avro)] == ["a.ndjson", "b.ndjson", "c.avro"]


def test_a_damaged_avro_file_is_read_up_to_the_damage(posts: Path, tmp_path: Path) -> None:
    """And one that is no Avro at all is counted. Records come out as they went in."""
    context = SinkContext("a", RECORD_FIELDS, MAPS)
    encoder = AvroEncoder("deflate", context)
    batches = [mapper().map(body, digest(body)).batch for body in postfile.read(posts)]
    avro = tmp_path / "a.avro"
    encoded = [b"".join(encoder.encode(batch)[0]) for batch in batches] if (head := encoder.begin()) else []
    avro.write_bytes(head + b"".join(encoded))
    scan = of_files(find([avro]), tmp_path, mapper)
    restored = [json.loads(line) for line in scan.source.ndjson[0].read_bytes().splitlines()]
    assert restored == [json.loads(body) for batch in batches for body in batch.bodies]
    avro.write_bytes(avro.read_bytes()[:-30])
    (tmp_path / "no.avro").write_bytes(b"no Avro")
    assert made(avro, tmp_path / "no.avro")["source"]["unreadable"] == 2


@pytest.mark.slow
def test_without_duckdb_a_command_says_how_to_get_it(lines: bytes, tmp_path: Path) -> None:
    """With exit status 2."""
    (tmp_path / "a.ndjson").write_bytes(lines)
    (tmp_path / "duckdb.py").write_text("raise ImportError('not here')\n")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    result = run("flow", "report", "web-shop", str(tmp_path / "a.ndjson"), PYTHONPATH=path)
    assert (result.returncode, result.stdout) == (2, "")
    assert "pip install 'btfeed[flow]'" in result.stderr
