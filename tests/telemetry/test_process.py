"""The metrics of the process."""

import os
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from btfeed.telemetry.process import Process

NAMES = ("cpu_seconds_total", "resident_memory_bytes", "virtual_memory_bytes", "open_fds", "max_fds", "start_time_seconds")


def test_it_needs_only_the_process_own_part_of_proc(tmp_path: Path) -> None:
    """The unit's sandbox hides the rest."""
    (tmp_path / "self").symlink_to(f"/proc/{os.getpid()}")
    registry = CollectorRegistry()
    Process(registry=registry, proc=str(tmp_path))
    values = {name: registry.get_sample_value(f"process_{name}") for name in NAMES}
    assert all(values.values()), values


def test_it_knows_when_the_process_started() -> None:
    """As the kernel tells it."""
    registry = CollectorRegistry()
    Process(registry=registry)
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    assert registry.get_sample_value("process_start_time_seconds") == pytest.approx(time.time() - age, abs=5)
