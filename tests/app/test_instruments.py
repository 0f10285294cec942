"""OpenTelemetry in a server: not at all unless enabled, and a clear message if it can't run."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from btfeed import config
from btfeed.app.check import Check, check
from btfeed.app.instruments import Instruments, create_instruments
from btfeed.app.server import Server
from btfeed.receiving.receiver import Receiver
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.opentelemetry.packages import MissingPackages
from btfeed.telemetry.opentelemetry.settings import OpenTelemetrySettings
from tests.app.test_check import configured
from tests.app.test_serve import FakeSink
from tests.support.collector import Collector
from tests.support.ports import free_port

PROGRAM = """
import asyncio, sys
from btfeed import config
from btfeed.app.check import check
from btfeed.app.server import Server
from btfeed.commands import main

async def run():
    parsed = config.parse({tables!r}, {{}})
    await check(parsed)
    server = Server(parsed)
    await server.start()
    await server.stop()

asyncio.run(run())
print(sorted(name for name in sys.modules if name.partition(".")[0] in ("opentelemetry", "requests")))
"""


def test_nothing_of_opentelemetry_is_imported_unless_enabled(tmp_path: Path) -> None:
    """Neither by a server nor by a check."""
    free = {"listen": "127.0.0.1:0"}
    tables: dict[str, dict[str, Any]] = {
        "receiver": free,
        "admin": free,
        "journal": {"directory": str(tmp_path / "journal")},
    }
    tables["sinks"] = {"files": {"type": "file", "directory": str(tmp_path / "files")}}
    program = PROGRAM.format(tables=tables)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("table", [{}, {"opentelemetry": {"enabled": True, "traces": 0}}])
async def test_without_traces_the_parts_are_the_plain_ones(tmp_path: Path, table: dict[str, dict[str, int]]) -> None:
    """Receiver, journal and sinks are the same objects as before, so that a post costs no more."""
    parsed = config.parse({"journal": {"directory": str(tmp_path)}} | table, {})
    server = Server(parsed)
    sink = FakeSink()
    assert type(server.receiver) is Receiver
    assert server.receiver._journal is server.journal
    assert server.instruments.sink("name", sink) is sink
    assert (type(server.instruments) is Instruments) == (not table)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs them."""
    monkeypatch.delitem(sys.modules, "btfeed.app.tracing", raising=False)
    monkeypatch.delitem(sys.modules, "btfeed.telemetry.opentelemetry.exporter", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    message = (
        "opentelemetry: a package that it needs is missing (opentelemetry.sdk.trace): "
        "install it with pip install 'btfeed[otel]'"
    )
    with pytest.raises(MissingPackages) as error:
        create_instruments(OpenTelemetrySettings(enabled=True), Metrics())
    assert str(error.value) == message


async def test_a_check_says_what_the_collector_says(tmp_path: Path) -> None:
    """One that is away is a warning: the server would start."""
    with Collector() as collector:
        parsed = configured(tmp_path, opentelemetry={"enabled": True, "endpoint": collector.url})
        assert Check("opentelemetry", "a collector that takes what it gets") in await check(parsed)
    away = configured(
        tmp_path, opentelemetry={"enabled": True, "endpoint": f"http://127.0.0.1:{free_port()}", "metrics_interval": "0s"}
    )
    (found,) = (each for each in await check(away) if each.path == "opentelemetry")
    assert found.verdict == "warning"
    assert found.failure is None
    assert found.what == "the collector takes no traces now: [Errno 111] Connection refused"


async def test_a_check_fails_if_packages_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server would not start."""
    monkeypatch.delitem(sys.modules, "btfeed.telemetry.opentelemetry.exporter", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    (found,) = (
        each for each in await check(configured(tmp_path, opentelemetry={"enabled": True})) if each.path == "opentelemetry"
    )
    assert found.failure
    assert found.failure.startswith("opentelemetry: a package that it needs is missing (opentelemetry.sdk.trace)")
