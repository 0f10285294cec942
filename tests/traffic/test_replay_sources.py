"""Sources of a replay: files and journals."""

import gzip
from pathlib import Path

import pytest

from btfeed.journal.base import JournalUnavailable
from btfeed.journal.create import archive
from btfeed.journal.sqlite.database import FILE
from btfeed.posts import files as postfile
from btfeed.traffic.replay import FileSource, JournalRange, Recorded, SourceError
from tests.commands.test_main import invoke
from tests.journal.journals import journal
from tests.support import posts
from tests.support.fakes import post as received_post
from tests.support.harness import Server, until

BODIES = [posts.sample_visit(), posts.sample_purepath(), posts.mixed(10)]


def write(path: Path, bodies: list[bytes] = BODIES) -> Path:
    writer = postfile.Writer(path)
    for body in bodies:
        writer.write(body)
    writer.close()
    return path


@pytest.mark.parametrize("name", ["a.btposts", "a.btposts.gz"])
def test_written_posts_are_read_back(name: str, tmp_path: Path) -> None:
    """Byte for byte, gzipped or not."""
    assert list(postfile.read(write(tmp_path / name))) == BODIES


def test_gzipped_files_of_one_or_many_bodies_are_found_and_read(tmp_path: Path) -> None:
    """A folder is searched for both."""
    (tmp_path / "1.bin.gz").write_bytes(gzip.compress(BODIES[0]))
    write(tmp_path / "2.btposts.gz", BODIES[1:])
    found = postfile.find([tmp_path])
    assert [body for path in found for body in postfile.read(path)] == BODIES


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-20], lambda data: b"no gzip" + data, lambda data: data[:30] + b"\0" * 30]
)
def test_a_damaged_gzip_file_is_reported_with_its_name(damage: object, tmp_path: Path) -> None:
    """The source names it once, and does not raise."""
    path = write(tmp_path / "a.btposts.gz")
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    source = FileSource([path])
    list(source.posts())
    list(source.posts())
    assert len(source.broken) == 1
    assert source.broken[0].startswith(f"{path}: ")


async def test_a_journal_gives_the_posts_of_a_time_range(tmp_path: Path) -> None:
    """By time of receipt: the beginning is included, the end is not."""
    async with journal(tmp_path) as opened:
        for number, body in enumerate(BODIES):
            await opened.append(received_post(body, received=1000 + number))
        found = list(JournalRange(archive(tmp_path, 1_001_000, 1_002_000)).posts())
        assert found == [Recorded(BODIES[1], 1_001_000)]
        assert [recorded.body for recorded in JournalRange(archive(tmp_path)).posts()] == BODIES
        assert JournalRange(archive(tmp_path)).total == 3


def test_the_journal_of_a_running_server_is_read_and_not_changed(server: Server, tmp_path: Path) -> None:
    """The posts come out, the files stay the same, and the server continues."""
    for body in BODIES:
        server.post(body)
    server.delivered(12)
    until(lambda: server.status()["sinks"]["files"]["backlog_posts"] == 0, "the cursor is saved")
    directory = server.directory / "journal"
    before = (directory / FILE).read_bytes(), (directory / f"{FILE}-wal").read_bytes()
    result = invoke("replay", "--journal", directory, "--from", "1h", "--out", tmp_path / "a.btposts")
    assert (result.exit_code, result.stderr) == (0, "")
    assert list(postfile.read(tmp_path / "a.btposts")) == BODIES
    assert ((directory / FILE).read_bytes(), (directory / f"{FILE}-wal").read_bytes()) == before
    assert server.post(BODIES[0])[0] == 200


def test_the_journal_of_a_stopped_server_is_read_and_not_changed(server: Server, tmp_path: Path) -> None:
    """The posts come out, and the file stays the same."""
    server.post(BODIES[0])
    server.delivered(1)
    server.stop()
    directory = server.directory / "journal"
    before = (directory / FILE).read_bytes()
    result = invoke("replay", "--journal", directory, "--out", tmp_path / "a.btposts")
    assert (result.exit_code, list(postfile.read(tmp_path / "a.btposts"))) == (0, [BODIES[0]])
    assert (directory / FILE).read_bytes() == before


def test_a_journal_without_such_posts_is_an_error(server: Server, tmp_path: Path) -> None:
    """A directory without a journal is one, too."""
    server.post(BODIES[0])
    with pytest.raises(SourceError, match="no posts from that time"):
        JournalRange(archive(server.directory / "journal", 0, 1))
    with pytest.raises(JournalUnavailable, match="no journal in"):
        archive(tmp_path / "nowhere")
