"""Replay: what goes over the wire, what is counted, and what the command says."""

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from typer.testing import CliRunner, Result

from btfeed.commands.main import cli
from btfeed.posts import files as postfile
from btfeed.traffic.replay import Summary, replay
from tests.support import posts
from tests.support.harness import Server

EXAMPLES = Path(__file__).parents[2] / "examples" / "posts"
MALFORMED = b"\x0a\xff\xff\xff"


class Target:
    """A server that keeps what it is sent and answers what a test wants."""

    def __init__(self) -> None:
        self.requests: list[web.BaseRequest] = []
        self.bodies: list[bytes] = []
        self.times: list[float] = []
        self.peers: set[object] = set()
        self.answer: Callable[[int], web.Response] = lambda number: web.Response()
        self.url = ""

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self.times.append(time.perf_counter())
        self.requests.append(request)
        self.peers.add(request.transport and request.transport.get_extra_info("peername"))
        self.bodies.append(await request.read())
        return self.answer(len(self.bodies))


@pytest_asyncio.fixture
async def target() -> AsyncIterator[Target]:
    target = Target()
    runner = web.ServerRunner(web.Server(target.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    target.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield target
    await runner.cleanup()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["replay", *map(str, arguments)], env={"COLUMNS": "200"})


async def test_a_post_goes_out_as_appmon_sends_it(target: Target) -> None:
    """POST, octet-stream, its length up front, no compression asked for, no Expect; one kept-alive connection."""
    bodies = [posts.sample_visit(), posts.sample_purepath(), b""]
    summary = await replay(iter(bodies), target.url)
    assert target.bodies == bodies
    assert len(target.peers) == 1
    request = target.requests[0]
    assert (request.method, request.path) == ("POST", "/")
    assert request.headers["Content-Type"] == "application/octet-stream"
    assert request.headers["Content-Length"] == str(len(bodies[0]))
    assert not {"Accept-Encoding", "Content-Encoding", "Expect", "Transfer-Encoding"} & set(request.headers)
    assert (summary.posts, summary.occurrences, summary.bytes) == (3, 2, sum(map(len, bodies)))


async def test_a_post_is_sent_once_whatever_is_answered(target: Target) -> None:
    """Redirects are not followed and count as taken, refusals are counted by answer: AppMon does not retry."""
    answers = {
        1: lambda: web.Response(status=503, text="shutting\ndown\n"),
        2: lambda: web.Response(status=302, headers={"Location": target.url}),
        3: lambda: web.Response(status=401),
        4: lambda: web.Response(status=503, text="shutting down"),
    }
    target.answer = lambda number: answers[number]()
    summary = await replay(iter([posts.sample_visit()] * 4), target.url)
    assert len(target.bodies) == 4
    assert summary.posts == 1
    assert summary.refused == {"503 Service Unavailable: shutting down": 2, "401 Unauthorized": 1}
    assert summary.refusals == 3


async def test_a_connection_that_dies_makes_the_outcome_unknown_and_the_rest_goes_on(target: Target) -> None:
    """The post under way is not sent again, for nobody knows whether it was taken."""

    def hang_up(number: int) -> web.Response:
        if number == 2:
            transport = target.requests[-1].transport
            assert transport
            transport.abort()
        return web.Response()

    target.answer = hang_up
    summary = await replay(iter([b"", b"", b""]), target.url)
    assert (summary.posts, len(target.bodies)) == (2, 3)
    assert [(why.partition(":")[0], number) for why, number in summary.unknown.items()] == [("no answer", 1)]
    assert (summary.refused, summary.unknowns) == ({}, 1)


async def test_a_server_that_is_away_has_taken_nothing() -> None:
    """Each post is tried, as AppMon does; without a connection its outcome is known."""
    summary = await replay(iter([b"", b""]), f"http://127.0.0.1:{free_port()}/")
    assert (summary.posts, summary.refusals) == (0, 2)
    assert next(iter(summary.refused)).startswith("no answer: Cannot connect to host 127.0.0.1")


async def test_rate_spreads_posts_over_time(target: Target) -> None:
    """Post n is not sent before n / rate seconds, all connections together."""
    started = time.perf_counter()
    summary = await replay(iter([b""] * 6), target.url, rate=50, connections=3)
    assert all(at - started >= number / 50 for number, at in enumerate(target.times))
    assert summary.seconds >= 5 / 50


async def test_as_many_connections_as_asked_for(target: Target) -> None:
    """They are at work at the same time, and each is kept alive."""
    together = asyncio.Barrier(4)
    handle = target.handle

    async def wait_for_the_others(request: web.BaseRequest) -> web.Response:
        async with asyncio.timeout(10):
            await together.wait()
        return await handle(request)

    runner = web.ServerRunner(web.Server(wait_for_the_others))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        summary = await replay(iter([b""] * 8), f"http://127.0.0.1:{runner.addresses[0][1]}/", connections=4)
    finally:
        await runner.cleanup()
    assert (summary.posts, len(target.peers)) == (8, 4)


async def test_progress_is_told_of_every_post_that_was_sent(target: Target) -> None:
    """Refused ones included: they will not come again."""
    target.answer = lambda number: web.Response(status=400)
    sizes: list[int] = []
    await replay(iter([b"ab", b"c"]), target.url, progress=sizes.append)
    assert sizes == [2, 1]


async def test_what_is_no_post_counts_no_occurrences_where_it_is_taken(target: Target) -> None:
    """Another server than btfeed may take anything."""
    assert (await replay(iter([MALFORMED]), target.url)).occurrences == 0


def test_a_summary_counts_refusals() -> None:
    """Over all answers."""
    summary = Summary()
    for why in ("a", "b", "a"):
        summary.refuse(why)
    assert (summary.refused, summary.refusals) == ({"a": 2, "b": 1}, 3)


# The command


def test_folders_files_and_the_url_in_either_place(server: Server) -> None:
    """*.bin and *.btposts in the order of their names; other files in a folder are passed over."""
    for arguments in ([EXAMPLES, server.url], ["--url", server.url, EXAMPLES]):
        result = run(*arguments)
        assert (result.exit_code, result.stderr) == (0, "")
        figures = r"in \d+\.\d\d s: \d+ posts/s, \d+ occurrences/s\n"
        latency = r"latency p50 \d+\.\d ms, p99 \d+\.\d ms\n"
        assert re.fullmatch(f"13 posts, 503 occurrences, 0 refused {figures}{latency}", result.stdout)
    assert server.status()["counts"]["posts"] == 26


def test_credentials_are_sent_as_utf_8(tmp_path: Path) -> None:
    """Which is what the receiver compares with; without them each post is refused, and the answer is told."""
    with Server(tmp_path, receiver='basic_auth = { username = "appmon", password = "pässwörd:€" }') as server:
        refused = run(EXAMPLES / "visit.bin", server.url)
        assert refused.exit_code == 1
        assert refused.stdout.startswith("0 posts, 0 occurrences, 1 refused in ")
        assert refused.stdout.endswith("refused 1: 401 Unauthorized: wrong or no credentials\n")
        assert run(EXAMPLES / "visit.bin", server.url, "--user", "appmon:pässwörd:€").exit_code == 0


def test_refused_posts_are_listed_with_their_answer(server: Server, tmp_path: Path) -> None:
    """Results, so on stdout; exit 1."""
    (tmp_path / "1.bin").write_bytes(MALFORMED)
    (tmp_path / "2.bin").write_bytes(posts.sample_visit())
    result = run(tmp_path, server.url)
    assert result.exit_code == 1
    summary, _, refusal = result.stdout.splitlines()
    assert summary.startswith("1 posts, 1 occurrences, 1 refused in ")
    assert refusal.startswith("refused 1: 400 Bad Request: not a BusinessTransactions message")


def test_a_broken_file_is_told_and_the_others_are_posted(server: Server, tmp_path: Path) -> None:
    """What was whole in it is posted too; exit 1."""
    with (tmp_path / "1.btposts").open("wb") as file:
        postfile.write_delimited(file, posts.sample_visit())
        file.write(b"\x7fcut off")
    (tmp_path / "2.bin").write_bytes(posts.sample_visit())
    result = run(tmp_path, tmp_path / "gone.bin", server.url)
    assert result.exit_code == 1
    assert result.stdout.startswith("2 posts, 2 occurrences, 0 refused in ")
    cut_off, gone = result.stderr.splitlines()
    assert re.fullmatch(r".*/1\.btposts: the post at byte \d+ is cut off, or the file does not .*", cut_off)
    assert gone == f"{tmp_path / 'gone.bin'}: No such file or directory"


@pytest.mark.parametrize(("name", "what"), [("posts.txt", "use a name that ends with"), ("empty", "in this directory")])
def test_what_holds_no_posts_is_told_before_anything_is_sent(name: str, what: str, tmp_path: Path) -> None:
    """Exit 1, nothing on stdout."""
    (tmp_path / "empty").mkdir()
    result = run(EXAMPLES, tmp_path / name, f"http://127.0.0.1:{free_port()}/")
    assert (result.exit_code, result.stdout) == (1, "")
    assert str(tmp_path / name) in result.stderr
    assert what in result.stderr


def test_no_server_is_told_with_how_many_posts_it_cost() -> None:
    """On stdout, where the other answers are; exit 1."""
    result = run(EXAMPLES, f"http://127.0.0.1:{free_port()}/")
    assert (result.exit_code, result.stderr) == (1, "")
    assert result.stdout.startswith("0 posts, 0 occurrences, 13 refused in ")
    assert "refused 13: no answer: Cannot connect to host" in result.stdout
