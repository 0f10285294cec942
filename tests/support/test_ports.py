"""Ports for servers."""

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.support import ports
from tests.support.ports import free_port


def some(number: int) -> list[int]:
    return [free_port() for _ in range(number)]


def test_nobody_gets_the_same_port() -> None:
    """Neither in one process, nor in its forks, nor in others; and the kernel chooses none of them if there are others."""
    number = ports.BLOCK + 10
    own = some(number)
    with ProcessPoolExecutor(2, get_context("fork")) as forks, ProcessPoolExecutor(1, get_context("spawn")) as others:
        found = [*own, *(port for each in (*forks.map(some, [number] * 2), *others.map(some, [number])) for port in each)]
    assert len(set(found)) == len(found) == 4 * number
    lowest, highest = map(int, ports.KERNEL.read_text().split())
    assert lowest < ports.FIRST + 100 * ports.BLOCK or not any(lowest <= port <= highest for port in found)


def test_threads_may_ask_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those do in which several servers start."""

    def reserving() -> Iterator[int]:
        for port in range(ports.FIRST, ports.LAST):
            time.sleep(0.001)  # another thread asks meanwhile
            yield port

    monkeypatch.setattr(ports, "_ports", reserving)
    monkeypatch.setattr(ports, "_reserved", (0, iter(())))
    with ThreadPoolExecutor(4) as threads:
        found = [port for each in threads.map(some, [10] * 4) for port in each]
    assert len(set(found)) == 40


def test_a_kernel_that_chooses_from_all_ports_leaves_some(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They are taken from its own, then."""
    monkeypatch.setattr(ports, "KERNEL", tmp_path / "range")
    monkeypatch.setattr(ports, "_reserved", (0, iter(())))
    ports.KERNEL.write_text("1024\t65535\n")
    assert free_port() >= ports.FIRST


def test_a_port_that_is_taken_is_passed_over() -> None:
    """Whoever listens on it."""
    first = free_port()
    if (first + 1) % ports.BLOCK == ports.FIRST % ports.BLOCK:  # the last of its block
        first = free_port()
    with socket.create_server(("127.0.0.1", first + 1)):
        assert free_port() != first + 1
    assert os.getpid() == ports._reserved[0]
