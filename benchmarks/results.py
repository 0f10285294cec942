"""A result: the machine, the versions and all samples of all cases, and its file.

    {"about": {...}, "cases": [{"group": ..., "name": ..., "parameters": {...}, "samples": {QUANTITY: [...]}}]}

The name of a quantity ends with its unit: `_us` microseconds per occurrence, `_ms` milliseconds, `_per_s` per second,
`_mib` MiB, `_percent` percent. `x_parse` is a ratio to the parse of the same posts, `x_scan` to a scan of the same records,
`x_composite` to an aggregation of them; `disk_bytes` and `allocations` are per occurrence.
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import apsw

from benchmarks.measuring import Spread
from btfeed import native

ROOT = Path(__file__).parent.parent
LATEST = Path(__file__).parent / "results" / "latest.json"
SINK = "sink: "
"""Prefix of a stage that is the writes of a sink."""
PACKAGES = ("aiohttp", "aiokafka", "apsw", "btfeed", "elasticsearch", "msgspec", "protobuf", "uvloop")


@dataclass
class Case:
    """samples: for each quantity, a value for each round."""

    group: str
    name: str
    parameters: Mapping[str, str | int | float] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The case's name in tables and comparisons."""
        told = ", ".join(f"{name} {value}" for name, value in self.parameters.items())
        return f"{self.group}: {self.name}" + (f" ({told})" if told else "")

    def add(self, sample: Mapping[str, float]) -> None:
        for name, value in sample.items():
            self.samples.setdefault(name, []).append(value)

    def spread(self, quantity: str) -> Spread:
        return Spread.of(self.samples[quantity])

    def median(self, quantity: str) -> float:
        return self.spread(quantity).median


@dataclass
class Result:
    """failures: why cases have no samples, by key."""

    about: dict[str, Any]
    cases: list[Case]
    failures: dict[str, str] = field(default_factory=dict)

    def of(self, group: str, name: str | None = None, **parameters: str | float) -> Iterator[Case]:
        """The cases of a group with this name, if one is given, and these parameters."""
        for case in self.cases:
            if case.group == group and name in (None, case.name) and parameters.items() <= case.parameters.items():
                yield case

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        cases = [{"group": c.group, "name": c.name, "parameters": c.parameters, "samples": _short(c)} for c in self.cases]
        # one line for each case, so that people can read and compare the file
        lines = ",\n".join("  " + json.dumps(case) for case in cases)
        head = json.dumps({"about": self.about, "failures": self.failures}, indent=1)[:-2]
        path.write_text(f'{head},\n "cases": [\n{lines}\n ]\n}}\n', encoding="utf-8")

    @staticmethod
    def load(path: Path) -> "Result":
        """Raises OSError, or ValueError if the file is not a result."""
        read = json.loads(path.read_text(encoding="utf-8"))
        try:
            return Result(read["about"], [Case(**case) for case in read["cases"]], read.get("failures", {}))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a result of the benchmarks: {error!r}") from None


def _short(case: Case) -> dict[str, list[float]]:
    return {name: [float(f"{value:.5g}") for value in values] for name, values in case.samples.items()}


def about(command: str, seed: int) -> dict[str, Any]:
    """The kind of machine, the versions and the commit. Names of the machine and its folders are left out."""
    return {
        "command": command,
        "time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "seed": seed,
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "system": f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}",
            "load_at_start": round(os.getloadavg()[0], 2),
        },
        "mapping": native.PATH,
        "versions": {"python": platform.python_version(), "sqlite": apsw.sqlite_lib_version()} | dict(_packages()),
    }


def _packages() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:  # a library of a sink
            continue


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The last commit that changed what is measured, with a mark if that has changed since."""
    measured = ("btfeed", "sinks", "native")
    commit = _git("log", "-1", "--abbrev=12", "--format=%h", "--", *measured)
    return (commit or "unknown") + (", with changes" if _git("status", "--porcelain", "--", *measured) else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
