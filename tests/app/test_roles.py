"""A server that only receives or only delivers, over a journal with several partitions that processes share."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from btfeed import config
from btfeed.app.reload import Reloader
from btfeed.app.roles import RECEIVE, SERVE, Role, deliver
from btfeed.app.server import Server
from btfeed.config import Config
from btfeed.delivery.sink_config import CommonSettings, SinkConfig
from btfeed.faults import ConfigError
from btfeed.journal import create as journals
from btfeed.journal.base import JournalUnavailable
from btfeed.journal.memory import MemoryJournal
from sinks.base import SinkContext, SinkType
from sinks.settings import Settings
from tests.support import posts
from tests.support.fakes import FakeSink, post
from tests.support.harness import DEADLINE, complete_lines, until_async

PARTITIONS = 3
RECORDS = 2


class LastingJournal(MemoryJournal):
    """Several servers have it, so none of them closes it."""

    async def close(self) -> None: ...


class Case:
    """Servers with one journal. fakes: the objects of the sink `fake` that were made, with what they keep apart."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.journal = LastingJournal({}, PARTITIONS)
        self.fakes: list[tuple[str, FakeSink]] = []
        self.posted = 0
        self.tables: dict[str, Any] = {
            "receiver": {"listen": "127.0.0.1:0"},
            "admin": {"listen": "127.0.0.1:0"},
            "journal": {"type": "kafka", "bootstrap_servers": "nowhere:1", "instance": "one"},
            "sinks": {"files": {"type": "file", "directory": str(directory), "delivery": {"linger": "5ms"}}},
        }
        monkeypatch.setattr(journals, "create", self._journal)

    def _journal(self, settings: object, starts: Mapping[str, str], *more: object, **options: object) -> MemoryJournal:
        self.journal.starts = {**self.journal.starts, **starts}
        return self.journal

    def _fake(self, settings: Settings, context: SinkContext) -> FakeSink:
        self.fakes.append((context.part, FakeSink()))
        return self.fakes[-1][1]

    def config(self) -> Config:
        parsed = config.parse(self.tables, {})
        fake = SinkConfig(CommonSettings(type="fake"), SinkType(Settings, self._fake), Settings())
        return replace(parsed, sinks=parsed.sinks | {"fake": fake})

    @asynccontextmanager
    async def running(self, role: Role) -> AsyncIterator["Running"]:
        started = Running(self, role)
        with capture_logs() as logs:
            await started.server.start()
        try:
            (listening,) = [entry for entry in logs if entry["event"] in ("listening", "delivering")]
            started.listening = listening
            yield started
        finally:
            await started.server.stop()

    async def append(self, number: int) -> None:
        for _ in range(number):
            self.posted += 1
            await self.journal.append(post(posts.mixed(RECORDS, self.posted)))

    def records(self) -> list[str]:
        """event.id of all records in files."""
        paths = list(self.directory.glob("*.ndjson*"))
        return [json.loads(line)["event.id"] for path in paths for line in complete_lines(path.read_text("utf-8"))]

    async def delivered(self) -> None:
        number = self.posted * RECORDS
        await until_async(lambda: len(set(self.records())) == number, f"{number} records")
        assert len(self.records()) == number


class Running:
    """A server that is started. listening: the log line."""

    listening: Mapping[str, Any]

    def __init__(self, case: Case, role: Role) -> None:
        self.server = Server(role.of(case.config()), role=role)
        self.reloader = Reloader(self.server, lambda: role.of(case.config()))

    async def get(self, path: str) -> tuple[int, str]:
        return await asyncio.to_thread(_ask, f"http://127.0.0.1:{self.listening['admin_port']}{path}", None)

    async def post(self, body: bytes) -> int:
        return (await asyncio.to_thread(_ask, f"http://127.0.0.1:{self.listening['port']}/", body))[0]

    async def status(self) -> dict[str, Any]:
        return dict(json.loads((await self.get("/status"))[1]))


def _ask(url: str, body: bytes | None) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, body, timeout=DEADLINE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """Servers that share a journal."""
    return Case(tmp_path, monkeypatch)


async def test_a_receiver_delivers_nothing(case: Case) -> None:
    """It has no sinks, and says so. Its posts are for others."""
    async with case.running(RECEIVE) as receiver:
        assert await receiver.post(posts.mixed(2)) == 200
        assert sum(map(len, case.journal.entries)) == 1
        shown = await receiver.status()
        assert (shown["ready"], shown["sinks"], shown["dead_letters"], shown["counts"]["posts"]) == (True, {}, [], 1)
        known = {"role": "receive", "instance": "one", "prefix": "btfeed"}
        assert {key: shown[key] for key in known} == known == {key: receiver.listening[key] for key in known}
        assert await receiver.get("/readyz") == (200, "ready\n")
        assert receiver.server.mapped_posts is None
        assert (await receiver.get("/"))[0] == 200
    assert case.fakes == []


async def test_a_receiver_is_not_ready_when_its_journal_is_not(case: Case) -> None:
    """So that a balancer asks another one. For a server that only delivers this does not matter."""
    case.journal.refusing = "no broker replies"
    async with case.running(RECEIVE) as receiver, case.running(deliver()) as deliverer:
        assert (await receiver.get("/readyz"))[0] == 503
        assert (await deliverer.get("/readyz"))[0] == 200


async def test_a_deliverer_receives_nothing(case: Case) -> None:
    """It delivers from all partitions: to one object of a sink, or to one a partition if the sink keeps a state."""
    async with case.running(deliver()) as deliverer:
        assert "port" not in deliverer.listening
        assert deliverer.server.receiver is None
        await case.append(20)
        await case.delivered()
        assert {path.name[: len("files-p0-one-")] for path in case.directory.iterdir()} == {
            f"files-p{partition}-one-" for partition in range(PARTITIONS)
        }
        ((part, fake),) = case.fakes
        delivered = dict.fromkeys(("files", "fake"), 20 * RECORDS)
        statuses = deliverer.server.deliveries.statuses
        await until_async(lambda: {name: each.delivered for name, each in statuses.items()} == delivered, "all is counted")
        assert (part, len(fake.opened_with), len(fake.bodies)) == ("", 1, 20 * RECORDS)
        shown = await deliverer.status()
        assert {name: sink["state"] for name, sink in shown["sinks"].items()} == {"files": "running", "fake": "running"}
        assert {name: sink["delivered"] for name, sink in shown["sinks"].items()} == delivered
        assert len(shown["sinks"]["files"]["positions"]) == PARTITIONS
        assert shown["ready"]
        assert len((await deliverer.get("/records?limit=5"))[1].splitlines()) > 0
    assert fake.closed == 1


async def test_halves_and_the_whole_work_together(case: Case) -> None:
    """What one of them takes, others deliver; `serve` does both."""
    async with case.running(RECEIVE) as receiver:
        for _ in range(5):
            case.posted += 1
            assert await receiver.post(posts.mixed(RECORDS, case.posted)) == 200
        async with case.running(SERVE) as whole:
            case.posted += 1
            assert await whole.post(posts.mixed(RECORDS, case.posted)) == 200
            await case.delivered()


async def test_a_deliverer_can_have_some_of_the_sinks(case: Case) -> None:
    """Also after a reload. One that is not configured is an error."""
    async with case.running(deliver(["fake"])) as deliverer:
        assert list((await deliverer.status())["sinks"]) == ["fake"]
        case.tables["sinks"]["more"] = case.tables["sinks"]["files"]
        assert await deliverer.reloader.reload() == []
        assert list((await deliverer.status())["sinks"]) == ["fake"]
    with pytest.raises(ConfigError, match=r"sinks\.flies: no such sink; the sinks are files, more, fake"):
        deliver(["flies"]).of(case.config())


async def test_a_reload_changes_a_half(case: Case) -> None:
    """A deliverer takes new sinks and another way to map; a receiver other limits, and it does not look at sinks."""
    async with case.running(deliver()) as deliverer, case.running(RECEIVE) as receiver:
        await case.append(5)
        await case.delivered()
        case.tables["record"] = {"attributes": {"site": "north"}}
        case.tables["sinks"]["more"] = {"type": "file", "directory": str(case.directory / "more")}
        case.tables["receiver"]["max_body"] = "1KiB"
        for each in (deliverer, receiver):
            assert await each.reloader.reload() == []
        assert await receiver.post(posts.mixed(500)) == 413
        assert list(deliverer.server.deliveries.statuses) == ["files", "fake", "more"]
        await case.append(5)
        await case.delivered()
        more = case.directory / "more"
        await until_async(lambda: len(list(more.glob("more-p*-one-*"))) == PARTITIONS, "the new sink has all partitions")
        assert '"site":"north"' in "".join(path.read_text("utf-8") for path in case.directory.glob("*.ndjson*"))


async def test_it_delivers_as_soon_as_the_journal_answers(case: Case) -> None:
    """Not before it is known which sinks are paused. Posts are taken meanwhile."""
    answers = case.journal.paused

    async def away() -> Mapping[str, int]:
        raise JournalUnavailable("no broker replies")

    case.journal.paused = away  # type: ignore[method-assign]
    await case.journal.open()
    await case.journal.pause("fake")
    async with case.running(SERVE) as whole:
        case.posted += 1
        assert await whole.post(posts.mixed(RECORDS, case.posted)) == 200
        assert (await whole.status())["sinks"] == {}
        case.journal.paused = answers  # type: ignore[method-assign]
        await case.delivered()
        statuses, expected = whole.server.deliveries.statuses, {"files": "running", "fake": "paused"}
        await until_async(
            lambda: {name: each.state for name, each in statuses.items()} == expected, "both are as they should"
        )
        assert {name: sink["state"] for name, sink in (await whole.status())["sinks"].items()} == expected


async def test_files_of_a_partition_that_another_process_has_are_finished(case: Case) -> None:
    """As far as they were saved."""
    async with case.running(deliver()):
        await case.append(20)
        await case.delivered()
    states = {key: state for key, (_, state) in case.journal.cursors.items() if state}
    outlets = type(case.journal.outlets("files"))

    async def left(self: object) -> Mapping[int, str]:
        return {partition: state for (sink, partition), state in states.items() if sink == "files" and partition}

    async def run(self: Any, begin: Any, end: Any) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outlets, "left", left)
        patch.setattr(outlets, "run", run)
        async with case.running(deliver()) as deliverer:
            await until_async(lambda: len(list(case.directory.glob("*.ndjson"))) == PARTITIONS - 1, "finished")
            assert deliverer.server.deliveries.statuses["files"].state == "idle"
    assert [path.name[:9] for path in case.directory.glob("*.open")] == ["files-p0-"]
    assert len(case.records()) == 20 * RECORDS


def test_sqlite_is_for_one_process() -> None:
    """It says which command is, and what to change for this one."""
    alone = config.parse({}, {})
    assert SERVE.of(alone) == alone
    for role in (RECEIVE, deliver()):
        with pytest.raises(ConfigError, match=rf"sqlite.*`btfeed serve`.*kafka.*`btfeed {role.command}`"):
            role.of(alone)


def test_a_receiver_needs_no_secrets_of_sinks(tmp_path: Path) -> None:
    """But what is wrong elsewhere is an error, and so is a table that does not exist."""
    path = tmp_path / "btfeed.toml"
    journal = '[journal]\ntype = "kafka"\nbootstrap_servers = "k:1"\n'
    path.write_text(f'{journal}[sinks.a]\ntype = "kafka"\nbootstrap_servers = "k:1"\nsecurity.password = "${{MISSING}}"\n')
    assert RECEIVE.of(config.load(path, {}, RECEIVE.tables)).sinks == {}
    path.write_text(f"{journal}[reciever]\n")
    with pytest.raises(ConfigError, match="reciever: unknown key; did you mean receiver"):
        config.load(path, {}, RECEIVE.tables)
