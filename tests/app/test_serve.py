"""The chain as a whole: the order in which parts start and stop, and what happens if one fails."""

import asyncio
import json
import os
import signal
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from btfeed import config, native
from btfeed.app import advice, deliveries, parts, reload, server
from btfeed.app import serve as app
from btfeed.config import Config
from btfeed.delivery.loop import Delivery
from btfeed.delivery.sink_config import CommonSettings, SinkConfig
from btfeed.faults import ConfigError
from btfeed.journal.base import JournalError
from btfeed.signals import HangUps
from sinks.base import SinkContext, SinkType, WriteResult
from sinks.batch import Batch
from sinks.settings import Settings
from tests.support import posts
from tests.support.harness import DEADLINE, until_async
from tests.support.ports import free_port


class FakeSink:
    """Keeps what it is given. Writes wait while `gate` is closed."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.writing = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.closed = False

    async def open(self, state: str | None) -> None: ...

    async def check(self) -> None: ...

    async def write(self, batch: Batch) -> WriteResult:
        self.writing += 1
        await self.gate.wait()
        self.ids += batch.ids
        return WriteResult()

    async def close(self) -> None:
        self.closed = True


class Case:
    """`app.serve` in this process, with a fake sink."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sink = FakeSink()
        self.host = "127.0.0.1"
        self.port, self.admin_port = free_port(), free_port()
        self.directory = directory
        self.stop = asyncio.Event()
        capture = LogCapture()
        for module in (app, advice, deliveries, reload, server):
            monkeypatch.setattr(module, "log", structlog.wrap_logger(None, processors=[capture]))
        self.events = capture.entries

    def config(self, sinks: bool = True) -> Config:
        tables = {
            "receiver": {"listen": f"{self.host}:{self.port}"},
            "admin": {"listen": f"{self.host}:{self.admin_port}"},
            "journal": {"directory": str(self.directory)},
        }
        parsed = config.parse(tables, {})
        kind = SinkType(Settings, lambda settings, context: self.sink)
        found = {"fake": SinkConfig(CommonSettings(type="fake"), kind, Settings())} if sinks else {}
        return replace(parsed, sinks=found)

    def serve(self, grace: float = server.GRACE) -> "asyncio.Task[None]":
        return asyncio.create_task(app.serve(self.config(), self.stop, grace))

    async def listening(self) -> None:
        await until_async(lambda: "listening" in self.told(), "listening")

    def told(self) -> list[str]:
        return [entry["event"] for entry in self.events]

    async def post(self, body: bytes) -> int:
        def run() -> int:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", body, timeout=DEADLINE) as answer:
                return int(answer.status)

        return await asyncio.to_thread(run)

    async def status(self) -> dict[str, Any]:
        def run() -> dict[str, Any]:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/status", timeout=DEADLINE) as answer:
                return dict(json.load(answer))

        return await asyncio.to_thread(run)


@contextmanager
def hang_ups() -> Iterator[HangUps]:
    """SIGHUP as `btfeed serve` handles it."""
    before = signal.getsignal(signal.SIGHUP)
    found = HangUps()
    found.catch()
    try:
        yield found
    finally:
        signal.signal(signal.SIGHUP, before)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(tmp_path, monkeypatch)


async def test_a_post_comes_out_at_the_sink(case: Case) -> None:
    """A stop releases the ports and closes the sink."""
    serving = case.serve()
    await case.listening()
    assert await case.post(posts.mixed(5)) == 200
    await until_async(lambda: len(case.sink.ids) == 5, "delivered")
    case.stop.set()
    await serving
    assert case.sink.closed
    assert is_free(case.port)
    assert is_free(case.admin_port)


async def test_a_write_in_progress_is_finished_and_its_cursor_saved(case: Case) -> None:
    """After the next start, nothing is delivered again that the sink has taken."""
    case.sink.gate.clear()
    serving = case.serve()
    await case.listening()
    await case.post(posts.mixed(5))
    await until_async(lambda: case.sink.writing, "a write is in progress")
    case.stop.set()
    await until_async(lambda: "stopping" in case.told(), "stopping")
    case.sink.gate.set()
    await serving
    case.stop.clear()
    case.events.clear()
    again = case.serve()
    await case.listening()
    assert (await case.status())["sinks"]["fake"]["backlog_posts"] == 0
    case.stop.set()
    await again
    assert len(case.sink.ids) == 5


async def test_posts_are_taken_until_the_deliveries_have_stopped(case: Case) -> None:
    """/readyz says at once that the server is shutting down. What it takes then is delivered after the next start."""
    case.sink.gate.clear()
    serving = case.serve()
    await case.listening()
    await case.post(posts.mixed(5))
    await until_async(lambda: case.sink.writing, "a write is in progress")
    case.stop.set()
    await until_async(lambda: "stopping" in case.told(), "stopping")
    assert (await case.status())["refusing"] == "shutting down"
    assert await case.post(posts.mixed(3, seed=1)) == 200
    case.sink.gate.set()
    await serving
    assert len(case.sink.ids) == 5
    case.stop.clear()
    again = case.serve()
    await until_async(lambda: len(case.sink.ids) == 8, "the other post is delivered")
    case.stop.set()
    await again


async def test_a_write_that_does_not_end_is_cancelled_and_delivered_again(case: Case) -> None:
    """The stop takes no longer than its grace, and says what was left."""
    case.sink.gate.clear()
    serving = case.serve(grace=0.05)
    await case.listening()
    await case.post(posts.mixed(5))
    await until_async(lambda: case.sink.writing, "a write is in progress")
    case.stop.set()
    await serving
    assert case.sink.ids == []
    assert "write cut off after its grace, its records may be delivered again" in case.told()
    case.sink.gate.set()
    case.stop.clear()
    again = case.serve()
    await until_async(lambda: len(case.sink.ids) == 5, "delivered after all")
    case.stop.set()
    await again


async def test_a_delivery_that_fails_stops_the_server(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopping is better than taking posts that one sink will not get."""

    async def fail(delivery: Delivery) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Delivery, "run", fail)
    with pytest.raises(ZeroDivisionError):
        await app.serve(case.config(), case.stop)
    assert "delivery failed" in case.told()
    assert is_free(case.port)


@pytest.mark.parametrize("which", ["port", "admin_port"])
async def test_what_was_started_is_stopped_if_a_port_is_taken(case: Case, which: str) -> None:
    """The journal is closed too: once the port is free, the next start works."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", getattr(case, which)))
        other.listen()
        setting = {"port": "receiver.listen", "admin_port": "admin.listen"}[which]
        with pytest.raises(OSError, match=f"{setting}: can't listen on .* in use by process {os.getpid()} "):
            await app.serve(case.config(), case.stop)
        assert case.told() == []
    serving = case.serve()
    await case.listening()
    case.stop.set()
    await serving


async def test_listening_says_what_runs_where(case: Case) -> None:
    """The version and the code that maps posts, so that a log tells them after an upgrade."""
    serving = case.serve()
    await case.listening()
    (line,) = [entry for entry in case.events if entry["event"] == "listening"]
    assert (line["host"], line["port"], line["admin_port"]) == (case.host, case.port, case.admin_port)
    assert (line["version"], line["mapping"]) == (version("btfeed"), native.PATH)
    assert (line["role"], "instance" in line) == ("serve", False)
    case.stop.set()
    await serving


async def test_the_receiver_and_the_admin_listener_need_two_ports(case: Case) -> None:
    """The error names both settings. Nothing was started."""
    case.admin_port = case.port
    with pytest.raises(OSError, match=rf"receiver.listen and admin.listen both need 127.0.0.1:{case.port}: choose another"):
        await app.serve(case.config(), case.stop)
    assert list(case.directory.iterdir()) == []


async def test_listening_for_other_machines_without_credentials_is_logged(case: Case) -> None:
    """For the receiver and the admin listener. It is not for a receiver that asks for credentials."""
    case.host = "0.0.0.0"
    serving = case.serve()
    await case.listening()
    warned = "other machines can connect, without credentials"
    await until_async(lambda: case.told().count(warned) == 2, "both warned of")
    found = {entry["setting"]: entry for entry in case.events if entry["event"] == warned}
    assert {entry["log_level"] for entry in found.values()} == {"warning"}
    assert found["receiver.listen"]["hint"].startswith("set basic_auth, bearer_tokens or tls.client_ca")
    assert found["admin.listen"]["hint"].startswith("set admin.token")
    case.stop.set()
    await serving


async def test_two_servers_on_one_journal_are_refused(case: Case) -> None:
    """The second says so and changes nothing."""
    serving = case.serve()
    await case.listening()
    with pytest.raises(JournalError, match="in use by another btfeed"):
        await app.serve(case.config(), asyncio.Event())
    assert await case.post(posts.mixed(1)) == 200
    case.stop.set()
    await serving


async def test_a_server_without_sinks_says_so_and_takes_posts(case: Case) -> None:
    """They are kept for their retention, for a sink that is configured later."""
    serving = asyncio.create_task(app.serve(case.config(sinks=False), case.stop))
    await case.listening()
    assert await case.post(posts.mixed(5)) == 200
    assert "no sinks configured: posts are kept for their retention, and not delivered" in case.told()
    case.stop.set()
    await serving
    case.stop.clear()
    again = case.serve()
    await until_async(lambda: len(case.sink.ids) == 5, "delivered to the sink that is new")
    case.stop.set()
    await again


async def test_each_sighup_reloads_the_configuration(case: Case) -> None:
    """Also one that came before the server had started. What is wrong is told, and the server goes on."""
    loaded: list[Config] = []

    def load() -> Config:
        loaded.append(case.config())
        if len(loaded) == 2:
            raise ConfigError(["receiver.path: is wrong"])
        return loaded[-1]

    with hang_ups() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        serving = asyncio.create_task(app.serve(case.config(), case.stop, load=load, hang_ups=signals))
        await until_async(lambda: len(loaded) == 1, "loaded after the start")
        await until_async(lambda: case.told().count("configuration reloaded") == 1, "reloaded")
        os.kill(os.getpid(), signal.SIGHUP)
        await until_async(lambda: case.told().count("configuration not reloaded, btfeed goes on as before") == 1, "refused")
        assert await case.post(posts.mixed(3)) == 200
        os.kill(os.getpid(), signal.SIGHUP)
        await until_async(lambda: case.told().count("configuration reloaded") == 2, "reloaded")
        await until_async(lambda: len(case.sink.ids) == 3, "delivered")
        case.stop.set()
        os.kill(os.getpid(), signal.SIGHUP)  # changes nothing any more
        await serving
        os.kill(os.getpid(), signal.SIGHUP)


async def test_sighups_during_a_reload_cause_one_more(case: Case) -> None:
    """However many they are: it reads what they were sent for."""
    loads, go_on = 0, threading.Event()

    def load() -> Config:
        nonlocal loads
        loads += 1
        assert go_on.wait(DEADLINE)
        return case.config()

    with hang_ups() as signals:
        serving = asyncio.create_task(app.serve(case.config(), case.stop, load=load, hang_ups=signals))
        await case.listening()
        os.kill(os.getpid(), signal.SIGHUP)
        await until_async(lambda: loads == 1, "loading")
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        go_on.set()
        await until_async(lambda: case.told().count("configuration reloaded") == 2, "reloaded twice")
        case.stop.set()
        await serving
    assert loads == 2


async def test_a_stop_does_not_wait_for_a_reload(case: Case) -> None:
    """Whatever the reload was doing, everything is stopped in order."""
    case.sink.gate.clear()
    with hang_ups() as signals:
        serving = asyncio.create_task(
            app.serve(case.config(), case.stop, grace=DEADLINE, load=case.config, hang_ups=signals)
        )
        await case.listening()
        await case.post(posts.mixed(3))
        await until_async(lambda: case.sink.writing, "a write is in progress")
        os.kill(os.getpid(), signal.SIGHUP)
        await until_async(lambda: "reloading the configuration" in case.told(), "reloading")
        case.stop.set()
        await until_async(lambda: "stopping" in case.told(), "stopping")
        case.sink.gate.set()
        await serving
    assert case.told()[-1] == "stopped"
    assert len(case.sink.ids) == 3
    assert is_free(case.port)


def test_a_sink_gets_its_name_and_every_field(case: Case) -> None:
    """They are what an Avro schema and the like are made from."""
    told: list[SinkContext] = []
    create: Callable[..., Any] = lambda settings, context: told.append(context)  # noqa: E731
    parts.create_sink("archive", SinkConfig(CommonSettings(type="x"), SinkType(Settings, create), Settings()))
    (context,) = told
    assert context.name == "archive"
    assert {"event.id", "timestamp", "duration", "url.query"} <= {field.name for field in context.fields}
    assert [field.name for field in context.maps] == ["appmon.measure.", "appmon.dimension."]
