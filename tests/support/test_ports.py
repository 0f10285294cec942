"""Ports for servers."""

import os
import socket
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.support import ports
from tests.support.ports import free_port


def some(number: int) -> list[int]:
    return [free_port() for _ in range(number)]


def test_nobody_gets_the_same_port() -> None:
    """Neither in one process, nor in its forks, nor in others; and the kernel chooses none of them."""
    number = ports.BLOCK + 10
    own = some(number)
    with ProcessPoolExecutor(2, get_context("fork")) as forks, ProcessPoolExecutor(1, get_context("spawn")) as others:
        found = [*own, *(port for each in (*forks.map(some, [number] * 2), *others.map(some, [number])) for port in each)]
    assert len(set(found)) == len(found) == 4 * number
    lowest, highest = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert not any(lowest <= port <= highest for port in found)


def test_a_port_that_is_taken_is_passed_over() -> None:
    """Whoever listens on it."""
    first = free_port()
    if (first + 1) % ports.BLOCK == ports.FIRST % ports.BLOCK:  # the last of its block
        first = free_port()
    with socket.create_server(("127.0.0.1", first + 1)):
        assert free_port() != first + 1
    assert os.getpid() == ports._reserved[0]
