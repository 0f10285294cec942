"""What the service manager is told."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from btfeed import notify
from btfeed.app.notifier import Notifier
from btfeed.journal.base import JournalUnavailable
from tests.support.clock import FakeClock
from tests.support.harness import Server, until, until_async

WATCHDOG = 40.0


class Manager:
    """A service manager that listens at `address`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0"))
        self._socket.setblocking(False)
        self._told: list[str] = []

    def told(self) -> list[str]:
        """Everything so far."""
        try:
            while True:
                self._told.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return self._told

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@btfeed-test-{os.getpid()}"
    running = Manager(address)
    yield running
    running.close()


def environment(manager: Manager, pid: int | None = None) -> dict[str, str]:
    watchdog = {"WATCHDOG_USEC": str(int(WATCHDOG * 1e6)), "WATCHDOG_PID": str(pid or os.getpid())}
    return {"NOTIFY_SOCKET": manager.address, "OTHER": "1"} | watchdog


def test_states_are_told(manager: Manager) -> None:
    """At a path or an abstract address. No other process is told by a program that this one starts."""
    variables = environment(manager)
    notifier = Notifier(variables)
    assert variables == {"OTHER": "1"}
    notifier.ready("listening on 127.0.0.1:4321")
    with notifier.during_reload():
        pass
    notifier.stopping()
    ready, reloading, ready_again, stopping = manager.told()
    assert ready == ready_again == "READY=1\nSTATUS=listening on 127.0.0.1:4321"
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert stopping.startswith("STOPPING=1\n")


def test_without_a_service_manager_nothing_is_told() -> None:
    """And one that is gone is no error."""
    Notifier({}).ready("")
    Notifier({"NOTIFY_SOCKET": "/nowhere/notify"}).ready("")


async def test_the_watchdog_is_told_while_the_journal_answers(manager: Manager) -> None:
    """Twice in its time. An error is an answer. Nothing is told while there is none."""
    clock = FakeClock()
    notifier = Notifier(environment(manager), clock)
    answers = asyncio.Event()
    answers.set()
    asked = 0

    async def answer() -> None:
        nonlocal asked
        asked += 1
        await answers.wait()
        if asked == 2:
            raise JournalUnavailable("the disk failed")

    keeping = asyncio.create_task(notifier.keep_alive(answer))
    await until_async(lambda: len(manager.told()) == 1, "told at once")
    await clock.advance(WATCHDOG / 2)
    await until_async(lambda: len(manager.told()) == 2, "told again")
    answers.clear()
    await clock.advance(WATCHDOG / 2)
    await until_async(lambda: asked == 3, "asked")
    await clock.advance(WATCHDOG / 4)
    await until_async(lambda: asked == 4, "asked again")
    assert manager.told() == ["WATCHDOG=1"] * 2
    answers.set()
    await until_async(lambda: len(manager.told()) == 3, "told")
    keeping.cancel()


async def test_a_watchdog_of_another_process_is_not_told(manager: Manager) -> None:
    """WATCHDOG_PID says whose it is."""
    await Notifier(environment(manager, pid=1)).keep_alive(lambda: asyncio.sleep(0))
    assert manager.told() == []


def test_a_server_says_when_it_is_ready_and_when_it_stops(tmp_path: Path) -> None:
    """In this order, with the watchdog in between."""
    manager = Manager(str(tmp_path / "notify"))
    variables = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}
    with Server(tmp_path / "server", environment=variables) as server:
        until(lambda: manager.told().count("WATCHDOG=1") > 1, "the watchdog is told")
        assert f"READY=1\nSTATUS=listening on 127.0.0.1:{server.port}" in manager.told()
        assert server.stop() == 0
    assert any(message.startswith("STOPPING=1") for message in manager.told())
    manager.close()


@pytest.mark.parametrize("supervised", [True, False])
def test_a_manager_that_is_gone_is_reported_once(manager: Manager, supervised: bool) -> None:
    """Not before it is known to be gone: a supervisor that was killed is found by its pipe, and reported then."""
    variables = environment(manager) | ({notify.SUPERVISOR: "9"} if supervised else {})
    notifier = Notifier(variables)
    manager.close()
    with capture_logs() as logs:
        notifier.ready("listening")
    assert [line["event"] for line in logs] == ([] if supervised else ["can't notify the service manager"])
