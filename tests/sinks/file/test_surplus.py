"""Open files with records that the state does not cover: nothing is deleted that is not written again.

A journal that is switched, restored from an older copy or rewound does not know what is in the files. The sink keeps it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sinks.base import WriteResult
from sinks.batch import Batch
from sinks.file import FileSink
from sinks.file.surplus import PATIENCE
from tests.sinks.drivers.file import FORMATS, canonical, file_sink, read_records
from tests.support.clock import FakeClock
from tests.support.fakes import mapped

ONE, TWO, THREE = mapped(5), mapped(6, 1), mapped(7, 2)

each_format = pytest.mark.parametrize("settings", FORMATS.values(), ids=FORMATS)


@pytest.fixture
def clock() -> FakeClock:
    """The clock of the sinks in a test."""
    return FakeClock()


class Journal:
    """What a journal keeps of a sink: its state. `start` opens the sink as the delivery loop does."""

    def __init__(self, directory: Path, clock: FakeClock, settings: dict[str, Any]) -> None:
        self.directory, self.clock, self.settings = directory, clock, settings
        self.state: str | None = None
        self.sink: FileSink | None = None

    async def start(self) -> WriteResult:
        self.sink = file_sink(self.directory, self.settings, clock=self.clock)
        await self.sink.open(self.state)
        return await self.write(Batch())

    async def write(self, *batches: Batch, save: bool = True) -> WriteResult:
        assert self.sink
        for batch in batches:
            result = await self.sink.write(batch)
            if save:
                self.state = result.state
                self.sink.saved(result.state or "")
        return result

    async def stop(self) -> None:
        assert self.sink
        await self.sink.close()

    async def run(self, *batches: Batch) -> None:
        await self.start()
        await self.write(*batches)
        await self.stop()


@pytest.fixture
def journal(tmp_path: Path, clock: FakeClock) -> Journal:
    """A journal with a sink of NDJSON."""
    return Journal(tmp_path / "files", clock, {})


def contents(directory: Path) -> list[bytes]:
    return [canonical(record) for path in sorted(directory.iterdir()) for record in read_records(path)]


def bodies(*batches: Batch) -> list[bytes]:
    return [canonical(body) for batch in batches for body in batch.bodies]


def opened(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.endswith(".open")]


@each_format
async def test_journals_that_are_switched_and_switched_back_lose_nothing(
    tmp_path: Path, clock: FakeClock, settings: dict[str, Any]
) -> None:
    """What the other journal wrote is kept and finished when it has not come again; a warning and a flag count it."""
    one, two = (Journal(tmp_path, clock, settings) for _ in range(2))
    await one.run(ONE)
    await two.run(TWO)
    two_again = Journal(tmp_path, clock, settings)
    two_again.state = two.state
    await two_again.run(THREE)
    with capture_logs() as logs:
        await one.start()
        assert sorted(contents(tmp_path)) == sorted(bodies(ONE, TWO, THREE))
        await clock.advance(PATIENCE)
        result = await one.write(Batch())
    assert result.flagged == {"surplus_files": 1, "surplus_records": 13}
    (warning,) = (line for line in logs if line["log_level"] == "warning")
    assert (warning["event"].startswith("open file finished"), warning["records"]) == (True, 13)
    await one.stop()
    assert opened(tmp_path) == []
    assert sorted(contents(tmp_path)) == sorted(bodies(ONE, TWO, THREE))


@pytest.mark.parametrize("restarts", [False, True])
@each_format
async def test_an_older_copy_of_the_journal_loses_nothing(
    tmp_path: Path, clock: FakeClock, settings: dict[str, Any], restarts: bool
) -> None:
    """It knows a shorter file, of this run or of one before. What is after it goes to a file of its own."""
    journal = Journal(tmp_path, clock, settings)
    await journal.start()
    await journal.write(ONE)
    copy = journal.state
    if restarts:
        await journal.stop()
        await journal.start()
    await journal.write(TWO)
    await journal.stop()
    journal.state = copy
    await journal.start()
    result = await journal.write(THREE)
    assert result.again_after == PATIENCE
    await clock.advance(PATIENCE)
    assert (await journal.write(Batch())).flagged == {"surplus_files": 1, "surplus_records": 6}
    await journal.stop()
    assert sorted(contents(tmp_path)) == sorted(bodies(ONE, TWO, THREE))


async def test_a_copy_that_lacks_the_post_of_a_write_that_was_not_saved_loses_nothing(
    tmp_path: Path, clock: FakeClock, journal: Journal
) -> None:
    """Its state is the same, so that only the records can tell."""
    await journal.start()
    await journal.write(ONE)
    await journal.write(TWO, save=False)
    await journal.stop()
    await journal.run(THREE)
    assert sorted(contents(journal.directory)) == sorted(bodies(ONE, TWO, THREE))


async def test_an_older_copy_that_has_some_of_the_records_keeps_them_all(clock: FakeClock, journal: Journal) -> None:
    """Some are there twice then, which the warning says. The flag counts those that did not come again."""
    await journal.start()
    await journal.write(ONE)
    copy = journal.state
    await journal.write(TWO)
    await journal.stop()
    journal.state = copy
    await journal.start()
    await journal.write(TWO.slice(0, 2))
    await clock.advance(PATIENCE)
    assert (await journal.write(Batch())).flagged == {"surplus_files": 1, "surplus_records": 4}
    await journal.stop()
    assert sorted(contents(journal.directory)) == sorted(bodies(ONE, TWO, TWO.slice(0, 2)))


@each_format
async def test_records_that_come_again_in_parts_over_crashes_are_there_once(
    tmp_path: Path, clock: FakeClock, settings: dict[str, Any]
) -> None:
    """Each record that comes again restarts the patience, and the state counts them."""
    journal = Journal(tmp_path, clock, settings)
    await journal.start()
    await journal.write(ONE)
    await journal.write(TWO, save=False)
    await journal.stop()
    for index in range(len(TWO)):
        await journal.start()
        await clock.advance(PATIENCE / 2)
        result = await journal.write(TWO.slice(index, index + 1))
        assert result.flagged == {}
        await journal.write(TWO.slice(index + 1, index + 3), save=False)
        await journal.stop()
    assert contents(tmp_path) == bodies(ONE, TWO)
    assert "surplus" not in json.loads((await journal.start()).state or "")
    await journal.stop()


async def test_a_disk_that_was_full_for_long_makes_no_record_double(clock: FakeClock, journal: Journal) -> None:
    """The patience does not end while the records that come again can't be written."""
    await journal.start()
    await journal.write(ONE)
    await journal.write(TWO, save=False)
    await journal.stop()
    await journal.start()
    await clock.advance(10 * PATIENCE)
    await journal.write(TWO)
    await journal.stop()
    assert contents(journal.directory) == bodies(ONE, TWO)


async def test_records_that_an_operator_skips_are_kept(clock: FakeClock, journal: Journal) -> None:
    """A rewind forward, or a filter that changes, before they came again."""
    await journal.start()
    await journal.write(ONE, save=False)
    await journal.stop()
    await journal.run(TWO)
    assert sorted(contents(journal.directory)) == sorted(bodies(ONE, TWO))


async def test_a_sink_that_was_removed_and_added_again_loses_nothing(clock: FakeClock, journal: Journal) -> None:
    """Its state is gone. Its open file is finished at once, and not written to again."""
    await journal.run(ONE)
    journal.state = None
    await journal.run(TWO)
    assert contents(journal.directory) == bodies(ONE, TWO)
    assert len(opened(journal.directory)) == 1


async def test_a_file_with_too_many_records_to_compare_is_finished_at_once(
    clock: FakeClock, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash leaves one write at most."""
    monkeypatch.setattr("sinks.file.surplus._MAX_RECORDS", 3)
    await journal.start()
    await journal.write(ONE, save=False)
    await journal.stop()
    assert (await journal.start()).flagged == {"surplus_files": 1, "surplus_records": 4}
    await journal.stop()
    assert opened(journal.directory) == []
    assert contents(journal.directory) == bodies(ONE)


async def test_a_damaged_file_is_finished_at_once(clock: FakeClock, journal: Journal) -> None:
    """What can't be compared is kept, whatever it is."""
    await journal.start()
    await journal.write(ONE, save=False)
    await journal.stop()
    (name,) = opened(journal.directory)
    path = journal.directory / name
    path.write_bytes(b"not a record\n" + path.read_bytes())
    assert (await journal.start()).flagged == {"surplus_files": 1, "surplus_records": 0}
    await journal.stop()
    assert path.with_suffix("").read_bytes() == b"not a record\n" + ONE.ndjson


async def test_a_surplus_file_that_another_program_takes_is_a_loss(clock: FakeClock, journal: Journal) -> None:
    """As with the file being written."""
    await journal.start()
    await journal.write(ONE, save=False)
    await journal.stop()
    await journal.start()
    (name,) = opened(journal.directory)
    (journal.directory / name).unlink()
    assert (await journal.write(TWO)).flagged == {"lost_files": 1, "lost_records": 5}
    await journal.stop()


# Another directory


async def test_the_open_file_in_the_old_directory_is_finished(tmp_path: Path, clock: FakeClock, journal: Journal) -> None:
    """When the setting changes: no loss is told, and what was not saved is written again, or kept."""
    old = journal.directory
    await journal.start()
    await journal.write(ONE)
    await journal.write(TWO, save=False)
    await journal.stop()
    journal.directory = tmp_path / "new"
    with capture_logs() as logs:
        assert (await journal.start()).flagged == {}
        await journal.write(TWO)
    await journal.stop()
    assert [line for line in logs if line["log_level"] in ("warning", "error")] == []
    assert (opened(old), contents(old), contents(tmp_path / "new")) == ([], bodies(ONE), bodies(TWO))
    journal.directory = old
    assert (await journal.start()).flagged == {}
    await journal.stop()
    assert contents(tmp_path / "new") == bodies(TWO)


async def test_a_directory_that_is_moved_and_set_anew_goes_on(tmp_path: Path, clock: FakeClock, journal: Journal) -> None:
    """The open file moved with it."""
    await journal.run(ONE)
    journal.directory = journal.directory.rename(tmp_path / "new")
    assert (await journal.start()).flagged == {}
    await journal.write(TWO)
    await journal.stop()
    assert (len(opened(journal.directory)), contents(journal.directory)) == (1, bodies(ONE, TWO))


async def test_another_name_of_the_same_directory_goes_on(tmp_path: Path, clock: FakeClock, journal: Journal) -> None:
    """A symbolic link, for example."""
    await journal.run(ONE)
    (tmp_path / "link").symlink_to(journal.directory)
    journal.directory = tmp_path / "link"
    assert (await journal.start()).flagged == {}
    await journal.write(TWO)
    await journal.stop()
    assert (len(opened(journal.directory)), contents(journal.directory)) == (1, bodies(ONE, TWO))


async def test_an_old_directory_that_is_gone_is_a_loss(tmp_path: Path, clock: FakeClock, journal: Journal) -> None:
    """The error names the file where it was."""
    await journal.run(ONE)
    shutil.rmtree(journal.directory)
    old, journal.directory = journal.directory, tmp_path / "new"
    with capture_logs() as logs:
        assert (await journal.start()).flagged == {"lost_files": 1, "lost_records": 5}
    await journal.stop()
    (loss,) = (line for line in logs if line["log_level"] == "error")
    assert Path(loss["file"]).parent == old


async def test_a_state_of_an_earlier_version_goes_on(clock: FakeClock, journal: Journal) -> None:
    """It does not have the directory."""
    await journal.start()
    await journal.write(ONE)
    await journal.write(TWO, save=False)
    await journal.stop()
    state = json.loads(journal.state or "")
    del state["directory"]
    journal.state = json.dumps(state)
    await journal.run(TWO)
    assert (len(opened(journal.directory)), contents(journal.directory)) == (1, bodies(ONE, TWO))
