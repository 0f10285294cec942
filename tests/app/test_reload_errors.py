"""Reloads that can't be taken: everything that is wrong is told, and nothing changes."""

import asyncio
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from btfeed.app.reload import READ_TIMEOUT, RESTART, Reloader
from btfeed.config import Config
from btfeed.journal.base import JournalUnavailable
from tests.app.reloading import FakeSettings, running
from tests.support import posts
from tests.support.clock import FakeClock
from tests.support.harness import until_async


async def test_everything_that_is_wrong_is_told_and_nothing_changes(tmp_path: Path) -> None:
    """Also what was right in the same file."""
    async with running(tmp_path) as it:
        (tmp_path / "bad.pem").write_text("no certificate")
        it.tables["receiver"] |= {
            "listen": "127.0.0.1:1",
            "path": "/other",
            "tls": {"certificate": str(tmp_path / "bad.pem"), "key": str(tmp_path / "bad.pem")},
        }
        it.tables["admin"] = {"listen": "127.0.0.1:2"}
        it.tables["journal"] |= {"directory": str(tmp_path / "elsewhere"), "retention": "1s"}
        it.tables["record"] = {"attributes": {"site": "north"}}
        it.sinks["third"] = FakeSettings()
        it.broken = ZeroDivisionError("a bug")
        errors = await it.refused()
        assert errors[:4] == [
            f"{key}: {RESTART}" for key in ("receiver.listen", "admin.listen", "journal.directory", "receiver.tls")
        ]
        assert errors[4:] == ["sinks.third: a bug"]
        it.broken = None
        assert await it.post(posts.mixed(3)) == 200
        await it.delivered("first", 3)
        assert b"north" not in it.sink("first").bodies[0]
        assert list(it.server.deliveries.statuses) == ["first", "second"]
        assert len(it.made("first")) == len(it.made("second")) == 1


async def test_errors_of_the_file_are_told(tmp_path: Path) -> None:
    """In the log, in /status, and in the metrics. A later reload that works says so as well."""
    async with running(tmp_path) as it:
        assert it.server.metrics.last_reload is None
        it.tables["journal"]["max_sice"] = "1GiB"
        it.tables["receiver"]["path"] = "no slash"
        with capture_logs() as logs:
            errors = await it.refused()
        assert [error.partition(":")[0] for error in errors] == ["receiver.path", "journal.max_sice"]
        (told,) = [entry for entry in logs if entry["log_level"] == "error"]
        assert told["errors"] == errors
        status = await it.status()
        assert (status["reload"]["outcome"], status["reload"]["errors"]) == ("failed", errors)
        assert it.sample("config_reloads_total", outcome="failed") == 1
        assert it.sample("config_last_reload_successful") == 0
        assert it.sample("config_last_reload_timestamp_seconds") == status["reload"]["time"] / 1000
        del it.tables["journal"]["max_sice"], it.tables["receiver"]["path"]
        assert await it.reload() == []
        status = await it.status()
        assert (status["reload"]["outcome"], status["reload"]["errors"]) == ("ok", [])
        assert it.sample("config_reloads_total", outcome="ok") == 1
        assert it.sample("config_last_reload_successful") == 1


async def test_a_bug_in_loading_does_not_stop_the_server(tmp_path: Path) -> None:
    """It counts as a reload that failed."""

    def fail() -> Config:
        raise ZeroDivisionError("a bug")

    async with running(tmp_path) as it:
        it.reloader = Reloader(it.server, fail)
        assert await it.refused() == ["a bug in btfeed: ZeroDivisionError"]
        assert await it.post(posts.mixed(3)) == 200


async def test_a_journal_that_fails_keeps_a_new_sink_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cursor can't be saved, so nothing changes."""

    async def fail(*arguments: object) -> None:
        raise JournalUnavailable("the journal failed: disk I/O error")

    async with running(tmp_path) as it:
        it.sinks["third"] = FakeSettings()
        it.tables["receiver"]["path"] = "/other"
        with monkeypatch.context() as patch:
            patch.setattr(it.server.journal, "reconfigure", fail)
            assert await it.refused() == ["journal: the journal failed: disk I/O error"]
        assert await it.post(posts.mixed(3)) == 200
        assert await it.reload() == []
        await it.delivered("third", 3)


async def test_an_error_after_the_point_of_no_return_stops_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not go on with half of a configuration."""

    def fail(*arguments: object) -> None:
        raise ZeroDivisionError("a bug")

    async with running(tmp_path) as it:
        monkeypatch.setattr(it.server.admin, "reconfigure", fail)
        with pytest.raises(ZeroDivisionError):
            await it.reload()
        with pytest.raises(ZeroDivisionError):
            await it.server.failed()


async def test_a_file_that_can_not_be_read_does_not_hold_later_reloads(tmp_path: Path) -> None:
    """As on a network drive that hangs. It counts as a reload that failed."""
    hung, clock = threading.Event(), FakeClock()
    async with running(tmp_path) as it:

        def load() -> Config:
            hung.wait()
            return it.config()

        it.reloader = Reloader(it.server, load, clock=clock)
        reload = asyncio.create_task(it.refused())
        await until_async(lambda: clock.deadlines, "reading")
        await clock.advance(READ_TIMEOUT + 1)
        (error,) = await reload
        assert error.startswith("the configuration could not be read within 30 s")
        assert it.sample("config_last_reload_successful") == 0
        hung.set()
        it.tables["receiver"]["path"] = "/other"
        assert await it.reload() == []
        assert await it.post(posts.mixed(3), line="POST /other HTTP/1.1") == 200
