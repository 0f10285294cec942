"""Where the whole server's time goes under posts as AppMon sends them: flame graphs and system calls.

    python -m benchmarks.profiling [--only TEXT] [--seconds N] [--out DIRECTORY]

For each load there is a folder, build/profile/LOAD, and a line in the summary that is printed:

    flames.svg     a flame graph of all threads that run Python, with the frames of Python and native ones (py-spy,
                   FREQUENCY samples a second): open it in a browser
    cpu.svg        a flame graph of all threads, with native frames and those of the kernel (perf, CPU_FREQUENCY samples of
                   each busy processor a second): it shows the thread that appends posts to the journal, too
    stacks.txt, cpu-stacks.txt
                   what they are drawn from, for other tools
    syscalls.txt   all system calls with their numbers and times (strace -c -f)

CPU is measured first, without any tool: strace and py-spy stop the server again and again, so times in syscalls.txt are not
those of a server alone. Numbers of calls are, except that a slower server waits more. A tool that is missing is left out;
perf is not part of the set-up.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import end_to_end, flames, suite
from benchmarks.end_to_end import Sender, Subject
from benchmarks.load import FEW, SMALL_SIZES, connections
from benchmarks.measuring import cpu_seconds
from benchmarks.results import ROOT
from benchmarks.workshop import Workshop
from tests.servers.installed import NotInstalled, strace

OUT = ROOT / "build" / "profile"
SECONDS = 8
FREQUENCY = 50
"""Samples a second: py-spy falls behind if it unwinds native frames much more often."""
CPU_FREQUENCY = 999
"""Samples a second of each busy processor."""
OCCURRENCES = 20_000
"""Occurrences of the posts that are sent, over and over."""
ALONE = 1.0
"""Seconds of posts whose CPU is measured."""
MOST_POSTS = 2_000
"""The most posts under strace, which makes system calls several times as slow."""
TOP = 6
"""System calls that the summary names."""
TOLD = ("futex", "fdatasync")
"""System calls that the summary always counts."""


@dataclass(frozen=True)
class Profiled:
    """A load: the name of a far end as in suite.py, occurrences in a post, and connections."""

    sink: str
    size: int
    connections: int

    @property
    def name(self) -> str:
        return f"{self.sink}-{self.size}-over-{self.connections}"


LOADS = (
    *(Profiled("file", size, number) for size in reversed(SMALL_SIZES) for number in (*FEW, connections(size))),
    Profiled("none", 100, 1),
    Profiled("file", 1_000, connections(1_000)),
)


@dataclass
class Found:
    """What one load gave. cpu_us: a post. calls: system calls a post, by name. missing: why a tool gave nothing. notes: why
    perf gave nothing, which not every machine has or allows."""

    load: Profiled
    cpu_us: float
    calls: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def told(self) -> str:
        """Its line in the summary."""
        most = sorted(self.calls, key=lambda name: -self.calls[name])[:TOP]
        told = [f"{self.calls.get(name, 0):8.2f}" if self.calls else " " * 8 for name in TOLD]
        top = ", ".join(f"{name} {self.calls[name]:.1f}" for name in most)
        return f"{self.load.name:20} {self.cpu_us:9,.0f} {' '.join(told)}   {top}".rstrip()


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 done, 1 a tool is missing or failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiling", description="Profile the whole server.")
    parser.add_argument("--only", default="", metavar="TEXT", help="only loads with this text in the name")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of each flame graph; default %(default)s")
    parser.add_argument("--out", type=Path, default=OUT, help="where to write; default %(default)s")
    chosen = parser.parse_args(arguments)
    loads = [load for load in LOADS if chosen.only in load.name]
    if not loads:
        print(f"no load has {chosen.only} in its name: {', '.join(load.name for load in LOADS)}", file=sys.stderr)
        return 2
    missing: list[str] = []
    notes: list[str] = []
    lines = [f"{'sink, size, connections':20} {'us a post':>9} {'futex':>8} {'fdatasync':>8}   most system calls a post"]
    print(lines[0])
    with Workshop() as workshop:
        for load in loads:
            found = profile(workshop, load, chosen.seconds, chosen.out / load.name)
            lines.append(found.told())
            print(lines[-1], flush=True)
            missing += found.missing
            notes += found.notes
            workshop.clear()
    (chosen.out / "summary.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"\nwritten: {chosen.out}")
    for reason in dict.fromkeys(missing + notes):
        print(reason, file=sys.stderr)
    return 1 if missing else 0


def profile(workshop: Workshop, load: Profiled, seconds: int, directory: Path) -> Found:
    """Run one server under this load: first alone, then with each tool. Writes into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    path = workshop.load(load.size, OCCURRENCES)
    with (
        suite.far_end_and_server(workshop, load.sink) as subject,
        end_to_end.sender(path, subject.url, load.connections, load.size) as generator,
    ):
        posts = end_to_end.posts_in(subject, generator, load.size, ALONE, OCCURRENCES // 4)
        found = Found(load, _alone(subject, generator, posts))
        for tool, told in ((_syscalls, found.missing), (_flames, found.missing), (_cpu, found.notes)):
            try:
                found.calls |= dict(tool(subject, generator, posts, directory, seconds))
            except (NotInstalled, ToolFailed) as error:
                told.append(str(error))
    return found


class ToolFailed(Exception):
    """A tool ended with an error, which the message tells."""


def _alone(subject: Subject, generator: Sender, posts: int) -> float:
    """CPU microseconds a post, without any tool."""
    cpu = cpu_seconds(subject.pid)
    generator.send(posts)
    end_to_end.wait_for(subject, generator.sent)
    return (cpu_seconds(subject.pid) - cpu) / posts * 1e6


def _syscalls(
    subject: Subject, generator: Sender, posts: int, directory: Path, seconds: int
) -> Iterator[tuple[str, float]]:
    """The number of each system call a post, from the first post to its delivery."""
    path, posts = directory / "syscalls.txt", min(posts, MOST_POSTS)
    command = [strace(), "-c", "-f", "-p", str(subject.pid), "-o", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        said = process.stderr.readline()
        if "attached" not in said:
            process.wait()
            raise ToolFailed(f"strace can't attach to the server: {said.strip()}: run as root")
        generator.send(posts)
        end_to_end.wait_for(subject, generator.sent)
        process.send_signal(signal.SIGINT)  # detaches
        process.stderr.read()
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if len(words) >= 5 and words[3].isdigit() and words[-1] != "total":
            yield words[-1], int(words[3]) / posts


def _flames(subject: Subject, generator: Sender, posts: int, directory: Path, seconds: int) -> Iterator[tuple[str, float]]:
    """Write the flame graph, while posts are sent. Counts nothing."""
    stacks = directory / "stacks.txt"
    command = [pyspy(), "record", "--native", "--pid", str(subject.pid), "--rate", str(FREQUENCY)]
    command += ["--duration", str(seconds), "--format", "raw", "--output", str(stacks)]
    _record("py-spy", command, generator, posts, seconds)
    root, waiting = flames.tree(stacks.read_text(encoding="utf-8").splitlines())
    title = f"{directory.name}: {root.samples} samples, and {waiting} of threads that waited, which are left out"
    (directory / "flames.svg").write_text(flames.draw(root, title), encoding="utf-8")
    return iter(())


def _cpu(subject: Subject, generator: Sender, posts: int, directory: Path, seconds: int) -> Iterator[tuple[str, float]]:
    """Write the flame graph of perf, while posts are sent. Counts nothing."""
    data, stacks = directory / "perf.data", directory / "cpu-stacks.txt"
    command = [perf(), "record", "-q", "-g", "-e", "cpu-clock", "-F", str(CPU_FREQUENCY), "-o", str(data)]
    command += ["-p", str(subject.pid), "--", "sleep", str(seconds)]
    _record("perf", command, generator, posts, seconds)
    script = [perf(), "script", "-i", str(data), "-F", "comm,ip,sym,dso"]
    printed = subprocess.run(script, capture_output=True, text=True, check=False)
    if printed.returncode:
        raise ToolFailed(f"perf script failed: {' '.join(printed.stderr.split())}")
    data.unlink()
    lines = list(flames.from_perf(printed.stdout))
    stacks.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    root, _ = flames.tree(lines, waits=())
    (directory / "cpu.svg").write_text(flames.draw(root, f"{directory.name}: {root.samples} samples"), encoding="utf-8")
    return iter(())


def _record(tool: str, command: list[str], generator: Sender, posts: int, seconds: int) -> None:
    """Send posts until the tool has recorded for that long. Raises ToolFailed."""
    few, end = max(1, posts // 10), time.monotonic() + 10 * seconds
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while process.poll() is None and time.monotonic() < end:
            generator.send(few)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # it ends early, with what it has
        said, _ = process.communicate()
    if process.returncode:
        raise ToolFailed(f"{tool} failed: {' '.join(said.split())}: run as root")


def perf() -> str:
    """The path of perf. Raises NotInstalled."""
    path = shutil.which("perf")
    if path is None:
        raise NotInstalled("perf is not installed: for cpu.svg, install it (in Debian, the package linux-perf)")
    return path


def pyspy() -> str:
    """The path of py-spy. Raises NotInstalled."""
    path = shutil.which("py-spy", path=sysconfig.get_path("scripts")) or shutil.which("py-spy")
    if path is None:
        raise NotInstalled("py-spy is not installed: run make setup")
    return path


if __name__ == "__main__":
    sys.exit(main())
