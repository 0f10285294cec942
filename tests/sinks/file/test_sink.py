"""The file sink as its users see it: formats, rotation, names, what it does at start, and disk errors."""

import errno
import json
import os
import re
import resource
import tempfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from btfeed.records.schema import MAPS, RECORD_FIELDS
from sinks.base import Misconfigured, RecordField, SinkContext, Unavailable, WriteResult
from sinks.batch import Batch
from sinks.file import FileSettings, FileSink
from tests.sinks.drivers.file import FORMATS, canonical, file_sink, only_file, read_records
from tests.support.clock import FakeClock
from tests.support.fakes import Rig, mapped
from tests.support.harness import until_async

NAME = re.compile(r"files-\d{8}T\d{6}Z-\d{4}\.(ndjson(\.gz|\.zst)?|avro)(\.open)?")


@pytest.fixture
def clock() -> FakeClock:
    """The clock of the sinks in a test."""
    return FakeClock()


async def write(sink: FileSink, batch: Batch) -> WriteResult:
    """Write like the loop does while the journal can save."""
    result = await sink.write(batch)
    sink.saved(result.state or "")
    return result


async def opened(
    directory: Path, state: str | None = None, settings: dict[str, Any] | None = None, **more: Any
) -> FileSink:
    """A sink that was opened like the loop does: with a state saved before the first record."""
    sink = file_sink(directory, settings, **more)
    await sink.open(state)
    await write(sink, Batch())
    return sink


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def contents(directory: Path) -> list[bytes]:
    return [record for path in sorted(directory.iterdir()) for record in read_records(path)]


async def test_a_file_is_not_finished_before_its_length_is_saved(tmp_path: Path) -> None:
    """It grows beyond its size while the journal can't save. The first write after that finishes it."""
    sink = await opened(tmp_path, settings={"rotate_size": "1KiB"})
    for seed in range(4):
        result = await sink.write(mapped(9, seed))
    assert [name.endswith(".open") for name in files(tmp_path)] == [True]
    sink.saved(result.state or "")
    await sink.write(Batch())
    assert [name.endswith(".open") for name in files(tmp_path)] == [False]
    await sink.close()


@pytest.mark.parametrize(
    ("mode", "file", "directory"), [("0600", 0o600, 0o700), ("0640", 0o640, 0o750), ("0644", 0o644, 0o755)]
)
async def test_the_mode_says_who_may_read_the_records(tmp_path: Path, mode: str, file: int, directory: int) -> None:
    """Finished files and the open one, by default for btfeed's user alone. A file that is continued keeps its mode."""
    home = tmp_path / "new" / "files"
    settings = {"rotate_size": "1KiB"} | ({} if mode == "0600" else {"mode": mode})
    sink = await opened(home, settings=settings)
    for seed in range(3):
        result = await write(sink, mapped(9, seed))
    await sink.close()
    await opened(home, result.state, settings | {"mode": "0644"})
    assert len(files(home)) > 1
    assert {path.stat().st_mode & 0o777 for path in home.iterdir()} == {file}
    assert {path.stat().st_mode & 0o777 for path in (home, home.parent)} == {directory}


@pytest.mark.parametrize("settings", FORMATS.values(), ids=FORMATS)
async def test_a_file_is_finished_by_its_size(tmp_path: Path, settings: dict[str, Any]) -> None:
    """The write after the one that exceeded it, even an empty one, finishes the file, which can be read by itself."""
    sink = await opened(tmp_path, settings=settings | {"rotate_size": "8KiB"})
    batches = [mapped(30, seed) for seed in range(6)]
    for batch in batches:
        result = await write(sink, batch)
        assert (result.again_after == 0) == (json.loads(result.state or "")["length"] >= 8192)
    await write(sink, Batch())
    await sink.close()
    assert all(NAME.fullmatch(name) for name in files(tmp_path))
    finished = [name for name in files(tmp_path) if not name.endswith(".open")]
    assert len(finished) >= 2
    found = [canonical(record) for record in contents(tmp_path)]
    assert found == [canonical(body) for batch in batches for body in batch.bodies]


async def test_a_file_is_finished_by_its_age(tmp_path: Path, clock: FakeClock) -> None:
    """The sink asks to be called again at that time, and needs no record for it."""
    sink = await opened(tmp_path, settings={"rotate_interval": "10m"}, clock=clock)
    assert (await write(sink, Batch())).again_after is None
    assert (await write(sink, mapped(1))).again_after == 600
    await clock.advance(400)
    assert (await write(sink, mapped(1, 1))).again_after == 200
    await clock.advance(200)
    result = await write(sink, Batch())
    assert (result.again_after, json.loads(result.state or "")) == (None, {"file": None, "number": 1})
    (name,) = files(tmp_path)
    assert name.endswith(".ndjson")
    await sink.close()


async def test_the_age_counts_over_restarts(tmp_path: Path, clock: FakeClock) -> None:
    """A file is finished rotate_interval after it was started, whichever process started it."""
    sink = await opened(tmp_path, clock=clock)
    state = (await write(sink, mapped(1))).state
    await sink.close()
    await clock.advance(3000)
    sink = file_sink(tmp_path, clock=clock)
    await sink.open(state)
    assert (await write(sink, Batch())).again_after == 600
    await sink.close()


async def test_files_are_finished_without_any_traffic(tmp_path: Path) -> None:
    """The loop calls the sink in time, also after a restart."""
    sink = file_sink(tmp_path, {"rotate_interval": "300ms"})
    async with Rig(sink, serial=True) as rig:
        await rig.post(2)
        await rig.saved(2)
        await until_async(lambda: all(name.endswith(".ndjson") for name in files(tmp_path)), "the file is finished")
        await rig.post(2, 1)
        await rig.saved(3)
    assert [name.endswith(".open") for name in files(tmp_path)] == [False, True]
    async with Rig(file_sink(tmp_path, {"rotate_interval": "300ms"}), serial=True, journal=rig.journal):
        await until_async(lambda: all(name.endswith(".ndjson") for name in files(tmp_path)), "the file is finished")
    assert contents(tmp_path) == mapped(2).bodies + mapped(2, 1).bodies


@pytest.mark.parametrize("settings", FORMATS.values(), ids=FORMATS)
async def test_what_was_not_saved_is_cut_off_at_start(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Writing continues at the saved length, whatever is after it."""
    sink = await opened(tmp_path, settings=settings)
    state = (await write(sink, mapped(5))).state
    await write(sink, mapped(5, 1))
    await sink.close()
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes() + b"half a rec")
    sink = await opened(tmp_path, state, settings)
    await write(sink, mapped(5, 1))
    await sink.close()
    expected = [canonical(body) for body in mapped(5).bodies + mapped(5, 1).bodies]
    assert [canonical(record) for record in contents(tmp_path)] == expected
    assert len(files(tmp_path)) == 1


async def test_a_file_that_was_begun_and_never_saved_is_removed(tmp_path: Path) -> None:
    """When its records are written again."""
    sink = file_sink(tmp_path)
    await sink.open(None)
    state = (await write(sink, Batch())).state
    await write(sink, mapped(5))
    await sink.close()
    sink = await opened(tmp_path, state)
    await write(sink, mapped(5))
    assert contents(tmp_path) == mapped(5).bodies
    await sink.close()


async def test_files_of_a_journal_that_is_gone_are_finished(tmp_path: Path) -> None:
    """Without any state they hold the only copy of their records. They are kept, and not written to again."""
    sink = await opened(tmp_path)
    await write(sink, mapped(5))
    await sink.close()
    (before,) = files(tmp_path)
    sink = await opened(tmp_path)
    await write(sink, mapped(5, 1))
    await sink.close()
    assert read_records(tmp_path / before.removesuffix(".open")) == mapped(5).bodies
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize("before", FORMATS)
@pytest.mark.parametrize("after", FORMATS)
async def test_other_settings_begin_another_file(tmp_path: Path, before: str, after: str) -> None:
    """A file with another format or compression is finished with what was saved, and can be read."""
    sink = await opened(tmp_path, settings=FORMATS[before])
    state = (await write(sink, mapped(5))).state
    await write(sink, mapped(5, 1))
    await sink.close()
    sink = await opened(tmp_path, state, FORMATS[after])
    await write(sink, mapped(5, 1))
    await sink.close()
    expected = [canonical(body) for body in mapped(5).bodies + mapped(5, 1).bodies]
    assert sorted(canonical(record) for record in contents(tmp_path)) == sorted(expected)
    assert len(files(tmp_path)) == (1 if before == after else 2)


async def test_another_schema_begins_another_file(tmp_path: Path) -> None:
    """All blocks of a file have the schema in its header, so an update with a new field starts a new file."""
    sink = await opened(tmp_path, settings={"format": "avro"})
    state = (await write(sink, mapped(5))).state
    await sink.close()
    fields = (*RECORD_FIELDS, RecordField("appmon.new", "string", "A field more."))
    newer = SinkContext("files", fields, MAPS)
    sink = FileSink(FileSettings(directory=str(tmp_path), format="avro"), newer)
    await sink.open(state)
    assert [name.endswith(".avro") for name in files(tmp_path)] == [True]
    await sink.close()


@pytest.mark.parametrize(
    ("one", "two"), [("a", "a-b"), ("a b", "a_b"), ("ä", "%C3%A4"), ("a", "a-20260131T120000Z-0001.x")]
)
async def test_sinks_in_one_directory_do_not_disturb_each_other(tmp_path: Path, one: str, two: str) -> None:
    """Whatever their names have in common, no sink removes, finishes or continues the file of another."""
    states: dict[str, str | None] = {}
    for seed in range(3):
        for name in (one, two):
            sink = await opened(tmp_path, states.get(name), name=name)
            states[name] = (await write(sink, mapped(4, seed))).state
            await sink.close()
    assert len(files(tmp_path)) == 2
    assert all(name.endswith(".open") for name in files(tmp_path))
    assert contents(tmp_path) == [body for seed in range(3) for body in mapped(4, seed).bodies] * 2


async def test_a_name_is_not_given_twice(tmp_path: Path, clock: FakeClock) -> None:
    """Even if finished files are moved away at once: after a crash, one could be mistaken for another."""
    sink = await opened(tmp_path, settings={"rotate_size": "1B"}, clock=clock)
    seen: list[str] = []
    state = None
    for seed in range(4):
        state = (await write(sink, mapped(1, seed))).state
        (name,) = files(tmp_path)
        seen.append(name)
        await write(sink, Batch())
        (tmp_path / name.removesuffix(".open")).unlink()
    await write(sink, mapped(9))
    await sink.close()
    assert len(set(seen)) == 4
    sink = await opened(tmp_path, state, clock=clock)
    await write(sink, mapped(9))
    assert contents(tmp_path) == mapped(9).bodies
    await sink.close()


async def test_a_name_that_the_state_knows_is_not_given_again(tmp_path: Path, clock: FakeClock) -> None:
    """Even within the second of a restart, after the finished file was moved away."""
    sink = await opened(tmp_path, settings={"rotate_size": "1B"}, clock=clock)
    state = (await write(sink, mapped(1))).state
    await write(sink, Batch())
    await sink.close()
    only_file(tmp_path).unlink()
    sink = await opened(tmp_path, state, clock=clock)
    await write(sink, mapped(9, 1))
    await sink.close()
    sink = await opened(tmp_path, state, clock=clock)
    await write(sink, mapped(9, 1))
    assert contents(tmp_path) == mapped(9, 1).bodies
    await sink.close()


@pytest.mark.parametrize("part", ["", "p3-one"])
@pytest.mark.parametrize("is_saved", [True, False], ids=["reload", "no-state"])
async def test_a_new_sink_gives_no_name_again(tmp_path: Path, clock: FakeClock, part: str, is_saved: bool) -> None:
    """Within the same second, and if the clock is set back and forth, after the finished files were taken away: a shipper
    would replace one file with the other. Without a state, the open file that is finished at the start is known."""
    seen: list[str] = []
    state = None
    for step in (0, -1, 1, 0):
        sink = await opened(tmp_path, state, {"rotate_size": "1B"}, clock=clock, part=part)
        seen += take_away(tmp_path)
        state = (await write(sink, mapped(1))).state
        if is_saved:
            state = (await write(sink, Batch())).state
        await sink.close()
        seen += take_away(tmp_path)
        clock.epoch += step
        state = state if is_saved else None
    assert len(set(seen)) == len(seen) == (4 if is_saved else 3)


def take_away(directory: Path) -> list[str]:
    """The names of the finished files, which are gone then."""
    names = [name for name in files(directory) if not name.endswith(".open")]
    for name in names:
        (directory / name).unlink()
    return names


async def test_a_file_shorter_than_it_was_is_kept_and_left(tmp_path: Path) -> None:
    """Another program truncated it: what is left is finished, and a new file is started."""
    sink = await opened(tmp_path)
    state = (await write(sink, mapped(5))).state
    await sink.close()
    path = only_file(tmp_path)
    os.truncate(path, len(mapped(5).slice(0, 2).ndjson))
    sink = await opened(tmp_path, state)
    await write(sink, mapped(5, 1))
    await sink.close()
    assert contents(tmp_path) == mapped(5).bodies[:2] + mapped(5, 1).bodies


async def test_a_full_disk_leaves_no_partial_record(tmp_path: Path) -> None:
    """A real limit in the middle of a write: Unavailable, and the file is as before. With space again, writing goes on."""
    sink = await opened(tmp_path)
    await write(sink, mapped(20))
    path = only_file(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 1000, hard))
    try:
        with pytest.raises(Unavailable, match="File too large"):
            await write(sink, mapped(20, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == mapped(20).bodies
    await write(sink, mapped(2, 2))
    assert contents(tmp_path) == mapped(20).bodies + mapped(2, 2).bodies
    await sink.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
async def test_an_error_of_the_disk_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A write fails halfway, and so does undoing it. Once the disk works again, no part of it is in the file."""
    sink = await opened(tmp_path)
    await write(sink, mapped(3))
    failed = []

    def fail(*arguments: object) -> int:
        failed.append(arguments)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        patch.setattr(os, "ftruncate", fail if number != errno.EIO else lambda *_: len(failed) and fail())
        with pytest.raises(Unavailable, match=os.strerror(number)):
            await write(sink, mapped(30, 1))
    assert failed
    await write(sink, mapped(1, 2))
    await sink.close()
    assert contents(tmp_path) == mapped(3).bodies + mapped(1, 2).bodies


async def test_what_needs_a_person_is_misconfigured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or a symbolic link to nowhere in place of the directory, a name that is too long, missing permissions; at open
    and at check."""
    (tmp_path / "file").touch()

    def refuse(*arguments: object, **named: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file", "file/below", "x" * 300, "dangling", "dangling/below", "loop", "loop/below", "denied"):
        directory = tmp_path / name
        if directory.name == "denied":
            monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
        sink = file_sink(directory)
        with pytest.raises(Misconfigured, match="can't write to"):
            await sink.open(None)
        with pytest.raises(Misconfigured, match="can't write to"):
            await sink.check()
        await sink.close()


async def test_check_makes_no_directory(tmp_path: Path) -> None:
    """It checks the nearest parent that exists."""
    sink = file_sink(tmp_path / "a" / "b")
    await sink.check()
    await sink.close()
    assert files(tmp_path) == []


@pytest.mark.parametrize(("format", "compression"), [("ndjson", "deflate"), ("ndjson", "null"), ("avro", "gzip")])
def test_a_compression_goes_with_its_format(format: str, compression: str) -> None:
    """Others are rejected, with those that can be used."""
    with pytest.raises(ValidationError, match=f"{format} files can't have compression '{compression}'; use none, "):
        FileSettings.model_validate({"format": format, "compression": compression})
