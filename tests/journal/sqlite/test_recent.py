"""The newest posts, in memory."""

import tracemalloc

import pytest

from btfeed.journal.base import Entry
from btfeed.journal.sqlite.recent import OVERHEAD, RecentPosts
from btfeed.posts.post import Post, digest
from tests.journal.journals import EVERYTHING, entries, post

POSTS = entries(5, [post(number) for number in range(10)])


@pytest.fixture
def kept() -> RecentPosts:
    """Posts 5 to 14, and room for no more."""
    found = RecentPosts(10 * (len(POSTS[0].post.body) + OVERHEAD))
    found.add(POSTS[:4])
    found.add(POSTS[4:])
    return found


def test_posts_are_found_from_any_number_on(kept: RecentPosts) -> None:
    """As many as fit, but at least one. Nothing if that number is not in memory."""
    assert kept.find(5, EVERYTHING) == POSTS
    assert kept.find(7, 400) == POSTS[2:4]
    assert kept.find(14, 0) == POSTS[9:]
    assert kept.find(4, EVERYTHING) == kept.find(15, EVERYTHING) == []


def test_passed_posts_are_dropped(kept: RecentPosts) -> None:
    """Up to any number, even one higher than the newest."""
    kept.drop_below(8)
    assert (kept.find(7, EVERYTHING), kept.find(8, EVERYTHING)) == ([], POSTS[3:])
    kept.drop_below(100)
    assert kept.find(14, EVERYTHING) == []
    kept.add(entries(15, [post(15)]))
    assert [entry.seq for entry in kept.find(15, EVERYTHING)] == [15]


def test_the_oldest_are_dropped_beyond_the_limit(kept: RecentPosts) -> None:
    """When newer posts are added."""
    kept.add(entries(15, [post(15)]))
    assert kept.find(5, EVERYTHING) == []
    assert [entry.seq for entry in kept.find(6, EVERYTHING)] == list(range(6, 16))


def test_a_gap_drops_all_older_posts(kept: RecentPosts) -> None:
    """What is in memory never has gaps."""
    kept.add(entries(20, [post(20)]))
    assert kept.find(14, EVERYTHING) == []
    assert [entry.seq for entry in kept.find(20, EVERYTHING)] == [20]
    kept.clear()
    assert kept.find(20, EVERYTHING) == []


@pytest.mark.parametrize("size", [100, 20_000])
def test_the_limit_is_that_of_memory(size: int) -> None:
    """Whether the posts are small or large."""
    kept = RecentPosts(2**20)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1_000, 1_000 + 2**21 // size):
            body = number.to_bytes(4) + bytes(size - 4)
            kept.add([Entry(number, Post(body, 1_700_000_000_000 + number, "127.0.0.1"), digest(body))])
        memory = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.8 * 2**20 < memory < 1.2 * 2**20
