"""A server process under hostile input and signals: it keeps running, within its memory, and correct."""

import gzip
import http.client
import json
import random
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.harness import BTFEED, DEADLINE, Server, peak_memory, until
from tests.support.posts import SAMPLES, mixed, sample_visit
from tests.support.rawhttp import chunked, gzipped, request

BODY = sample_visit()
MIB = 2**20
MUTANTS = 1000


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all the hostile input. It has to survive all of it."""
    with Server(tmp_path_factory.mktemp("hostile"), receiver='header_timeout = "1s"\nbody_timeout = "5s"') as server:
        yield server
        assert server.post(BODY) == (200, "")
        assert [event for event in server.events() if event["level"] in ("error", "critical")] == []


def _connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE)


def _exchange(server: Server, data: bytes) -> bytes:
    """Send, shut down the sending side, and read everything."""
    with _connect(server) as connection:
        answer = b""
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(2**16):
                answer += part
        except ConnectionError:
            pass
        return answer


def _statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3})", answer)]


def _mutate(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, removed, doubled or inserted."""
    mutant = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        place = rng.randrange(len(mutant) + 1)
        end = place + rng.choice((0, 1, 1, 2, 8, 100))
        new = rng.choice((rng.randbytes(1), b"", bytes(mutant[place:end]) * 2, rng.randbytes(4), b"\r\n", b"\xff" * 8))
        mutant[place:end] = new
    return bytes(mutant)


def test_mutated_bodies_are_accepted_or_rejected(shared: Server, quick: bool) -> None:
    """Each gets a 200, 400 or 413, both plain and compressed."""
    seed = 1
    rng = random.Random(seed)
    originals = [sample() for sample in SAMPLES.values()] + [mixed(20), b"", rng.randbytes(1000)]
    connection = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=DEADLINE)
    found = set()
    for _ in range(MUTANTS // 10 if quick else MUTANTS):
        packed = rng.random() < 0.3
        body = _mutate(rng.choice(originals), rng)
        body = gzip.compress(body) if packed else body
        body = _mutate(body, rng) if packed and rng.random() < 0.5 else body
        connection.request("POST", "/", body, {"Content-Encoding": "gzip"} if packed else {})
        answer = connection.getresponse()
        answer.read()
        assert answer.status in (200, 400, 413), (seed, body)
        found.add(answer.status)
    connection.close()
    assert {200, 400} <= found


def test_mutated_http_never_gets_500(shared: Server, quick: bool) -> None:
    """Nor does it hang: it is answered or its connection is closed."""
    seed = 2
    rng = random.Random(seed)
    originals = [
        request(BODY, "Content-Encoding: identity", "Authorization: Basic abc"),
        request(gzipped(BODY), "Content-Encoding: gzip", "Expect: 100-continue"),
        chunked(BODY),
        request(BODY, "Connection: Upgrade", "Upgrade: websocket") + request(BODY),
        request(None, line="GET / HTTP/1.0"),
    ]
    found: set[int] = set()
    for _ in range(MUTANTS // 10 if quick else MUTANTS):
        data = _mutate(rng.choice(originals), rng)
        statuses = _statuses(_exchange(shared, data))
        assert not {500, 502, 504}.intersection(statuses), (seed, data)
        found.update(statuses)
    assert {200, 400} <= found


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_are_rejected(shared: Server, seed: int) -> None:
    """They get a 400 or a closed connection."""
    rng = random.Random(seed)
    for length in (1, 10, 1000, 100_000):
        assert set(_statuses(_exchange(shared, rng.randbytes(length)))) <= {400}


def _filled(element: bytes, size: int = 16 * MIB) -> bytes:
    return element * (size // len(element))


def _wrap(content: bytes) -> bytes:
    """A transaction with the name n and that content."""
    content = b"\x0a\x01n" + content
    length, size = b"", len(content)
    while size >= 0x80:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return b"\x0a" + length + bytes([size]) + content


BOMBS = {
    "empty occurrences": _wrap(_filled(b"\x32\x00", 15 * MIB)),
    "occurrences with startTime only": _wrap(_filled(b"\x32\x02\x08\x01", 15 * MIB)),
    "empty transactions": _filled(b"\x0a\x00"),
    "transactions with a name only": _filled(b"\x0a\x03\x0a\x01n"),
    "empty measure names": _wrap(_filled(b"\x22\x00", 15 * MIB)),
    "empty dimensions": _wrap(b"\x32\x82\x80\x80\x07" + b"\x08\x01" + _filled(b"\x3a\x00", 14 * MIB)),
    "empty convertedBy": _wrap(b"\x32\x82\x80\x80\x07" + b"\x08\x01" + _filled(b"\xa2\x02\x00", 14 * MIB)),
    "single values": _wrap(b"\x32\x82\x80\x80\x07" + b"\x08\x01" + _filled(b"\x31" + bytes(8), 14 * MIB)),
    "unknown fields": _filled(b"\xf8\x7f\x01"),
    "nested groups": _filled(b"\x7b", 8 * MIB) + _filled(b"\x7c", 8 * MIB),
    "zeros": bytes(16 * MIB),
    "one long name": _wrap(b"\x0a\x80\x80\x80\x07" + b"n" * (14 * MIB)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_memory_stays_bounded_under_bombs(tmp_path: Path, name: str) -> None:
    """16 MiB of data that is small on the wire and large as objects grow the process by at most 8 times the limit."""
    with Server(tmp_path, "") as server:
        server.post(BODY)
        before = peak_memory(server.pid)
        status, _ = server.post(BOMBS[name])
        grown = (peak_memory(server.pid) - before) / MIB
        assert status in (200, 400, 413)
        assert grown < 128, f"{name} ({status}): {grown:.0f} MiB"


@pytest.mark.slow
def test_memory_stays_bounded_under_gzip_bombs(tmp_path: Path) -> None:
    """Ten at a time, each 8 times the limit: each is rejected as soon as it exceeds the limit."""
    bomb = request(gzipped(bytes(128 * MIB)), "Content-Encoding: gzip")
    with Server(tmp_path, "") as server:
        server.post(BODY)
        before = peak_memory(server.pid)
        connections = [_connect(server) for _ in range(10)]
        for connection in connections:
            connection.sendall(bomb)
        for connection in connections:
            assert _statuses(connection.recv(2**16)) == [413]
            connection.close()
        assert (peak_memory(server.pid) - before) / MIB < 128


@pytest.mark.slow
def test_memory_stays_bounded_under_many_bad_posts(tmp_path: Path) -> None:
    """Rejected posts count as memory until they are stored: 50 of 8 MiB at a time do not add up."""
    bad = request(b"\x07" * (8 * MIB))
    with Server(tmp_path, "", receiver='queue_timeout = "20s"\nmax_in_flight = "16MiB"') as server:
        server.post(BODY)
        before = peak_memory(server.pid)
        assert set(_post_side_by_side(server, [bad] * 50)) == {400}
        assert (peak_memory(server.pid) - before) / MIB < 128


def _post_side_by_side(server: Server, requests: list[bytes]) -> list[int]:
    with ThreadPoolExecutor(len(requests)) as pool:
        return [
            status for answer in pool.map(lambda data: _exchange(server, data), requests) for status in _statuses(answer)
        ]


@pytest.mark.slow
def test_sigterm_finishes_requests_in_progress(tmp_path: Path) -> None:
    """A request that has half arrived gets its 200, idle connections end, the exit status is 0, and nothing is lost."""
    server = Server(tmp_path).start()
    assert server.process
    with _connect(server) as idle, _connect(server) as busy:
        idle.sendall(request(BODY))
        assert _statuses(idle.recv(2**16)) == [200]
        busy.sendall(request(BODY, "Expect: 100-continue")[:-100])
        assert _statuses(busy.recv(2**16)) == [100]
        server.process.send_signal(signal.SIGTERM)
        assert idle.recv(2**16) == b""
        assert _not_ready(server).startswith("not ready: shutting down")
        busy.sendall(BODY[-100:])
        assert _statuses(busy.recv(2**16)) == [200]
        assert busy.recv(2**16) == b""
    assert server.process.wait(DEADLINE) == 0
    with server:
        assert len(server.delivered(2)) == 2


def _not_ready(server: Server) -> str:
    """The text of /readyz, once it is not ready."""

    def ask() -> str | None:
        try:
            server.get("/readyz")
        except urllib.error.HTTPError as error:
            return error.read().decode()
        return None

    return until(ask, "not ready")


def test_a_full_journal_is_503_until_there_is_space(tmp_path: Path) -> None:
    """Readiness agrees, a connection test still works, and accepted posts are kept until their sink comes back."""
    obstacle = tmp_path / "obstacle"
    obstacle.write_text("no directory")
    sink = f'[sinks.late]\ntype = "file"\ndirectory = "{obstacle}"\ndelivery = {{ retry_max = "200ms" }}'
    with Server(tmp_path, sink, journal='max_size = "2MiB"') as server:
        assert server.get("/readyz").startswith("ready")
        taken = 0
        while (answer := server.post(mixed(500, taken)))[0] == 200:
            taken += 1
        assert (answer[0], "max_size" in answer[1], taken > 10) == (503, True, True)
        assert _not_ready(server).startswith("not ready: the journal is full")
        with urllib.request.urlopen(server.url) as tested:
            assert tested.status == 200
        obstacle.unlink()
        until(lambda: server.status()["ready"], "room again")
        assert server.post(BODY) == (200, "")
        assert len(server.delivered(taken * 500 + 1, obstacle)) == taken * 500 + 1


def test_dead_letters_list_shows_rejected_posts(server: Server) -> None:
    """With their reason, and without a sink."""
    assert server.post(b"no post")[0] == 400
    assert server.post(gzipped(BODY)[:-3], Content_Encoding="gzip")[0] == 400
    command = [*BTFEED, "dead-letters", "list", "--json", "-c", str(server.config)]
    listed = subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE).stdout
    letters = [json.loads(line) for line in listed.splitlines()]
    assert [(letter["kind"], letter["sink"], letter["reason"].partition(":")[0]) for letter in letters] == [
        ("post", "", "malformed"),
        ("post", "", "bad_gzip"),
    ]


@pytest.mark.slow
def test_connections_do_not_use_up_the_open_files(tmp_path: Path) -> None:
    """A process started with a low limit raises it to what max_connections needs."""
    limited = ["prlimit", "--nofile=64:4096"]
    with Server(tmp_path, receiver="max_connections = 200", prefix=limited) as server:
        connections = [_connect(server) for _ in range(150)]
        assert server.post(BODY) == (200, "")
        assert len(server.delivered(1)) == 1
        for connection in connections:
            connection.close()


@pytest.mark.slow
def test_with_too_few_open_files_there_are_fewer_connections(tmp_path: Path) -> None:
    """What comes beyond is answered 503 or gives way, and counted. Journal, sinks and metrics have the files they need."""
    limited = ["prlimit", "--nofile=64:64"]
    with Server(tmp_path, prefix=limited) as server:
        (warning,) = [event for event in server.events() if event["event"].startswith("too few open files")]
        assert (warning["allowed"], warning["connections"]) == (64, 32)
        with ExitStack() as begun:
            for number in range(80):
                connection = begun.enter_context(_connect(server))
                connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
                answer = connection.recv(100)[:12]
                assert answer == (b"HTTP/1.1 100" if number < 32 else b"HTTP/1.1 503")
            assert 'btfeed_refused_posts_total{reason="too_many_connections"} 48.0' in server.get("/metrics")
        assert until(lambda: server.post(BODY) == (200, ""), "a place")
        assert len(server.delivered(1)) == 1
