"""Secrets show nowhere, whatever fails: not in logs at DEBUG, tracebacks, /status, /metrics, commands or the journal."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

import sinks
from btfeed.app.reload import NOT_RELOADED
from btfeed.config.effective import toml_lines
from btfeed.config.keys import in_toml, is_secret, keys
from btfeed.config.loading import Sections
from sinks.settings import Settings
from tests.servers.echo import EchoServer
from tests.support import posts
from tests.support.harness import DEADLINE, Server, until
from tests.support.secrets import OTHERS, SINKS, assert_hidden, at, secrets_in

PROGRAM = """
import sys
import sinks

for name in sinks.types():
    kind = sinks.load(name).create
    original = kind.__init__
    def init(self, settings, context, original=original):
        original(self, settings, context)
        if context.name.startswith("bug"):
            async def open_with_bug(state):
                local = settings
                raise RuntimeError(f"a bug with {settings!r}, {settings}, {vars(self)!r}")
            self.open = open_with_bug
    kind.__init__ = init

from btfeed.commands.main import cli
cli([*sys.argv[1:], *(["--log-level", "DEBUG"] if sys.argv[1] == "serve" else [])], prog_name="btfeed")
"""
"""btfeed at DEBUG. To open a sink whose name begins with `bug` raises an unexpected error that shows its settings."""


@pytest.fixture
def refusing() -> Iterator[str]:
    """An address where nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield "{}:{}".format(*bound.getsockname())


@pytest.fixture
def hanging_up() -> Iterator[str]:
    """A server that reads what it is sent, sends it back, and hangs up."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        connection.sendall(connection.recv(65536))

        threading.Thread(target=serve, daemon=True).start()
        yield "{}:{}".format(*server.getsockname())
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


class Planted:
    """Tables with references in place of the secrets, and what the references stand for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.environment = {"CREDENTIALS_DIRECTORY": str(directory)}
        directory.mkdir()

    def referring(self, value: Any) -> Any:
        """`value` with each of the forms in turn."""
        if isinstance(value, dict):
            return {key: self.referring(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.referring(item) for item in value]
        if not isinstance(value, str) or "SECRET" not in value:
            return value
        name = f"NAME_{len(self.environment)}"
        self.environment[name] = value
        (self._directory / name).write_text(f"{value}\n")
        forms = (f"${{{name}}}", f"${{{name}:-none}}", f"${{file:{self._directory / name}}}", f"${{credential:{name}}}")
        return forms[len(self.environment) % len(forms)]


def request(url: str, body: bytes | None = None, authorization: str = "") -> str:
    """The answer, whatever its status is."""
    asked = urllib.request.Request(url, body, {"Authorization": authorization} if authorization else {})
    try:
        with urllib.request.urlopen(asked, timeout=DEADLINE) as answer:
            text: str = answer.read().decode()
    except urllib.error.HTTPError as error:
        text = error.read().decode()
    return text


def secret_keys(model: type[Settings], path: str) -> Iterator[str]:
    for key in keys(model):
        if key.table:
            yield from secret_keys(key.table, f"{path}.{key.name}")
        elif is_secret(key.hint):
            yield f"{path}.{key.name}"


def planted_keys(table: Any, path: str) -> Iterator[str]:
    if isinstance(table, dict):
        for key, value in table.items():
            yield from planted_keys(value, f"{path}.{key}")
    elif any(secrets_in(table)):
        yield path


def test_a_secret_is_planted_in_every_key_that_holds_one() -> None:
    """Of every table and every type of sink: a new key of a secret fails here until it is planted."""
    planted = set(planted_keys(OTHERS, ""))
    for table in SINKS.values():
        planted |= set(planted_keys(table, table["type"]))
    expected = set(secret_keys(Sections, ""))
    for name in sinks.types():
        expected |= set(secret_keys(sinks.load(name).settings, name))
    assert {key for key in expected if any(f"{each}.".startswith(f"{key}.") for each in planted)} == expected
    assert all(any(f"{each}.".startswith(f"{key}.") for key in expected) for each in planted)


@pytest.mark.slow
def test_secrets_show_nowhere(tmp_path: Path, refusing: str, hanging_up: str) -> None:
    """With a sink of every kind at a server that repeats its requests, at one that hangs up, at none, and with a bug."""
    planted = Planted(tmp_path / "secrets")
    with EchoServer() as echo:
        places = {"echo": echo.address, "hang": hanging_up, "refuse": refusing, "bug": refusing}
        tables = {
            f"{place} {name}": planted.referring(at(table, address))
            for place, address in places.items()
            for name, table in SINKS.items()
        }
        others = planted.referring(at(OTHERS, echo.address))
        server = Server(
            tmp_path / "server",
            "\n".join(toml_lines({"sinks": tables} | {name: others[name] for name in ("record", "opentelemetry")})),
            receiver=lines(others["receiver"]),
            admin=lines(others["admin"]),
            program=[sys.executable, "-c", PROGRAM],
            environment=planted.environment,
        )
        with server:
            shown = [*use(server, len(tables))]
            shown += [command(server, planted, *arguments) for arguments in COMMANDS]
            shown.append(reload_with_errors(server))
    log = server.log()
    assert echo.requests > 10
    assert log.count("bug in the sink") >= len(SINKS)
    assert "Traceback" in log
    files = [path for path in server.directory.rglob("*") if path.is_file()]
    assert any(path.is_relative_to(server.directory / "journal") for path in files)
    content = b"".join(path.read_bytes() for path in files).decode(errors="replace")
    assert_hidden([OTHERS, *SINKS.values()], log, *shown, content)


def lines(table: dict[str, Any]) -> str:
    return "\n".join(f"{key} = {in_toml(value)}" for key, value in table.items())


def use(server: Server, number: int) -> Iterator[str]:
    """Post and ask, with and without credentials, until every sink has failed. What is answered, and the whole /status."""
    basic = base64.b64encode(b"u:SECRET-receiver").decode()
    for authorization in (f"Basic {basic}", "Bearer SECRET-one", "Bearer SECRET-wrong", "Basic SECRET-wrong", ""):
        for body in (posts.sample_purepath(), b"\x0a\xff\xff\xff"):
            yield request(server.url, body, authorization)

    def failed() -> str | None:
        text = request(f"{server.admin_url}/status", authorization="Bearer SECRET-admin")
        return text if sum(bool(sink["last_error"]) for sink in json.loads(text)["sinks"].values()) == number else None

    yield until(failed, "every sink has failed")
    for path in ("/metrics", "/status", "/", "/healthz", "/readyz", "/none"):
        for authorization in ("Bearer SECRET-admin", "Bearer SECRET-wrong", ""):
            yield request(server.admin_url + path, authorization=authorization)


def reload_with_errors(server: Server) -> str:
    """Load a configuration with secrets in wrong places. What /status says then."""
    with server.config.open("a") as file:
        file.write('\n[sinks.wrong]\ntype = "${NAME_1}"\n[sinks.worse]\ntype = "kafka"\nbootstrap_servers = "${NAME_2}"\n')
    os.kill(server.pid, signal.SIGHUP)
    until(lambda: NOT_RELOADED in server.log(), "the reload has failed")
    text = request(f"{server.admin_url}/status", authorization="Bearer SECRET-admin")
    assert "unknown sink type" in server.log()
    return text


COMMANDS = (["check"], ["config", "show", "--json"], ["dead-letters", "export"])


def command(server: Server, planted: Planted, *arguments: str) -> str:
    """What the command prints, with the secrets in its environment."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments, "-c", str(server.config)],
        env=os.environ | planted.environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert run.returncode in (0, 1), run.stderr
    return run.stdout + run.stderr
