"""The newest posts, in memory."""

import pytest

from btfeed.journal.sqlite.layout import bytes_taken
from btfeed.journal.sqlite.recent import RecentPosts
from tests.journal.journals import EVERYTHING, entries, post

POSTS = entries(5, [post(number) for number in range(10)])


@pytest.fixture
def kept() -> RecentPosts:
    """Posts 5 to 14, and room for no more."""
    found = RecentPosts(10 * bytes_taken(POSTS[0].post))
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
