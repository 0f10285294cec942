"""200 means durable: shown from outside, by the system calls of a running server.

kill -9 can't show that, because data that was written and not synced survives it. So strace checks the order of system
calls, and injects errors into them.
"""

import asyncio
import re
import resource
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from btfeed.posts.bt_pb2 import BusinessTransactions
from btfeed.posts.post import digest
from tests.support.harness import DEADLINE, Server, until
from tests.support.posts import mixed, sample_purepath

REFUSED_WITHIN = 5.0
"""Seconds. Posts are refused in milliseconds, but not on a machine that is busy; AppMon waits for ten."""
RECOVERED_WITHIN = 2.0
"""Seconds, for the fastest of several recoveries: the others may have met with a busy machine."""


class Answer(NamedTuple):
    """What a post was answered, and after how many seconds."""

    status: int
    retry_after: str | None
    seconds: float


def _body(number: int) -> bytes:
    """A small post that carries a mark, which can be read in a trace."""
    message = BusinessTransactions.FromString(sample_purepath())
    message.businessTransactions[0].application = f"mark-{number:08d}"
    return message.SerializeToString()


def _marks(server: Server) -> Counter[int]:
    """How often each mark is in the files."""
    return Counter(int(record["appmon.application"].removeprefix("mark-")) for record in server.records())


async def _post(session: aiohttp.ClientSession, url: str, body: bytes) -> Answer:
    started = time.monotonic()
    async with session.post(url, data=body) as response:
        await response.read()
        return Answer(response.status, response.headers.get("Retry-After"), time.monotonic() - started)


def _post_all(url: str, bodies: Sequence[bytes], connections: int = 1) -> list[Answer]:
    """Post over kept-alive connections. Answers are in the order of `bodies`."""

    async def run() -> list[Answer]:
        answers: dict[int, Answer] = {}
        numbered = iter(enumerate(bodies))

        async def connection() -> None:
            async with aiohttp.ClientSession() as session:
                for number, body in numbered:
                    answers[number] = await _post(session, url, body)

        await asyncio.gather(*(connection() for _ in range(connections)))
        return [answers[number] for number in range(len(bodies))]

    return asyncio.run(run())


# The order of system calls

_CALL = re.compile(r"^(?P<thread>\d+)\s+(?P<call>\w+)\((?P<fd>\d+)<(?P<file>[^>]*)>(?P<rest>.*)$", re.DOTALL)
_RESUMED = re.compile(r"^(?P<thread>\d+)\s+<\.\.\. (?P<call>\w+) resumed>(?P<rest>.*)$", re.DOTALL)
_MARK = re.compile(r"mark-(\d{8})")


class Trace:
    """Reads the lines of strace. A call has one line where it began; if another thread's call came between, it has a second
    line where it ended.

    checked: answers of 200 seen. violations: marks of the posts whose answer left before they were durable.
    """

    def __init__(self) -> None:
        self.checked = 0
        self.syncs = 0
        self.violations: list[int] = []
        self._reading: dict[str, str] = {}  # thread -> connection that it is reading from
        self._post: dict[str, int] = {}  # connection -> mark of the post that was read from it
        self._written: set[int] = set()  # in the log
        self._covered: dict[str, set[int]] = {}  # thread -> what was in the log when its sync began
        self._durable: set[int] = set()

    def see(self, line: str) -> None:
        if call := _CALL.match(line):
            thread, name, file, rest = call["thread"], call["call"], call["file"], call["rest"]
            if name in ("fdatasync", "fsync") and file.endswith("journal.db-wal"):
                self._covered[thread] = set(self._written)
                self._ended(thread, name, rest)
            elif name == "pwrite64" and file.endswith("journal.db-wal"):
                self._written.update(map(int, _MARK.findall(rest)))
            elif "HTTP/1.1 200" in rest and call["fd"] in self._post:
                self.checked += 1
                mark = self._post.pop(call["fd"])
                if mark not in self._durable:
                    self.violations.append(mark)
            elif name in ("read", "recvfrom", "recvmsg"):
                self._reading[thread] = call["fd"]
                self._read(thread, rest)
        elif resumed := _RESUMED.match(line):
            self._ended(resumed["thread"], resumed["call"], resumed["rest"])
            self._read(resumed["thread"], resumed["rest"])

    def _read(self, thread: str, rest: str) -> None:
        for mark in _MARK.findall(rest):
            self._post[self._reading[thread]] = int(mark)

    def _ended(self, thread: str, call: str, rest: str) -> None:
        if call in ("fdatasync", "fsync") and thread in self._covered and rest.rstrip().endswith("= 0"):
            self.syncs += 1
            self._durable |= self._covered.pop(thread)


def test_the_check_of_the_order_finds_violations() -> None:
    """It finds an answer before the sync, during it, and after a sync that failed or began before the write."""
    read, answer = '1 read(7<TCP>, "..mark-{}", 99) = 99', '1 write(7<TCP>, "HTTP/1.1 200 OK", 99) = 99'
    write, log = '2 pwrite64(9</j/journal.db-wal>, "..mark-{}..", 99, 0) = 99', "9</j/journal.db-wal>"
    sync, begin, end = f"2 fdatasync({log}) = 0", f"2 fdatasync({log} <unfinished ...>", "2 <... fdatasync resumed>) = 0"
    failed = f"2 fdatasync({log}) = -1 EIO (Input/output error)"
    good = [[write, sync, answer], [write, begin, end, answer], [write, failed, sync, answer]]
    bad = [
        [write, answer, sync],
        [write, begin, answer, end],
        [write, failed, answer],
        [begin, write, end, answer],
        [answer],
    ]
    for lines, violations in [*((lines, []) for lines in good), *((lines, [5]) for lines in bad)]:
        trace = Trace()
        for line in [read, *lines]:
            trace.see(line.format("00000005"))
        assert (trace.checked, trace.violations) == (1, violations), lines


def test_no_200_leaves_before_its_post_is_synced(tmp_path: Path, strace: str) -> None:
    """Under load, no answer of 200 is sent before an fdatasync of the write-ahead log has succeeded that began after the
    post was written there. Each post carries a mark. A connection brings one post at a time, so the next 200 on it answers
    the post whose mark was read from it last."""
    posts = 2_400
    trace_file = tmp_path / "trace"
    calls = "trace=fdatasync,fsync,pwrite64,read,recvfrom,recvmsg,write,writev,sendto,sendmsg"
    prefix = [strace, "-f", "-qq", "-y", "-s", "20000", "-o", str(trace_file), "-e", calls]
    with Server(tmp_path / "server", prefix=prefix) as server:
        answers = _post_all(server.url, [_body(number) for number in range(posts)], connections=24)
        assert [answer.status for answer in answers] == [200] * posts
        server.delivered(posts)
    trace = Trace()
    with trace_file.open(errors="replace") as lines:
        for line in lines:
            trace.see(line)
    assert trace.violations == []
    assert trace.checked == posts
    assert 10 < trace.syncs < posts / 2, "the run was not loaded: posts did not share their syncs"


# Errors of the disk


@contextmanager
def _injected(strace: str, server: Server, fault: str, call: str) -> Iterator[None]:
    """Every such system call of the server fails in this block. At least one must have been made."""
    trace = server.directory / f"injected-{time.time_ns()}"
    options = ("-o", str(trace), "-e", f"trace={call}", "-e", f"inject={call}:error={fault}", "-p", str(server.pid))
    tracer = subprocess.Popen([strace, "-f", "-qq", *options], stderr=subprocess.DEVNULL)
    try:
        until(lambda: _traced(server.pid) and trace.exists(), "strace has attached")
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(DEADLINE)
    assert "(INJECTED)" in trace.read_text(), "no error was injected"


def _traced(pid: int) -> bool:
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)


def _refusal(server: Server, number: int, size: int = 0) -> None:
    """A post is refused, and the server says that it is alive but not ready."""
    (answer,) = _post_all(server.url, [mixed(size, number) if size else _body(number)])
    assert answer.status == 503
    assert answer.retry_after
    assert answer.seconds < REFUSED_WITHIN
    assert server.get("/healthz") == "alive\n"
    with pytest.raises(OSError, match="503"):
        server.get("/readyz")


def _accepts_again(server: Server, numbers: Iterator[int]) -> tuple[int, float]:
    """Wait until posts are taken again; the number of the first, and the seconds until then. No post is sent twice, because
    a post that was answered 503 may have been taken."""
    started = time.monotonic()

    def taken() -> int | None:
        number = next(numbers)
        return number if _post_all(server.url, [_body(number)])[0].status == 200 else None

    number = until(taken, "posts are taken again")
    seconds = time.monotonic() - started
    assert server.get("/readyz") == "ready\n"
    return number, seconds


@pytest.mark.parametrize(
    ("fault", "call"), [("EIO", "fdatasync"), ("ENOSPC", "pwrite64"), ("EIO", "pwrite64"), ("EROFS", "pwrite64")]
)
def test_errors_of_the_disk_while_running(tmp_path: Path, strace: str, fault: str, call: str) -> None:
    """While the disk fails, every post is answered 503 at once; when it works again, so does the server, without a restart.
    Each post that was answered 200 is in the files once."""
    taken: list[int] = []
    recoveries: list[float] = []
    with Server(tmp_path / "server") as server:
        for turn in range(3):
            start = 1_000 * turn
            answers = _post_all(server.url, [_body(start + n) for n in range(50)], connections=8)
            assert {answer.status for answer in answers} == {200}
            taken += range(start, start + 50)
            with _injected(strace, server, fault, call):
                refused = _post_all(server.url, [_body(start + 100 + n) for n in range(50)], connections=8)
                assert {answer.status for answer in refused} == {503}
                assert max(answer.seconds for answer in refused) < REFUSED_WITHIN
                _refusal(server, start + 200)
            number, seconds = _accepts_again(server, count(start + 300))
            taken.append(number)
            recoveries.append(seconds)
        assert min(recoveries) < RECOVERED_WITHIN
        until(lambda: all(_marks(server)[mark] for mark in taken), "delivered")
        assert set(_marks(server).values()) == {1}
        assert server.stop() == 0
    assert all(_marks(server)[mark] == 1 for mark in taken)


# A disk that is full


class _Volume:
    """A small file system for the server's journal, which can be filled. If `limited`, or if this user may not mount one,
    a limit to the size of the server's files instead."""

    def __init__(self, server: Server, limited: bool) -> None:
        self._server = server
        self._path = server.directory / "journal"
        self._filler = self._path / "filler"
        self._path.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={24 * 2**20}", "tmpfs", str(self._path)]
        self.mounted = not limited and subprocess.run(mount, capture_output=True).returncode == 0

    def fill(self) -> None:
        if self.mounted:
            with self._filler.open("wb", buffering=0) as file:
                with suppress(OSError):
                    while True:
                        file.write(bytes(2**16))
                with pytest.raises(OSError, match="No space"):
                    file.write(bytes(2**12))
        else:
            self._limit(max(path.stat().st_size for path in self._path.iterdir()))

    def free(self) -> None:
        if self.mounted:
            self._filler.unlink()
        else:
            self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        resource.prlimit(self._server.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def remove(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self._path)], check=True)


@pytest.fixture(params=[False, True], ids=["tmpfs", "rlimit"])
def full_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, _Volume]]:
    """A running server whose journal is on a small volume, and that volume."""
    server = Server(tmp_path / "server")
    volume = _Volume(server, request.param)
    try:
        with server:
            yield server, volume
    finally:
        volume.remove()


@pytest.mark.slow
def test_a_full_disk(full_disk: tuple[Server, _Volume], quick: bool) -> None:
    """When the disk is full, posts are refused at once; when it is freed, they are taken again within two seconds.
    Each post that was answered 200 is in the files once."""
    server, volume = full_disk
    numbers = iter(range(10_000))
    taken: list[int] = []
    size = 100
    recoveries: list[float] = []
    for _ in range(2 if quick else 6):
        taken += _taken(server, [next(numbers) for _ in range(20)], size)
        volume.fill()
        refused = 0
        while not refused:
            batch = [next(numbers) for _ in range(8)]
            accepted = _taken(server, batch, size)
            taken += accepted
            refused = len(batch) - len(accepted)
        if volume.mounted:  # below a limit the journal may find room in files that exist, and go on
            _refusal(server, next(numbers), size)
        volume.free()
        recoveries.append(_accepts_again(server, numbers)[1])
        until(lambda: server.status()["sinks"]["files"]["backlog_posts"] == 0, "delivered")
    assert min(recoveries) < RECOVERED_WITHIN
    ids = Counter(record["event.id"] for record in server.records())
    assert set(ids.values()) == {1}
    prefixes = {event_id.partition("-")[0] for event_id in ids}
    assert {digest(mixed(size, number)).hex()[:24] for number in taken} <= prefixes


def _taken(server: Server, numbers: Sequence[int], size: int) -> list[int]:
    """Post these; the numbers of those answered 200. The others were answered 503, and soon."""
    answers = _post_all(server.url, [mixed(size, number) for number in numbers], connections=4)
    assert {answer.status for answer in answers} <= {200, 503}
    assert max(answer.seconds for answer in answers) < REFUSED_WITHIN
    return [number for number, answer in zip(numbers, answers, strict=True) if answer.status == 200]
