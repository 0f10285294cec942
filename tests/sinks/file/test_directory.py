"""The directory of a file sink changes while its file is open."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sinks.base import Unavailable
from sinks.batch import Batch
from tests.sinks.drivers.file import file_sink, only_file, read_records
from tests.support.fakes import mapped

FIRST, UNSAVED, SECOND = mapped(5), mapped(3, 2), mapped(4, 1)


async def written(directory: Path, part: str = "") -> str:
    """The state of a sink that has written FIRST there, and UNSAVED after it was saved."""
    sink = file_sink(directory, part=part)
    await sink.open(None)
    await sink.write(Batch())
    state = (await sink.write(FIRST)).state
    await sink.write(UNSAVED)
    await sink.close()
    assert state
    return state


def failing(monkeypatch: pytest.MonkeyPatch, call: str, below: Path, number: int) -> None:
    """Let a function of `os` fail for all paths in a directory."""
    function: Callable[..., Any] = getattr(os, call)

    def fail(path: Any, *arguments: Any, **more: Any) -> Any:
        if isinstance(path, str | os.PathLike) and Path(path).parent == below:
            raise OSError(number, os.strerror(number), str(path))
        return function(path, *arguments, **more)

    monkeypatch.setattr(os, call, fail)


@pytest.mark.parametrize("part", ["", "p3-one"])
@pytest.mark.parametrize(("call", "number"), [("stat", errno.EIO), ("open", errno.EROFS), ("rename", errno.EPERM)])
async def test_an_old_directory_that_fails_does_not_stop_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, part: str
) -> None:
    """The error says where the file is, how much of it is delivered, and what to do. If the setting changes
    back, the file is cut to what is delivered, and finished."""
    old, new = tmp_path / "old", tmp_path / "new"
    state: str | None = await written(old, part)
    left = only_file(old)
    with monkeypatch.context() as patch, capture_logs() as logs:
        failing(patch, call, old, number)
        for batch in (UNSAVED, SECOND):
            sink = file_sink(new, part=part)
            await sink.open(state)
            result = await sink.write(Batch())
            assert result.flagged == ({"left_files": 1, "left_records": 5} if batch is UNSAVED else {})
            state = (await sink.write(batch)).state
            await sink.close()
    (told,) = [entry for entry in logs if entry["event"] == "open file left in the old directory"]
    assert (told["log_level"], told["file"], told["records"]) == ("error", str(left), 5)
    assert os.strerror(number) in told["error"]
    assert f"its first {len(FIRST.ndjson)} bytes are delivered" in told["hint"]
    assert only_file(old) == left
    sink = file_sink(old, part=part)
    await sink.open(state)
    await sink.close()
    assert only_file(old).name == left.name.removesuffix(".open")
    assert read_records(only_file(old)) == FIRST.bodies
    assert [each for path in sorted(new.iterdir()) for each in read_records(path)] == UNSAVED.bodies + SECOND.bodies


async def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is not left behind: it can be finished once there is room again."""
    old, new = tmp_path / "old", tmp_path / "new"
    state = await written(old)
    sink = file_sink(new)
    with monkeypatch.context() as patch:
        failing(patch, "rename", old, errno.ENOSPC)
        with pytest.raises(Unavailable, match="No space left"):
            await sink.open(state)
    await sink.open(state)
    assert read_records(only_file(old)) == FIRST.bodies
    assert not only_file(old).name.endswith(".open")
    await sink.close()
