"""Capture: what is in the file, what is answered, and what is passed on."""

import asyncio
import gzip
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from btfeed.posts import files as postfile
from btfeed.traffic.capture import Capture
from btfeed.traffic.replay import replay
from btfeed.traffic.sending import Url
from tests.commands.test_main import invoke
from tests.support import posts
from tests.support.harness import BTFEED, DEADLINE, Server, until, until_async

BODIES = [posts.sample_visit(), posts.mixed(20), b"\x05no post"]


@asynccontextmanager
async def capturing(
    path: Path, forward: str | None = None, max_posts: int | None = None
) -> AsyncIterator[tuple[Capture, str]]:
    """A running capture and its url; it is stopped at the end."""
    stop = asyncio.Event()
    capture = Capture(postfile.Writer(path, new=True), stop, forward=Url(forward) if forward else None)
    _, port = await capture.start("127.0.0.1", 0)
    run = asyncio.create_task(capture.run())
    try:
        yield capture, f"http://127.0.0.1:{port}/"
    finally:
        stop.set()
        await run


@pytest.mark.parametrize("name", ["a.btposts", "a.btposts.gz"])
async def test_every_body_is_in_the_file_as_it_came(name: str, tmp_path: Path) -> None:
    """Also what is no post: to see what a real AppMon sends is what it is for."""
    async with capturing(tmp_path / name) as (capture, url):
        summary = await replay(iter(BODIES), url)
    assert (summary.posts, summary.refused) == (3, {})
    assert (capture.captured.posts, capture.captured.bytes) == (3, sum(map(len, BODIES)))
    assert list(postfile.read(tmp_path / name)) == BODIES


async def test_a_post_is_in_the_file_when_it_is_answered(tmp_path: Path) -> None:
    """Another process sees it there, whatever happens to this one next."""
    async with capturing(tmp_path / "a.btposts") as (_, url):
        for number, body in enumerate(BODIES, start=1):
            await replay(iter([body]), url)
            assert list(postfile.read(tmp_path / "a.btposts")) == BODIES[:number]


async def test_a_connection_test_is_answered_and_leaves_nothing(tmp_path: Path) -> None:
    """GET, HEAD, and a POST without a body."""
    async with capturing(tmp_path / "a.btposts") as (capture, url), aiohttp.ClientSession() as session:
        for method in ("GET", "HEAD", "POST"):
            async with session.request(method, url) as answer:
                assert answer.status == 200
    assert (capture.captured.posts, (tmp_path / "a.btposts").read_bytes()) == (0, b"")


async def test_a_gzipped_body_is_written_decompressed(tmp_path: Path) -> None:
    """So that it can be replayed; a broken one is refused."""
    async with capturing(tmp_path / "a.btposts") as (_, url), aiohttp.ClientSession() as session:
        for body, status in ((gzip.compress(BODIES[1]), 200), (b"\x1f\x8bbroken", 400)):
            async with session.post(url, data=body, headers={"Content-Encoding": "gzip"}) as answer:
                assert answer.status == status
    assert list(postfile.read(tmp_path / "a.btposts")) == [BODIES[1]]


async def test_a_disk_that_is_full_ends_it_and_is_answered_503(tmp_path: Path) -> None:
    """What was answered 200 was written, and the rest is told to be lost."""
    (tmp_path / "a.btposts").symlink_to("/dev/full")
    writer = postfile.Writer(tmp_path / "a.btposts")
    stop = asyncio.Event()
    capture = Capture(writer, stop)
    _, port = await capture.start("127.0.0.1", 0)
    run = asyncio.create_task(capture.run())
    summary = await replay(iter([BODIES[0]]), f"http://127.0.0.1:{port}/")
    assert [why.partition(":")[0] for why in summary.refused] == ["503 Service Unavailable"]
    with pytest.raises(postfile.PostFileError, match="No space left on device"):
        await run


async def test_as_a_tap_it_passes_each_post_on(server: Server, tmp_path: Path) -> None:
    """AppMon is answered 200 whatever the far end says, which is counted."""
    async with capturing(tmp_path / "a.btposts", server.url) as (capture, url):
        summary = await replay(iter(BODIES), url)
    assert summary.posts == 3
    assert capture.captured.forwarded == 2
    assert [why[:15] for why in capture.captured.not_forwarded] == ["400 Bad Request"]
    assert server.status()["counts"]["posts"] == 2


async def test_credentials_are_passed_on(tmp_path: Path) -> None:
    """As AppMon sent them."""
    with Server(tmp_path / "server", receiver='basic_auth = { username = "a", password = "b" }') as server:
        async with capturing(tmp_path / "a.btposts", server.url) as (capture, url):
            await replay(iter([BODIES[0]]), url, basic_auth=("a", "b"))
            await replay(iter([BODIES[0]]), url)
    assert (capture.captured.forwarded, capture.captured.not_forwarded.total()) == (1, 1)


async def test_a_far_end_that_is_away_costs_nothing(tmp_path: Path) -> None:
    """It is counted, and the posts are in the file."""
    async with capturing(tmp_path / "a.btposts", "http://127.0.0.1:1/") as (capture, url):
        assert (await replay(iter(BODIES), url)).posts == 3
        await until_async(lambda: capture.captured.not_forwarded.total() == 3, "all are tried")
    assert list(postfile.read(tmp_path / "a.btposts")) == BODIES


def start(*arguments: object) -> "tuple[subprocess.Popen[str], str]":
    """The command, and the url at which it listens."""
    command = [*BTFEED, "capture", "--listen", "127.0.0.1:0", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    said = process.stderr.readline()
    assert said.startswith("listening at 127.0.0.1:")
    return process, f"http://{said.split()[-1]}/"


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_with_a_summary(stop: signal.Signals, tmp_path: Path) -> None:
    """On SIGINT or SIGTERM; exit 0."""
    process, url = start("--out", tmp_path / "a.btposts")
    assert invoke("replay", Path("examples/posts"), url).exit_code == 0
    os.kill(process.pid, stop)
    out, err = process.communicate(timeout=DEADLINE)
    size = sum(len(body) for body in postfile.read(tmp_path / "a.btposts"))
    assert (process.returncode, out, err) == (0, f"13 posts, {size} bytes in {tmp_path / 'a.btposts'}\n", "")


def test_it_ends_after_so_many_posts(tmp_path: Path) -> None:
    """With --max-posts; the next one is not taken."""
    process, url = start("--out", tmp_path / "a.btposts", "--max-posts", 2, "--json")
    invoke("replay", Path("examples/posts"), url)
    out, _ = process.communicate(timeout=DEADLINE)
    assert out.startswith('{"posts": 2, ')
    assert len(list(postfile.read(tmp_path / "a.btposts"))) == 2


def test_it_does_not_write_over_a_file(tmp_path: Path) -> None:
    """What was captured can't be had again."""
    (tmp_path / "a.btposts").write_bytes(b"precious")
    result = invoke("capture", "--out", tmp_path / "a.btposts")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "File exists" in result.stderr
    assert (tmp_path / "a.btposts").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--out", "a.txt"], "use a name that ends with .btposts"),
        (["--out", "a.btposts", "--listen", "nonsense"], "write an address as"),
        (["--out", "a.btposts", "--forward", "nonsense"], "is no http or https url"),
    ],
)
def test_wrong_usage_is_told(arguments: list[str], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    result = invoke("capture", *arguments)
    assert result.exit_code in (1, 2)
    assert what in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_https_with_a_certificate(tmp_path: Path) -> None:
    """As AppMon posts where its url says https; a client that trusts nobody is not taken."""
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    alternative = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*made, *alternative], cwd=tmp_path, check=True, capture_output=True)
    process, url = start(
        "--out", tmp_path / "a.btposts", "--certificate", tmp_path / "cert.pem", "--key", tmp_path / "key.pem"
    )  # fmt: skip
    url = url.replace("http:", "https:")
    example = Path("examples/posts/visit.bin")
    assert invoke("replay", example, url).exit_code == 1
    assert invoke("replay", example, url, "--insecure").exit_code == 0
    assert invoke("replay", example, url, "--ca", tmp_path / "cert.pem").exit_code == 0
    process.send_signal(signal.SIGTERM)
    until(lambda: process.poll() is not None, "it ends")
    assert process.communicate()[0].startswith("2 posts, ")
