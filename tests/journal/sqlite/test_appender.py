"""Posts that are appended without Python: which ones are, and how the two threads share the connection."""

import asyncio
import time
from collections.abc import Awaitable
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from btfeed import native
from btfeed.journal.base import Commit, Cursor, JournalError, JournalFull, JournalUnavailable
from btfeed.journal.sqlite import appender
from btfeed.journal.sqlite.database import FILE
from btfeed.journal.sqlite.post_log import PostLog
from btfeed.journal.sqlite.settings import Tuning
from btfeed.journal.sqlite.worker import JournalWorker, Work
from btfeed.posts.post import Post, digest
from tests.journal.journals import fill, journal, post
from tests.journal.sqlite.faulty_disk import FaultyDisk
from tests.support.harness import DEADLINE, until_async

pytestmark = pytest.mark.native


@pytest.fixture(autouse=True)
def by_python(monkeypatch: pytest.MonkeyPatch) -> list[Post]:
    """The posts that came to the journal's own thread."""
    posts: list[Post] = []
    write = JournalWorker.write

    def noted(worker: JournalWorker, works: list[Work], failed: apsw.Error | None = None) -> list[object]:
        posts.extend(work for work in works if isinstance(work, Post))
        return write(worker, works, failed)

    monkeypatch.setattr(JournalWorker, "write", noted)
    assert appender.available()
    return posts


def test_the_native_module_has_no_sqlite_of_its_own() -> None:
    """Two copies in one process would release each other's locks on the file."""
    assert native.module
    assert b"SQLite format 3" not in Path(str(native.module.__file__)).read_bytes()
    assert b"SQLite format 3" in Path(apsw.__file__).read_bytes()


async def _outcome(appending: Awaitable[bytes]) -> bytes | JournalError:
    try:
        return await appending
    except JournalError as error:
        return error


async def test_posts_do_not_need_python(tmp_path: Path, by_python: list[Post]) -> None:
    """But the first, which finds out how much room there is. They have digests, and numbers without gaps."""
    async with journal(tmp_path) as opened:
        await opened.append(post(0))
        assert by_python == [post(0)]
        digests = [await opened.append(post(number)) for number in range(1, 20)]
        digests += await asyncio.gather(*(opened.append(post(number)) for number in range(20, 200)))
        assert by_python == [post(0)]
        assert digests == [digest(post(number).body) for number in range(1, 200)]
        found = await opened.everything()
        assert [(each.seq, each.post) for each in found] == [(number + 1, post(number)) for number in range(200)]
        commits = opened.metrics.registry.get_sample_value("btfeed_journal_commit_seconds_count")
        assert commits
        assert commits > 20
    with closing(apsw.Connection(str(tmp_path / FILE))) as db:
        assert db.execute("SELECT count(*), max(seq) FROM posts").get == (200, 200)


class SlowDisk(FaultyDisk):
    """Syncs take longer than clients take for their next posts."""

    def synced(self, path: str) -> None:
        time.sleep(0.05)
        super().synced(path)


async def test_clients_that_are_answered_together_share_the_next_commit(tmp_path: Path) -> None:
    """Though their posts come one after the other. If one of them does not come back, the others do not wait for it."""
    posts, clients = 10, 4
    disk = SlowDisk()
    async with journal(tmp_path, vfs=disk.name, tuning=Tuning(gather=10.0)) as opened:

        async def client(number: int) -> None:
            for _ in range(posts):
                for _ in range(number):
                    await asyncio.sleep(0)  # a turn of the loop, in which a post of its own begins
                await opened.append(post(number))

        await asyncio.gather(*map(client, range(clients)))
        commits = opened.metrics.registry.get_sample_value("btfeed_journal_commit_seconds_count")
        assert commits
        assert commits < 1.5 * posts  # otherwise the first post has a commit of its own, and the others the next one
        await asyncio.wait_for(opened.append(post(0)), DEADLINE)
        assert len(await opened.everything()) == posts * clients + 1


async def test_posts_and_commits_take_turns(tmp_path: Path, by_python: list[Post]) -> None:
    """Both see all that the other has done, and no number is given twice."""
    async with journal(tmp_path, tuning=Tuning(tick=0.001, recent_bytes=0)) as opened:
        outlet = opened.outlet("a")

        async def deliver() -> int:
            seq = 1
            while seq <= 600:
                await outlet.wait(seq)
                seq = (await outlet.read(seq, 5_000))[-1].seq + 1
                await outlet.commit(Commit(Cursor(seq)))
            return seq

        delivering = asyncio.create_task(deliver())
        for start in range(0, 600, 30):
            await asyncio.gather(*(opened.append(post(number)) for number in range(start, start + 30)))
        assert await asyncio.wait_for(delivering, DEADLINE) == 601
        assert len(by_python) < 300
        found = await opened.everything()
        assert [each.seq for each in found] == list(range(1, 601))
        assert sorted(each.post.body for each in found) == sorted(post(number).body for number in range(600))


async def test_a_failure_is_that_of_the_first_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_python: list[Post]
) -> None:
    """A failed fsync is not tried again: the next one would report success for pages that are lost."""
    disk = FaultyDisk()
    commits: list[int] = []
    append = PostLog.append

    def counted(log: PostLog, new: list[Post]) -> list[bytes | JournalFull]:
        commits.append(len(new))
        return append(log, new)

    async with journal(tmp_path, vfs=disk.name) as opened:
        taken = await fill(opened, range(3))
        monkeypatch.setattr(PostLog, "append", counted)
        with disk.failing("sync", apsw.SQLITE_IOERR_FSYNC):
            outcomes = await asyncio.gather(*(opened.append(post(n)) for n in range(10, 15)), return_exceptions=True)
        assert commits == []
        assert [type(outcome) for outcome in outcomes] == [JournalUnavailable] * 5
        assert str(outcomes[0]) == "the journal failed: disk I/O error"
        assert opened.count("journal_errors") >= 1
        await until_async(lambda: opened.refusing is None, "healed")
        taken += await fill(opened, range(3, 6))
    async with journal(tmp_path) as opened:
        assert await opened.bodies() == taken


async def test_what_may_not_fit_is_decided_by_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_python: list[Post]
) -> None:
    """As many posts are taken as without it, and the rest are refused."""

    async def taken(directory: Path) -> int:
        async with journal(directory, max_size="1MiB") as opened:
            outcomes = [await _outcome(opened.append(post(number, 10_000))) for number in range(100)]
            number = sum(isinstance(outcome, bytes) for outcome in outcomes)
            assert [type(outcome) for outcome in outcomes[number:]] == [JournalFull] * (100 - number)
            assert opened.refusing == "the journal is full"
            assert len(await opened.everything()) == number
            return number

    with_native = await taken(tmp_path / "native")
    assert len(by_python) < 100
    monkeypatch.setattr(appender, "available", lambda: False)
    assert await taken(tmp_path / "plain") == with_native


async def test_another_writer_is_waited_for(tmp_path: Path) -> None:
    """Its lock is no failure of the disk."""
    async with journal(tmp_path, tuning=Tuning(tick=0.05, lock_wait=0.05)) as opened:
        await fill(opened, range(3))
        with closing(apsw.Connection(str(tmp_path / FILE))) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = [asyncio.ensure_future(opened.append(post(number))) for number in range(3, 8)]
            await until_async(lambda: opened.refusing, "refusing")
            assert not any(task.done() for task in waiting)
            other.execute("COMMIT")
        await asyncio.wait_for(asyncio.gather(*waiting), DEADLINE)
        assert len(await opened.everything()) == 8
        assert opened.count("journal_errors") == 0


async def test_all_posts_are_settled_when_it_closes(tmp_path: Path) -> None:
    """Those that were given before are durable."""
    async with journal(tmp_path) as opened:
        await opened.append(post(0))
        waiting = [asyncio.ensure_future(opened.append(post(number))) for number in range(1, 100)]
        await asyncio.sleep(0)
    assert [await task for task in waiting] == [digest(post(number).body) for number in range(1, 100)]
    with pytest.raises(JournalUnavailable):
        await opened.append(post(100))
    async with journal(tmp_path) as again:
        assert len(await again.bodies()) == 100


async def test_nothing_is_left_of_it(tmp_path: Path) -> None:
    """No thread and no open file, whether the journal could be opened or not."""
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / FILE).mkdir()

    def held() -> tuple[list[str], int]:
        names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
        return [name for name in names if name == "append"], len(list(Path("/proc/self/fd").iterdir()))

    async with journal(tmp_path / "good") as opened:
        assert held()[0] == ["append"]
    before = held()
    assert before[0] == []
    for number in range(3):
        async with journal(tmp_path / "good") as opened:
            await opened.append(post(number))
        with pytest.raises(JournalUnavailable):
            async with journal(tmp_path / "bad"):
                pass
    assert held() == before


async def test_without_native_code_python_appends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_python: list[Post]
) -> None:
    """With the same result."""
    monkeypatch.setattr(appender, "available", lambda: False)
    async with journal(tmp_path) as opened:
        await fill(opened, range(20))
        assert by_python == [post(number) for number in range(20)]
        assert [each.seq for each in await opened.everything()] == list(range(1, 21))
