"""An upgrade and the way back, as docs/operations.md describes them, while a client posts that sends nothing twice.

The old version is the previous commit, in an environment of its own. A link leads to the version to start.
"""

import asyncio
import subprocess
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.environments import install, previous_sources
from tests.support.harness import DEADLINE, until
from tests.support.held import SupervisedServer, installed
from tests.support.never_retries import ANSWERED_WITHIN, Client
from tests.system.test_no_gap import assert_delivered_once, caught_up, tell

OLD, NEW = "0.0.1", version("btfeed")
ALONE = {"PYTHONPATH": ""}
"""For an environment that does not see this checkout."""


def switch(link: Path, environment: Path) -> None:
    """Let the link lead there, in one step."""
    new = link.with_name("new-link")
    new.symlink_to(environment)
    new.rename(link)


def check(environment: Path, server: SupervisedServer) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [environment / "bin" / "btfeed", "check", "-c", server.config],
        env=ALONE, capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip


@pytest.mark.slow
async def test_an_upgrade_and_the_way_back_lose_nothing(tmp_path: Path) -> None:
    """The other version checks the journal of the running one, then takes over from it. If the new one has changed the
    journal's layout, the old one says so when it checks, and there is no way back."""
    old, new, link = tmp_path / "old", tmp_path / "new", tmp_path / "current"
    commit = previous_sources(tmp_path / "old-sources")
    install(tmp_path / "old-sources", OLD, old)
    (new / "bin").mkdir(parents=True)
    installed(new / "bin" / "btfeed")
    switch(link, old)
    command = link / "bin" / "btfeed"
    with SupervisedServer(tmp_path / "server", command=command, environment=ALONE) as server:
        client = Client(server.port, seed=3)
        async with client.posting():
            await client.more_posts()
            assert server.status()["version"] == OLD
            for there, expected in ((new, NEW), (old, OLD)):
                checked = await asyncio.to_thread(check, there, server)
                if expected == OLD and "layout" in checked.stdout:
                    assert checked.returncode == 1
                    break
                assert checked.returncode == 0, checked.stdout + checked.stderr
                assert "journal.directory: in use" in checked.stdout
                await client.more_posts()
                switch(link, there)
                server.restart()
                await asyncio.to_thread(server.listening_again, len(server.pids) + 1)
                assert (await asyncio.to_thread(server.status))["version"] == expected
                await client.more_posts()
        tell(f"from {commit[:10] or 'the same commit'} and back", client)
        assert client.failures == []
        assert client.longest < ANSWERED_WITHIN
        await asyncio.to_thread(until, partial(caught_up, server), "everything delivered")
        assert server.stop() == 0
    assert_delivered_once(server, client)
