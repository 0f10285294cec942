"""A file sink that several processes have, each for some partitions: every record is in one file of one of them."""

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from btfeed.journal.kafka.metadata import MAX_STATE
from sinks.base import Misconfigured
from sinks.batch import Batch
from sinks.file import FileSink
from tests.sinks.drivers.file import FORMATS, canonical, file_sink, read_records
from tests.support.clock import FakeClock
from tests.support.fakes import mapped

ONE, TWO, THREE = mapped(5), mapped(6, 1), mapped(7, 2)


async def write(sink: FileSink, batch: Batch) -> str:
    """Write, and save the state, as the delivery loop does. The state."""
    state = (await sink.write(batch)).state
    assert state
    sink.saved(state)
    return state


def files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def names(directory: Path) -> list[str]:
    return [path.name for path in files(directory)]


def contents(directory: Path) -> list[bytes]:
    return [canonical(record) for path in files(directory) for record in read_records(path)]


def bodies(*batches: Batch) -> list[bytes]:
    return sorted(canonical(body) for batch in batches for body in batch.bodies)


async def begun(directory: Path, state: str | None = None, part: str = "p3-one", **settings: Any) -> FileSink:
    """A sink with this part, open, whose first state is saved."""
    sink = file_sink(directory, settings, clock=FakeClock(), part=part)
    await sink.open(state)
    await write(sink, Batch())
    return sink


async def test_parts_of_a_sink_have_files_of_their_own(tmp_path: Path) -> None:
    """Of each partition and process, also in one directory."""
    for part in ("p3-one", "p4-one", "p3-two", "retries-one"):
        sink = await begun(tmp_path, part=part)
        await write(sink, ONE)
        await sink.close()
    assert [name[: name.index("-2023")] for name in names(tmp_path)] == [
        "files-p3-one", "files-p3-two", "files-p4-one", "files-retries-one",
    ]  # fmt: skip


@pytest.mark.parametrize("settings", FORMATS.values(), ids=FORMATS)
async def test_a_part_that_is_left_is_finished_as_it_was_saved(tmp_path: Path, settings: dict[str, Any]) -> None:
    """What came after that is another process's. Leaving again changes nothing."""
    sink = await begun(tmp_path, **settings)
    state = await write(sink, ONE)
    await sink.write(TWO)  # killed before its state is saved
    await sink.close()
    for _ in range(2):
        leaving = file_sink(tmp_path, settings, clock=FakeClock(), part="p3-one")
        await leaving.leave(state)
        await leaving.close()
        assert sorted(contents(tmp_path)) == bodies(ONE)
        assert not any(name.endswith(".open") for name in names(tmp_path))


async def test_a_part_that_comes_back_goes_on_without_what_was_not_saved(tmp_path: Path) -> None:
    """Whether it was left, or is still open: the records may have been written elsewhere meanwhile."""
    sink = await begun(tmp_path)
    state = await write(sink, ONE)
    await sink.write(TWO)
    await sink.close()
    again = await begun(tmp_path, state)
    state = await write(again, THREE)
    await again.close()
    assert sorted(contents(tmp_path)) == bodies(ONE, THREE)
    assert len(names(tmp_path)) == 1
    leaving = file_sink(tmp_path, {}, clock=FakeClock(), part="p3-one")
    await leaving.leave(state)
    await leaving.close()
    last = await begun(tmp_path, state)
    await write(last, TWO)
    await last.close()
    assert sorted(contents(tmp_path)) == bodies(ONE, TWO, THREE)


@pytest.mark.parametrize("how", ["leave", "open"])
async def test_a_file_that_was_begun_and_not_saved_is_removed(tmp_path: Path, how: str) -> None:
    """After the first write of a part, or between the end of a file and the next save."""
    sink = await begun(tmp_path, rotate_size="1B")
    state = await write(sink, ONE)
    await sink.write(TWO)  # in a new file
    await sink.close()
    assert len(names(tmp_path)) == 2
    other = file_sink(tmp_path, {"rotate_size": "1B"}, clock=FakeClock(), part="p3-one")
    await (other.leave(state) if how == "leave" else other.open(state))
    await other.close()
    assert sorted(contents(tmp_path)) == bodies(ONE)


async def test_files_of_another_journal_are_kept(tmp_path: Path) -> None:
    """Its states have another series, and it may not write their records again."""
    here = tmp_path / "here"
    theirs = await begun(here)
    await write(theirs, ONE)
    await theirs.close()
    ours = await begun(tmp_path / "elsewhere")
    state = await write(ours, Batch())
    await ours.close()
    with capture_logs() as logs:
        leaving = file_sink(here, {}, clock=FakeClock(), part="p3-one")
        await leaving.leave(state)
        await leaving.close()
    assert [entry["event"] for entry in logs] == ["finishing an open file of another journal"]
    assert sorted(contents(here)) == bodies(ONE)


async def test_a_file_that_was_left_and_moved_is_not_lost(tmp_path: Path) -> None:
    """The state still names it, since nobody could save another one."""
    sink = await begun(tmp_path)
    state = await write(sink, ONE)
    await sink.close()
    leaving = file_sink(tmp_path, {}, clock=FakeClock(), part="p3-one")
    await leaving.leave(state)
    await leaving.close()
    files(tmp_path)[0].unlink()
    again = file_sink(tmp_path, {}, clock=FakeClock(), part="p3-one")
    with capture_logs() as logs:
        await again.open(state)
        assert not (await again.write(Batch())).flagged
        await again.close()
    assert [entry["log_level"] for entry in logs if "open file" in entry["event"]] == ["info"]


async def test_a_part_that_was_truncated_is_told_when_it_is_left(tmp_path: Path) -> None:
    """What is there is kept."""
    sink = await begun(tmp_path)
    state = await write(sink, ONE)
    await sink.close()
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:10])
    with capture_logs() as logs:
        leaving = file_sink(tmp_path, {}, clock=FakeClock(), part="p3-one")
        await leaving.leave(state)
        await leaving.close()
    assert [entry["records"] for entry in logs if entry["event"] == "open file lost"] == [5]
    assert [path.stat().st_size for path in files(tmp_path)] == [10]


async def test_two_processes_with_one_name_remove_nothing_that_was_saved(tmp_path: Path) -> None:
    """Each has a directory of its own and goes on from what the other has saved, which says nothing of its own files."""
    first = await begun(tmp_path / "first")
    state = await write(first, ONE)
    await first.close()
    second = await begun(tmp_path / "second", state)
    state = await write(second, TWO)
    await second.close()
    again = await begun(tmp_path / "first", state)
    state = await write(again, THREE)
    await again.close()
    leaving = file_sink(tmp_path / "second", {}, clock=FakeClock(), part="p3-one")
    await leaving.leave(state)
    await leaving.close()
    assert sorted(contents(tmp_path / "first") + contents(tmp_path / "second")) == bodies(ONE, TWO, THREE)


@pytest.mark.parametrize("how", ["leave", "open"])
async def test_a_file_that_another_process_writes_is_not_touched(tmp_path: Path, how: str) -> None:
    """Two processes have one name, and the state that the second one gets is older than the file of the first one."""
    first = await begun(tmp_path / "first")
    older = await write(first, ONE)
    await write(first, TWO)
    second = file_sink(tmp_path / "second", {}, clock=FakeClock(), part="p3-one")
    with pytest.raises(Misconfigured, match=r"another process has it open; give each process its own journal\.instance"):
        await (second.leave(older) if how == "leave" else second.open(older))
    await write(first, THREE)
    await first.close()
    assert sorted(contents(tmp_path / "first")) == bodies(ONE, TWO, THREE)
    await (second.leave(older) if how == "leave" else second.open(older))
    await second.close()
    assert sorted(contents(tmp_path / "first")) == bodies(ONE)


@pytest.mark.parametrize("how", ["leave", "open"])
async def test_processes_of_one_name_on_two_machines_lose_and_double_nothing(tmp_path: Path, how: str) -> None:
    """The second one can't find the file of the first one, which then gets a state that names a file of the second one."""
    here, there = tmp_path / "here", tmp_path / "there"
    first = await begun(here)
    state = await write(first, ONE)
    await first.write(TWO)  # and can't save it: the second process has taken the partition
    await first.close()
    here.rename(tmp_path / "another machine")
    second = await begun(there, state)
    state = await write(second, TWO)
    await second.close()
    there.rename(tmp_path / "yet another machine")
    (tmp_path / "another machine").rename(here)
    for _ in range(2):
        again = file_sink(here, {}, clock=FakeClock(), part="p3-one")
        await (again.leave(state) if how == "leave" else again.open(state))
        await again.close()
        assert sorted(contents(here) + contents(tmp_path / "yet another machine")) == bodies(ONE, TWO)
    assert not any(name.endswith(".open") for name in names(here))


async def test_the_state_stays_short(tmp_path: Path) -> None:
    """Kafka keeps it beside an offset, however often files are lost and partitions move."""
    state = None
    for number in range(30):
        sink = await begun(tmp_path / f"{number}", state, rotate_size="1B")
        state = await write(sink, ONE)
        for path in files(tmp_path / f"{number}"):
            path.unlink()
        await write(sink, TWO)  # it counts the loss
        state = await write(sink, TWO)
        await sink.close()
    assert state
    assert len(state) < MAX_STATE


@pytest.mark.parametrize("how", ["leave", "open"])
async def test_a_new_file_that_another_process_writes_is_not_removed(tmp_path: Path, how: str) -> None:
    """It was begun after the state that the second process gets."""
    first = await begun(tmp_path, rotate_size="1B")
    older = await write(first, ONE)
    await write(first, TWO)
    second = file_sink(tmp_path, {"rotate_size": "1B"}, clock=FakeClock(), part="p3-one")
    with pytest.raises(Misconfigured, match="another process has it open"):
        await (second.leave(older) if how == "leave" else second.open(older))
    await write(first, THREE)
    await first.close()
    await second.close()
    assert sorted(contents(tmp_path)) == bodies(ONE, TWO, THREE)


async def test_an_open_file_of_another_journal_is_left_to_it(tmp_path: Path) -> None:
    """Two journals have sinks of one name in one directory. The file of the one that runs is not finished by the other."""
    first = file_sink(tmp_path, {}, clock=FakeClock())
    await first.open(None)
    await write(first, ONE)
    second = file_sink(tmp_path, {}, clock=FakeClock())
    with capture_logs() as logs:
        await second.open(None)
    assert [entry["event"] for entry in logs] == ["open file left to the process that has it open"]
    await write(second, TWO)
    await write(first, THREE)
    assert len(names(tmp_path)) == 2
    for sink in (first, second):
        await sink.close()
    assert sorted(contents(tmp_path)) == bodies(ONE, TWO, THREE)
