"""Other programs delete, move, replace or truncate the file being written, or its directory: no record is lost unseen."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sinks.base import Misconfigured, Unavailable, WriteResult
from sinks.batch import Batch
from sinks.file import FileSink
from tests.sinks.drivers.file import FORMATS, canonical, file_sink, only_file, read_records
from tests.support.clock import FakeClock
from tests.support.fakes import Rig, mapped
from tests.support.harness import until_async

FIRST, SECOND = mapped(5), mapped(4, 1)
LOST = {"lost_files": 1, "lost_records": 5}

each_format = pytest.mark.parametrize("settings", FORMATS.values(), ids=FORMATS)


def _replace(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.write_bytes((path.with_name("elsewhere")).read_bytes())


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "deleted": (Path.unlink, "it was deleted or moved"),
    "moved": (lambda path: path.rename(path.with_name("elsewhere")), "it was deleted or moved"),
    "replaced": (_replace, "another file has taken its place"),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size - 1), "it was truncated to"),
    "without a directory": (lambda path: shutil.rmtree(path.parent), "it was deleted or moved"),
    "in a moved directory": (lambda path: path.parent.rename(path.parent.with_name("old")), "it was deleted or moved"),
}
each_fault = pytest.mark.parametrize(("fault", "what"), FAULTS.values(), ids=FAULTS)


async def write(sink: FileSink, batch: Batch) -> WriteResult:
    """Write as the loop does while the journal can save."""
    result = await sink.write(batch)
    sink.saved(result.state or "")
    return result


async def reopened(directory: Path, state: str | None, **more: Any) -> tuple[FileSink, WriteResult]:
    """A sink that continues from `state`, and the result of its first write."""
    sink = file_sink(directory, more.pop("settings", None), **more)
    await sink.open(state)
    return sink, await write(sink, Batch())


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def losses(logs: list[Any]) -> list[tuple[str, str, int]]:
    """Level, what happened, and the number of records, of each log line about a lost file."""
    return [(line["log_level"], line["what"], line["records"]) for line in logs if line["event"] == "open file lost"]


@each_fault
@each_format
async def test_records_in_a_file_that_another_program_took_are_told(
    tmp_path: Path, settings: dict[str, Any], fault: Callable[[Path], object], what: str
) -> None:
    """At the next write: an error says what happened, a flag counts the records, and the batch goes to a new file."""
    directory = tmp_path / "files"
    sink, _ = await reopened(directory, None, settings=settings)
    assert (await write(sink, FIRST)).flagged == {}
    name = only_file(directory).name
    fault(only_file(directory))
    with capture_logs() as logs:
        result = await write(sink, SECOND)
    assert result.flagged == LOST
    ((level, said, records),) = losses(logs)
    assert (level, said.startswith(what), records) == ("error", True, 5)
    now = json.loads(result.state or "")["file"]
    assert now != name
    assert list(map(canonical, read_records(directory / now))) == list(map(canonical, SECOND.bodies))
    assert (await write(sink, SECOND)).flagged == {}, "a loss is counted once"
    await sink.close()


@each_fault
@each_format
async def test_a_restart_tells_what_was_lost_before(
    tmp_path: Path, settings: dict[str, Any], fault: Callable[[Path], object], what: str
) -> None:
    """The saved state names a file of a length: if it is missing or shorter, an error says so, and a flag counts it. A copy
    in its place is taken for the file."""
    directory = tmp_path / "files"
    sink, _ = await reopened(directory, None, settings=settings)
    state = (await write(sink, FIRST)).state
    await sink.close()
    fault(only_file(directory))
    with capture_logs() as logs:
        sink, result = await reopened(directory, state, settings=settings)
    if fault is _replace:
        assert (result.flagged, losses(logs)) == ({}, [])
    else:
        ((level, said, records),) = losses(logs)
        assert (level, said.startswith(what), records, result.flagged) == ("error", True, 5, LOST)
    assert (await write(sink, SECOND)).flagged == {}
    await sink.close()


async def test_a_loss_is_told_without_any_record(tmp_path: Path, clock: FakeClock) -> None:
    """At the latest when the file is to be finished. Nothing is renamed then."""
    sink, _ = await reopened(tmp_path, None, clock=clock)
    await write(sink, FIRST)
    _replace(only_file(tmp_path))
    await clock.advance(3600)
    result = await write(sink, Batch())
    assert (result.flagged, json.loads(result.state or "")["file"]) == (LOST, None)
    assert [name.endswith(".ndjson") for name in files(tmp_path)] == [False, False]
    await sink.close()


async def test_the_number_of_lost_records_counts_over_restarts(tmp_path: Path) -> None:
    """Also of those written before a restart, but not of those in finished files."""
    sink, _ = await reopened(tmp_path, None)
    state = (await write(sink, FIRST)).state
    await sink.close()
    sink, _ = await reopened(tmp_path, state)
    await write(sink, SECOND)
    only_file(tmp_path).unlink()
    assert (await write(sink, Batch())).flagged == {"lost_files": 1, "lost_records": 9}
    await sink.close()


async def test_a_lost_file_that_is_brought_back_is_finished(tmp_path: Path) -> None:
    """At the next start, even some restarts later. It holds the only copy of its records."""
    sink, _ = await reopened(tmp_path / "files", None)
    await write(sink, FIRST)
    path = only_file(tmp_path / "files")
    path.rename(tmp_path / path.name)
    state = (await write(sink, SECOND)).state
    await sink.close()
    for _ in range(2):
        sink, result = await reopened(tmp_path / "files", state)
        state = result.state
        await sink.close()
    (tmp_path / path.name).rename(path)
    sink, result = await reopened(tmp_path / "files", state)
    assert result.flagged == {}
    assert read_records(path.with_suffix("")) == FIRST.bodies
    assert len(files(tmp_path / "files")) == 2
    await sink.close()


async def test_the_name_of_a_lost_file_is_not_given_again(tmp_path: Path, clock: FakeClock) -> None:
    """Even within the second of a restart: the file may be brought back."""
    sink, _ = await reopened(tmp_path, None, clock=clock)
    await write(sink, FIRST)
    name = only_file(tmp_path).name
    only_file(tmp_path).unlink()
    state = (await write(sink, Batch())).state
    await sink.close()
    sink, _ = await reopened(tmp_path, state, clock=clock)
    await write(sink, SECOND)
    assert only_file(tmp_path).name != name
    await sink.close()


async def test_a_loss_is_counted_after_a_failed_write(tmp_path: Path) -> None:
    """The new file can't be created at first; the result of the write that succeeds has the count."""
    directory = tmp_path / "files"
    sink, _ = await reopened(directory, None)
    await write(sink, FIRST)
    shutil.rmtree(directory)
    directory.touch()
    with pytest.raises(Misconfigured, match="can't write to"):
        await write(sink, SECOND)
    directory.unlink()
    assert (await write(sink, SECOND)).flagged == LOST
    assert read_records(only_file(directory)) == SECOND.bodies
    await sink.close()


async def test_a_state_of_an_older_version_counts_the_file_alone(tmp_path: Path) -> None:
    """It does not say how many records the file has."""
    state = json.dumps({"file": "files-20260131T120000Z-0001.ndjson.open", "length": 10, "opened": 0.0})
    sink, result = await reopened(tmp_path, state)
    assert result.flagged == {"lost_files": 1, "lost_records": 0}
    await sink.close()


async def test_a_finished_file_may_be_moved(tmp_path: Path) -> None:
    """At once, and before a crash in which the new state is lost as long as the file is there: no loss is told."""
    sink, _ = await reopened(tmp_path, None, settings={"rotate_size": "1B"})
    state = (await write(sink, FIRST)).state
    await write(sink, Batch())
    with capture_logs() as logs:
        other, result = await reopened(tmp_path, state)
        await other.close()
        only_file(tmp_path).unlink()
        assert (result.flagged, (await write(sink, SECOND)).flagged, losses(logs)) == ({}, {}, [])
    await sink.close()


async def test_a_finished_file_that_is_too_short_is_told(tmp_path: Path) -> None:
    """If the state still names it as open, after a crash."""
    sink, _ = await reopened(tmp_path, None, settings={"rotate_size": "1B"})
    state = (await write(sink, FIRST)).state
    await write(sink, Batch())
    await sink.close()
    os.truncate(only_file(tmp_path), 1)
    sink, result = await reopened(tmp_path, state)
    assert result.flagged == LOST
    await sink.close()


async def test_a_file_that_a_person_finished_is_finished(tmp_path: Path) -> None:
    """With its final name it is no loss: the next batch goes to a new file."""
    sink, _ = await reopened(tmp_path, None)
    await write(sink, FIRST)
    path = only_file(tmp_path)
    path.rename(path.with_suffix(""))
    assert (await write(sink, SECOND)).flagged == {}
    await sink.close()
    assert [read_records(tmp_path / name) for name in files(tmp_path)] == [FIRST.bodies, SECOND.bodies]


@pytest.mark.parametrize("make", [lambda path: path.write_text("mine"), lambda path: path.symlink_to("nowhere")])
async def test_finishing_a_file_replaces_no_other(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """A file with the final name is left alone, and so is a link: the sink is misconfigured until it is gone."""
    sink, _ = await reopened(tmp_path, None, settings={"rotate_size": "1B"})
    await write(sink, FIRST)
    final = only_file(tmp_path).with_suffix("")
    make(final)
    with pytest.raises(Misconfigured, match="name that is taken"):
        await write(sink, SECOND)
    assert final.is_symlink() or final.read_text() == "mine"
    final.unlink()
    await write(sink, SECOND)
    assert read_records(final) == FIRST.bodies
    await sink.close()


async def test_a_directory_that_is_gone_with_a_finished_file_does_not_stop_the_sink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file was renamed, the rename was not durable yet, and then somebody removed both."""
    directory = tmp_path / "files"
    sink, _ = await reopened(directory, None, settings={"rotate_size": "1B"})
    await write(sink, FIRST)
    path = only_file(directory)
    with monkeypatch.context() as patch:
        patch.setattr("sinks.file.open_file.sync_directory", lambda _: (_ for _ in ()).throw(OSError(5, "I/O error")))
        with pytest.raises(Unavailable, match="I/O error"):
            await write(sink, Batch())
    assert only_file(directory) == path.with_suffix("")
    shutil.rmtree(directory)
    await write(sink, SECOND)
    assert read_records(only_file(directory)) == SECOND.bodies
    await sink.close()


async def test_metrics_show_what_was_lost(tmp_path: Path) -> None:
    """Delivery goes on, and `btfeed_sink_flagged_total` counts."""
    async with Rig(file_sink(tmp_path), serial=True) as rig:
        await rig.post(3)
        await rig.saved(2)
        only_file(tmp_path).unlink()
        second = await rig.post(2, 1)
        await rig.saved(3)
        await until_async(lambda: rig.sample("sink_flagged_total", what="lost_records") == 3, "counted")
        assert rig.sample("sink_flagged_total", what="lost_files") == 1
    assert read_records(only_file(tmp_path)) == second


@pytest.fixture
def clock() -> FakeClock:
    """The clock of the sinks in a test."""
    return FakeClock()


async def test_a_file_of_a_clock_that_was_ahead_is_finished_after_a_restart(tmp_path: Path, clock: FakeClock) -> None:
    """It starts in the future: nothing says how old it is."""
    clock.epoch += 86_400
    sink, _ = await reopened(tmp_path, None, clock=clock)
    state = (await write(sink, FIRST)).state
    await sink.close()
    clock.epoch -= 86_400
    sink, result = await reopened(tmp_path, state, clock=clock)
    assert json.loads(result.state or "")["file"] is None
    assert not only_file(tmp_path).name.endswith(".open")
    await sink.close()


@pytest.mark.parametrize("days", [-1, 1])
async def test_a_clock_that_is_set_changes_no_interval(tmp_path: Path, clock: FakeClock, days: int) -> None:
    """A file is finished rotate_interval after it was started, whatever the system's clock shows then."""
    sink, _ = await reopened(tmp_path, None, clock=clock)
    await write(sink, FIRST)
    await clock.advance(600)
    clock.epoch += days * 86_400
    assert (await write(sink, SECOND)).again_after == 3000
    await clock.advance(3000)
    assert json.loads((await write(sink, Batch())).state or "")["file"] is None
    await sink.close()
