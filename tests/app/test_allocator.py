"""Memory that comes and goes is kept."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
from btfeed.app.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        parts = [b"x" * 2**20 for _ in range(3)]
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
keep_freed_memory()
faults()
print(usual, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize(("tuned", "kept"), [({}, True), ({"MALLOC_ARENA_MAX": "2"}, False)])
def test_pages_of_freed_memory_are_used_again(tuned: dict[str, str], kept: bool) -> None:
    """Three megabytes at a time need few new pages, unless the environment tunes the allocator."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=tuned, capture_output=True, text=True, check=True)
    usual, then = map(int, done.stdout.split())
    assert usual > 10_000
    assert (then < 1_000) is kept
