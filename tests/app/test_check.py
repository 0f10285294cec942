"""What `btfeed check` finds: whatever would keep `serve` from starting, and what is probably not meant."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from btfeed import config
from btfeed.app.check import Check, check
from btfeed.app.in_use import Holder
from btfeed.app.roles import BY_COMMAND
from btfeed.app.serve import serve
from btfeed.config import Config
from btfeed.delivery.sink_config import CommonSettings, SinkConfig
from btfeed.journal.base import JournalError
from sinks.base import SinkType
from sinks.settings import Settings
from tests.journal.journals import journal
from tests.support.harness import DEADLINE
from tests.support.held import keeping

FREE = "127.0.0.1:0"


def configured(directory: Path, **tables: dict[str, Any]) -> Config:
    """A configuration with everything in `directory`, on free ports, changed by `tables`."""
    given = {"receiver": {"listen": FREE}, "admin": {"listen": FREE}, "journal": {"directory": str(directory / "journal")}}
    sinks = {"files": {"type": "file", "directory": str(directory / "files")}}
    merged = {name: given.get(name, {}) | tables.get(name, {}) for name in (*given, "record")}
    others = {name: table for name, table in tables.items() if name not in merged}
    return config.parse({"sinks": sinks} | merged | others, {})


async def found(parsed: Config, verdict: str = "failed") -> dict[str, str]:
    """What the check says with this verdict, by the path in the configuration."""
    checks = await check(parsed)
    return {
        each.path: each.failure or each.what for each in checks if ("failed" if each.failure else each.verdict) == verdict
    }


async def starts(parsed: Config) -> bool:
    """Whether a server starts. It is stopped at once."""
    stop = asyncio.Event()
    stop.set()
    try:
        async with asyncio.timeout(DEADLINE):
            await serve(parsed, stop)
    except (JournalError, OSError):
        return False
    return True


def content(directory: Path) -> list[Path]:
    return list(directory.iterdir())


@contextmanager
def taken_port() -> Iterator[str]:
    """An address that another program listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield "{}:{}".format(*other.getsockname())


async def test_each_check_is_listed(tmp_path: Path) -> None:
    """In the order of the configuration."""
    assert await check(configured(tmp_path)) == [
        Check("journal.directory", f"{tmp_path / 'journal'} can be written"),
        Check("receiver.listen", f"{FREE} is free"),
        Check("admin.listen", f"{FREE} is free"),
        Check("sinks.files", "a file sink that could open"),
    ]


async def test_a_missing_secret_hides_nothing_else(tmp_path: Path) -> None:
    """Neither a port that is taken, nor TLS that can't be used, of the same listener."""
    with taken_port() as one, taken_port() as other:
        receiver = {"listen": one, "bearer_tokens": ["${NONE}"], "tls": {"certificate": "none", "key": "none"}}
        tables = {"receiver": receiver, "admin": {"listen": other, "token": "${NONE}"}, "sinks": {}}
        tables["journal"] = {"directory": str(tmp_path / "journal")}
        failed = await found(config.parse(tables, {}, tolerant=True))
    assert failed.keys() == {
        "receiver.bearer_tokens.0", "receiver.listen", "receiver.tls", "admin.token", "admin.listen",
    }  # fmt: skip


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """A check run as root leaves no directory that the server could not write. What is checked can be started."""
    parsed = configured(tmp_path)
    await check(parsed)
    assert content(tmp_path) == []
    assert await starts(parsed)


async def test_sinks_are_asked_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The results come in the order of the configuration."""
    everyone = asyncio.Barrier(4)

    async def check_sink(name: str, config: SinkConfig, owner: str) -> None:
        await everyone.wait()

    monkeypatch.setattr("btfeed.app.check._check_sink", check_sink)
    sinks = {name: {"type": "file", "directory": str(tmp_path / name)} for name in "dbca"}
    async with asyncio.timeout(DEADLINE):
        results = await check(config.parse({"sinks": sinks, "receiver": {"listen": FREE}, "admin": {"listen": FREE}}, {}))
    assert [each.path for each in results if each.path.startswith("sinks.")] == [f"sinks.{name}" for name in "dbca"]


@pytest.mark.parametrize(
    ("tables", "path", "failure"),
    [
        ({"receiver": {"listen": "TAKEN"}}, "receiver.listen", "can't listen on TAKEN: it is in use by process"),
        ({"admin": {"listen": "TAKEN"}}, "admin.listen", "can't listen on TAKEN: it is in use by process"),
        (
            {"receiver": {"listen": "192.0.2.1:4321"}},
            "receiver.listen",
            "can't listen on 192.0.2.1:4321: it is not an address",
        ),
        (
            {"journal": {"directory": "DIRECTORY/dangling"}},
            "journal.directory",
            "can't use DIRECTORY/dangling: DIRECTORY/dan",
        ),
        ({"journal": {"directory": "DIRECTORY/loop/x"}}, "journal.directory", "can't use DIRECTORY/loop/x: DIRECTORY/loop"),
        (
            {"journal": {"directory": "DIRECTORY/file"}},
            "journal.directory",
            "can't use DIRECTORY/file: DIRECTORY/file: Not a dir",
        ),
        (
            {"receiver": {"tls": {"certificate": "DIRECTORY/file", "key": "DIRECTORY/file"}}},
            "receiver.tls",
            "certificate DIRECTORY/file: there is no certificate in PEM format in it",
        ),
    ],
)
async def test_what_would_keep_it_from_starting_is_found(
    tmp_path: Path, tables: dict[str, Any], path: str, failure: str
) -> None:
    """The server does not start either."""
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    with taken_port() as taken:

        def filled(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: filled(each) for key, each in value.items()}
            return value.replace("TAKEN", taken).replace("DIRECTORY", str(tmp_path))

        parsed = configured(tmp_path, **filled(tables))
        failures = await found(parsed)
        assert list(failures) == [path]
        assert failures[path].startswith(filled(failure))
        assert not await starts(parsed)


async def test_one_port_for_both_listeners_is_found(tmp_path: Path) -> None:
    """Also if the hosts are written differently. Two addresses with the same port are fine."""
    with taken_port() as taken:
        port = taken.rpartition(":")[2]
    for other in ("127.0.0.1", "localhost", "0.0.0.0"):
        parsed = configured(tmp_path, receiver={"listen": f"127.0.0.1:{port}"}, admin={"listen": f"{other}:{port}"})
        assert await found(parsed) == {
            "admin.listen": f"receiver.listen and admin.listen both need {other}:{port}: choose another port for one"
        }
        assert not await starts(parsed)
    parsed = configured(tmp_path, receiver={"listen": f"127.0.0.1:{port}"}, admin={"listen": f"127.0.0.2:{port}"})
    assert await found(parsed) == {}
    assert await starts(parsed)


async def test_a_running_server_is_no_failure(tmp_path: Path) -> None:
    """Before an upgrade, the new version checks the configuration that the old one runs with. The server goes on."""
    async with journal(tmp_path / "journal") as running:
        with taken_port() as taken:
            parsed = configured(tmp_path, receiver={"listen": taken})
            assert await found(parsed) == {}
            assert await found(parsed, "in use") == {
                "journal.directory": "by a btfeed that is running",
                "receiver.listen": f"{taken}, probably by that btfeed",
            }
        assert running.refusing is None


@pytest.mark.parametrize(("running", "verdict"), [("deliver", "in use"), ("serve", "ok")])
async def test_a_running_deliverer_is_no_failure(monkeypatch: pytest.MonkeyPatch, running: str, verdict: str) -> None:
    """Its journal in Kafka is not its own, so that only its port tells that it is running."""
    holder = Holder(1, f"btfeed {running}", keeps=False)
    monkeypatch.setattr("btfeed.app.check.holder_of", lambda port: holder)
    tables = {"journal": {"type": "kafka", "bootstrap_servers": "127.0.0.1:1", "request_timeout": "100ms"}}
    with taken_port() as taken:
        parsed = config.parse(tables | {"sinks": {}, "admin": {"listen": taken}}, {})
        (told,) = [each for each in await check(parsed, BY_COMMAND["deliver"]) if each.path == "admin.listen"]
    assert told.verdict == verdict
    assert bool(told.failure) == (verdict == "ok")


@pytest.mark.parametrize("name", ["systemd", "supervisor"])
async def test_a_port_that_is_held_for_the_server_is_no_failure(tmp_path: Path, name: str) -> None:
    """Although no server is running: posts may wait in it for the next one."""
    with socket.create_server(("127.0.0.1", 0)) as taken, keeping(tmp_path, name, taken) as pid:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        parsed = configured(tmp_path, receiver={"listen": address})
        (told,) = (await found(parsed, "in use")).values()
        assert told.startswith(f"{address}, held for a server that is running, by process {pid} (")  # this one
        taken.close()
        assert await found(parsed) == {}
        (told,) = (await found(parsed, "in use")).values()
        assert told.startswith(f"{address}, held for a server that is not running, by process {pid} (")


async def test_a_configuration_without_sinks_is_a_warning(tmp_path: Path) -> None:
    """Nothing would be delivered."""
    parsed = configured(tmp_path, sinks={})
    assert list(await found(parsed, "warning")) == ["sinks"]
    assert await found(parsed) == {}


async def test_listening_for_other_machines_without_credentials_is_a_warning(tmp_path: Path) -> None:
    """Any credentials will do for the receiver, and a token for the admin listener."""
    everywhere = {"listen": "0.0.0.0:0"}
    tls = {"certificate": "server.pem", "key": "server.key"}
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["receiver.listen"]),
        ({"tls": tls}, ["receiver.listen"]),
        ({"tls": tls | {"client_ca": "ca.pem"}}, []),
        ({"basic_auth": {"username": "u", "password": "p"}}, []),
        ({"bearer_tokens": ["t"]}, []),
    ]
    for more, expected in cases:
        assert list(await found(configured(tmp_path, receiver=everywhere | more), "warning")) == expected
    warnings = await found(configured(tmp_path, admin=everywhere), "warning")
    assert list(warnings) == ["admin.listen"]
    assert warnings["admin.listen"].startswith("other machines can connect, without credentials: set admin.token")
    assert await found(configured(tmp_path, admin=everywhere | {"token": "t"}), "warning") == {}


@pytest.mark.slow
async def test_a_damaged_journal_is_a_warning(tmp_path: Path) -> None:
    """It does not keep the server from starting."""
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "journal.db").write_bytes(b"damaged")
    parsed = configured(tmp_path)
    warnings = {"journal.directory": "the journal's file is damaged; a start copies what can be read to a new file"}
    assert await found(parsed, "warning") == warnings
    assert await starts(parsed)


async def test_a_bug_in_a_sink_does_not_stop_the_check(tmp_path: Path) -> None:
    """It is reported as a bug, and the sink is closed."""
    closed = []

    class Broken:
        async def check(self) -> None:
            raise ZeroDivisionError("oh")

        async def close(self) -> None:
            closed.append(self)

    parsed = configured(tmp_path)
    kind = SinkType(Settings, lambda settings, context: Broken())  # type: ignore[arg-type]
    parsed.sinks["broken"] = SinkConfig(CommonSettings(type="broken"), kind, Settings())
    assert await found(parsed) == {"sinks.broken": "a bug: ZeroDivisionError('oh')"}
    assert len(closed) == 1
