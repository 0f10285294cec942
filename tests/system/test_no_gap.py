"""Restarts while a client posts that sends nothing twice: no connection is refused, and no post is lost.

The listening socket is held by another process: the supervisor, or whatever stands for systemd here.
"""

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from btfeed.posts.post import digest, event_id_prefix
from tests.support.certificates import Authority
from tests.support.harness import freeze, until, until_async
from tests.support.held import ActivatedServer, HeldServer, SupervisedServer
from tests.support.never_retries import ANSWERED_WITHIN, KEPT, OCCURRENCES, Client


def caught_up(server: HeldServer) -> bool:
    return all(sink["backlog_posts"] == 0 for sink in server.status()["sinks"].values())


def assert_delivered_once(server: HeldServer, client: Client) -> None:
    """Each record of each answered post is in the files, and none is there twice."""
    found = Counter(record["event.id"] for record in server.records())
    assert [event_id for event_id, number in found.items() if number > 1] == []
    expected = {f"{event_id_prefix(digest(body))}{each}" for body in client.answered for each in range(OCCURRENCES)}
    assert expected <= found.keys()


def tell(what: str, client: Client) -> None:
    sys.stdout.write(f"{what}: {len(client.sent)} posts, the longest took {client.longest:.2f} s\n")


@pytest.mark.parametrize(
    ("kind", "secure", "restarts"),
    [
        pytest.param(SupervisedServer, False, 5, marks=pytest.mark.slow),
        pytest.param(SupervisedServer, False, 20, marks=pytest.mark.chaos),
        pytest.param(SupervisedServer, True, 2, marks=pytest.mark.slow),
        pytest.param(ActivatedServer, False, 2, marks=pytest.mark.slow),
        pytest.param(ActivatedServer, True, 1, marks=pytest.mark.slow),
    ],
    ids=["supervised", "supervised-often", "supervised-tls", "activated", "activated-tls"],
)
async def test_a_restart_refuses_and_loses_nothing(
    tmp_path: Path, kind: Callable[..., HeldServer], secure: bool, restarts: int
) -> None:
    """Every post is answered 200. Clients with kept connections are told to connect again."""
    receiver, tls = "", None
    if secure:
        authority = Authority(tmp_path / "authority")
        certificate, key = authority.sign("server")
        receiver, tls = f'tls = {{ certificate = "{certificate}", key = "{key}" }}', authority.client()
    with kind(tmp_path / "server", receiver=receiver) as server:
        client = Client(server.port, seed=1, tls=tls)
        async with client.posting():
            for restart in range(1, restarts + 1):
                await client.more_posts()
                await asyncio.to_thread(server.restart)
                await asyncio.to_thread(server.listening_again, restart + 1)
            await client.more_posts()
        tell(f"{restarts} restarts", client)
        assert client.failures == []
        assert client.closes >= restarts
        if kind is SupervisedServer:  # the next server is prepared when the old one stops
            assert client.longest < ANSWERED_WITHIN
        await asyncio.to_thread(until, partial(caught_up, server), "everything delivered")
        assert server.stop() == 0
    assert_delivered_once(server, client)


def all_since(client: Client, moment: float) -> bool:
    """Whether all open posts have begun since then."""
    return all(post.began > moment for post in client.open)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.chaos)])
async def test_kill_9_of_a_supervised_server_costs_what_it_was_serving(tmp_path: Path, kills: int) -> None:
    """Posts under way on accepted connections fail. A connection that is not accepted yet waits for the next server, and no
    connection is refused. What was answered 200 is delivered once."""
    with SupervisedServer(tmp_path / "server") as server:
        client = Client(server.port, seed=2)
        waited = []
        async with client.posting():
            for kill in range(1, kills + 1):
                await client.more_posts()
                pid = server.pids[-1]
                await asyncio.to_thread(freeze, pid)
                accepts_nothing = time.monotonic()
                await client.more_connections(10)
                os.kill(pid, signal.SIGKILL)
                killed = time.monotonic()
                waited.append((accepts_nothing, killed))
                await asyncio.to_thread(server.listening_again, kill + 1)
                await until_async(partial(all_since, client, killed), "what waited is answered")
            await client.more_posts()
        tell(f"{kills} kills", client)
        assert not any(isinstance(post.failure, ConnectionRefusedError) for post in client.failures)
        for begin, end in waited:
            meanwhile = [post for post in client.sent if begin < post.began < end and not post.kept]
            assert meanwhile, "nobody connected meanwhile"
            assert [post for post in meanwhile if post.failure] == []
        assert 0 < len([post for post in client.failures if post.kept]) <= kills * KEPT
        await asyncio.to_thread(until, partial(caught_up, server), "everything delivered")
        assert server.stop() == 0
    assert_delivered_once(server, client)
