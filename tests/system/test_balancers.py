"""Two receivers behind a real haproxy and a real nginx, with the configurations of deploy/, while a client posts that sends
nothing twice: each receiver is stopped and killed in turn, and every post is answered 200 and delivered."""

import asyncio
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from btfeed.posts.post import digest, event_id_prefix
from tests.servers import installed
from tests.servers.balancer import DEPLOY, Balancer
from tests.servers.haproxy import Haproxy
from tests.servers.nginx import Nginx
from tests.support.harness import Server, freeze, until, until_async
from tests.support.never_retries import OCCURRENCES, RATE, Client

BETWEEN = RATE // 4
"""Posts from one fault to the next."""


@pytest.fixture
def receivers(tmp_path: Path) -> Iterator[list[Server]]:
    """Two servers, each with its journal and its files, which listen on the same ports when they are started again."""
    servers = [Server(tmp_path / name).keep_ports() for name in ("one", "two")]
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.kill()


def haproxy(directory: Path, receivers: list[Server]) -> Balancer:
    ports = [(server.port, int(server.admin_url.rpartition(":")[2])) for server in receivers]
    return Haproxy(installed.haproxy(), directory, ports)


def nginx(directory: Path, receivers: list[Server]) -> Balancer:
    return Nginx(installed.nginx(), directory, [server.port for server in receivers])


async def kill_with_posts(server: Server, client: Client) -> None:
    """kill -9 when it has taken posts that it has not answered: it is stopped first, and these wait."""
    await asyncio.to_thread(freeze, server.pid, group=True)
    stopped = time.monotonic()
    await until_async(lambda: sum(post.began > stopped for post in client.open) >= 2, "posts that wait for an answer")
    await asyncio.to_thread(server.kill)


async def stop(server: Server, client: Client) -> None:
    assert await asyncio.to_thread(server.stop) == 0


@pytest.mark.parametrize(
    "start",
    [pytest.param(haproxy, marks=pytest.mark.haproxy), pytest.param(nginx, marks=pytest.mark.nginx)],
    ids=["haproxy", "nginx"],
)
async def test_receivers_that_stop_or_die_behind_a_balancer_lose_nothing(
    tmp_path: Path, receivers: list[Server], start: Callable[[Path, list[Server]], Balancer]
) -> None:
    """SIGTERM and kill -9 of each receiver in turn: every post is answered 200, and is in the files of one of them. Each
    kill meets posts that the receiver had not answered, which the other one got."""
    with start(tmp_path, receivers) as balancer:
        client = Client(balancer.port, seed=3)
        async with client.posting():
            for fault in (stop, kill_with_posts):
                for server in receivers:
                    await client.more_posts(BETWEEN)
                    before = balancer.asked_again()
                    await fault(server, client)
                    await client.more_posts(BETWEEN)
                    if fault is kill_with_posts:
                        await until_async(partial(_more_asked_again, balancer, before), "posts given to the other one")
                    await asyncio.to_thread(server.start)
            await client.more_posts(BETWEEN)
        assert client.failures == []
    expected = {f"{event_id_prefix(digest(body))}{each}" for body in client.answered for each in range(OCCURRENCES)}
    assert len(expected) >= 9 * BETWEEN * OCCURRENCES
    until(lambda: expected <= delivered(receivers), "everything delivered")


def _more_asked_again(balancer: Balancer, before: int) -> bool:
    return balancer.asked_again() > before


def delivered(receivers: list[Server]) -> set[str]:
    return {record["event.id"] for server in receivers for record in server.records()}


@pytest.mark.haproxy
def test_haproxy_takes_its_configuration_as_it_is() -> None:
    """The committed one, with nothing replaced, and without a warning."""
    command = [installed.haproxy(), "-c", "-f", str(DEPLOY / "haproxy.cfg")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "Configuration file is valid", "")


@pytest.mark.nginx
def test_nginx_takes_its_configuration_as_it_is(tmp_path: Path) -> None:
    """The committed one, with nothing replaced but its log and pid files, which only root may write."""
    text = (DEPLOY / "nginx.conf").read_text()
    for path in ("/run/nginx.pid", "/var/log/nginx/error.log", "/var/log/nginx/btfeed.log"):
        assert path in text
        text = text.replace(path, str(tmp_path / Path(path).name))
    (tmp_path / "nginx.conf").write_text(text)
    command = [installed.nginx(), "-t", "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error.log")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr
