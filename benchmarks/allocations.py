"""Memory allocations of each stage, per occurrence. They are counted, not timed, so one measurement is enough.

A process without Python's memory pools runs with a counter in front of the C library's allocator (count_mallocs.c), which
also counts allocations of protobuf and SQLite. It does not count what Python takes from its free lists of small objects. It
needs a C compiler and the GNU C library.

    python -m benchmarks.allocations     in the process that `count` starts
"""

import asyncio
import ctypes
import ctypes.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.load import Load
from benchmarks.measuring import quiet
from benchmarks.stages import Bench, allocations

SOURCE = Path(__file__).parent / "count_mallocs.c"


def missing() -> str | None:
    """Why this machine can't count allocations, or None."""
    if sys.platform != "linux" or not ctypes.util.find_library("c"):
        return "needs Linux with the GNU C library"
    return None if shutil.which("cc") else "needs a C compiler, cc"


def count(cases: Sequence[tuple[str, Path, Mapping[str, Any] | None]], scratch: Path) -> list[float]:
    """The allocations per occurrence, for each case: name of the stage, posts, table of the sink."""
    library = scratch / "count_mallocs.so"
    subprocess.run(["cc", "-O2", "-fPIC", "-shared", "-o", library, SOURCE], check=True)
    asked = [(name, str(path), sink, str(scratch / str(number))) for number, (name, path, sink) in enumerate(cases)]
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONMALLOC": "malloc"}
    command = [sys.executable, "-m", "benchmarks.allocations"]
    done = subprocess.run(command, input=json.dumps(asked), stdout=subprocess.PIPE, check=True, text=True, env=environment)
    found: list[float] = json.loads(done.stdout)
    return found


def main() -> None:
    mallocs = ctypes.CDLL(None).mallocs
    mallocs.restype = ctypes.c_ulong
    quiet()
    found = []
    for name, path, sink, directory in json.load(sys.stdin):
        bench = Bench(Load.read(Path(path)), Path(directory), sink)
        found.append(asyncio.run(allocations(bench, name, mallocs)))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
