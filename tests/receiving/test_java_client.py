"""The client that AppMon is believed to use: Java's HttpURLConnection."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from btfeed.http.connection import Connection
from tests.support.harness import Server
from tests.support.posts import SAMPLES, mixed
from tests.support.rawhttp import site

TESTS = Path(__file__).parents[1]
TIMEOUT = 120.0
"""Seconds for Java to start, compile and post. Passing tests take two."""


@pytest.fixture(scope="module")
def client(java: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs PostClient, compiled once."""
    classes = tmp_path_factory.mktemp("classes")
    subprocess.run([java / "javac", "-d", classes, TESTS / "java/PostClient.java"], check=True, timeout=TIMEOUT)
    return [str(java / "java"), "-cp", str(classes), "PostClient"]


def _post(client: list[str], url: str, credentials: str, *files: Path | str) -> list[int]:
    run = subprocess.run([*client, url, credentials, *map(str, files)], check=True, capture_output=True, timeout=TIMEOUT)
    statuses: list[int] = json.loads(run.stdout)
    return statuses


def _files(directory: Path, *bodies: bytes) -> list[Path]:
    paths = [directory / f"{number}.bin" for number in range(len(bodies))]
    for path, body in zip(paths, bodies, strict=True):
        path.write_bytes(body)
    return paths


def test_posts_arrive(tmp_path: Path, server: Server, client: list[str]) -> None:
    """Each post gets a 200 and becomes records. Connection tests between them leave nothing behind."""
    files = _files(tmp_path, *(sample() for sample in SAMPLES.values()), mixed(100))
    assert _post(client, server.url + "/", "-", "-", *files, "-") == [200] * 6
    assert len(server.delivered(103)) == 103
    assert server.status()["counts"]["posts"] == 4
    assert server.status()["counts"]["empty_requests"] == 2


async def test_one_connection_serves_many_posts(tmp_path: Path, client: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every response leaves it usable, also after a rejection."""
    accepted = []
    connection_made = Connection.connection_made

    def count(connection: Connection, transport: asyncio.BaseTransport) -> None:
        accepted.append(connection)
        connection_made(connection, transport)

    monkeypatch.setattr(Connection, "connection_made", count)
    good, bad = _files(tmp_path, mixed(10), b"no post")
    async with site(tmp_path / "journal") as running:
        url = f"http://127.0.0.1:{running.port}/"
        statuses = await asyncio.to_thread(_post, client, url, "-", good, "-", bad, good, bad, good)
        assert (statuses, len(accepted)) == ([200, 200, 400, 200, 400, 200], 1)
        assert running.posts() == [mixed(10)] * 3


def test_a_large_post_arrives(tmp_path: Path, server: Server, client: list[str]) -> None:
    """One longer than the 1 MiB that AppMon warns of."""
    (file,) = _files(tmp_path, mixed(20_000))
    assert file.stat().st_size > 2**21
    assert _post(client, server.url, "-", file, file) == [200, 200]
    assert server.status()["counts"]["received_occurrences"] == 40_000


def test_basic_auth_is_sent_at_once(tmp_path: Path, client: list[str]) -> None:
    """Right credentials get a 200 at once. Wrong or missing ones get a 401, which Java reports or can't retry."""
    files = _files(tmp_path, mixed(10), mixed(20))
    auth = 'basic_auth = { username = "appmon", password = "geh:eim" }\npath = "/bt"'
    with Server(tmp_path / "server", receiver=auth) as server:
        assert _post(client, server.url + "/bt", "appmon:geh:eim", *files) == [200, 200]
        assert server.status()["counts"]["refused_posts"] == {}
        assert set(_post(client, server.url + "/bt", "appmon:wrong", *files)) <= {401, -1}
        assert set(_post(client, server.url + "/bt", "-", *files)) <= {401, -1}
        assert _post(client, server.url + "/", "appmon:geh:eim", *files) == [404, 404]
        assert len(server.delivered(30)) == 30
