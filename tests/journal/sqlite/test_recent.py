"""The newest posts, in memory."""

import pytest

from btfeed.journal.sqlite import recent
from btfeed.journal.sqlite.layout import bytes_taken
from btfeed.journal.sqlite.recent import Recent
from tests.journal.journals import EVERYTHING, entries, post

POSTS = entries(5, [post(number) for number in range(10)])


@pytest.fixture
def kept() -> Recent:
    """Posts 5 to 14."""
    found = Recent()
    found.add(POSTS[:4])
    found.add(POSTS[4:])
    return found


def test_it_reads_from_any_of_them_on(kept: Recent) -> None:
    """As many as fit, one at least; nothing from a number that is not there."""
    assert kept.read(5, EVERYTHING) == POSTS
    assert kept.read(7, 400) == POSTS[2:4]
    assert kept.read(14, 0) == POSTS[9:]
    assert kept.read(4, EVERYTHING) == kept.read(15, EVERYTHING) == []


def test_what_was_passed_goes(kept: Recent) -> None:
    """Up to the number below which all is passed, however high that is."""
    kept.let_go(8)
    assert (kept.read(7, EVERYTHING), kept.read(8, EVERYTHING)) == ([], POSTS[3:])
    kept.let_go(100)
    assert kept.read(14, EVERYTHING) == []
    kept.add(entries(15, [post(15)]))
    assert [entry.seq for entry in kept.read(15, EVERYTHING)] == [15]


def test_the_oldest_go_where_there_are_too_many(kept: Recent, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stays takes no more than the bound."""
    monkeypatch.setattr(recent, "RECENT_BYTES", 3 * bytes_taken(POSTS[0].post))
    kept.add(entries(15, [post(15)]))
    assert kept.read(12, EVERYTHING) == []
    assert [entry.seq for entry in kept.read(13, EVERYTHING)] == [13, 14, 15]


def test_a_gap_begins_anew(kept: Recent) -> None:
    """What it has is always without gaps."""
    kept.add(entries(20, [post(20)]))
    assert kept.read(14, EVERYTHING) == []
    assert [entry.seq for entry in kept.read(20, EVERYTHING)] == [20]
    kept.clear()
    assert kept.read(20, EVERYTHING) == []
