"""What a commit says beside its offset."""

import pytest

from btfeed.journal.base import JournalUnavailable
from btfeed.journal.kafka.metadata import MAX_CHARACTERS, MAX_STATE, MAX_STATES, Metadata, StateTooLong


def test_the_text_is_as_other_versions_expect_it() -> None:
    """Short, and with the state of each process."""
    assert Metadata().text() == '{"v":1,"o":0,"s":{}}'
    saved = Metadata(7, {"b": "old"}).with_state("a", 5, '{"é":1}')
    assert saved.text() == '{"v":1,"o":5,"s":{"b":"old","a":"{\\"é\\":1}"}}'
    assert Metadata.parse(saved.text()) == saved


def test_states_of_other_processes_are_carried_along() -> None:
    """The own one becomes the newest, or goes if the sink has none."""
    saved = Metadata(0, {"a": "1", "b": "2"}).with_state("a", 3, "new")
    assert list(saved.states.items()) == [("b", "2"), ("a", "new")]
    assert saved.with_state("a", 4, None) == Metadata(4, {"b": "2"})


def test_the_newest_states_are_kept() -> None:
    """Eight of them."""
    found = Metadata()
    for number in range(12):
        found = Metadata.parse(found.with_state(f"i{number}", number, str(number)).text())
    assert list(found.states) == [f"i{number}" for number in range(12 - MAX_STATES, 12)]


def test_the_oldest_states_make_room() -> None:
    """So that the text is never longer than brokers take, also in characters that count twice there."""
    states = {f"i{number}": "\N{PILE OF POO}" * 700 for number in range(5)}
    text = Metadata(0, states).text()
    assert len(text.encode("utf-16-le")) // 2 <= MAX_CHARACTERS
    assert list(Metadata.parse(text).states) == ["i3", "i4"]


@pytest.mark.parametrize("state", ["x" * (MAX_STATE + 1), "\N{PILE OF POO}" * (MAX_STATE // 2 + 1), '"' * 2_500])
def test_a_state_that_does_not_fit_is_an_error(state: str) -> None:
    """It says how long it is, and that this sink can't be used."""
    with pytest.raises(StateTooLong, match=r"has \d+ characters.*can't be used"):
        Metadata().with_state("a", 0, state).text()
    assert Metadata().with_state("a", 0, "x" * MAX_STATE).text()


@pytest.mark.parametrize("text", [None, "", "moved by hand", "[]", '{"s":5}', '{"o":"x"}', '{"s":{"a":5}}'])
def test_what_others_wrote_says_nothing(text: str | None) -> None:
    """A tool that moves offsets leaves no ordinal and no states."""
    assert Metadata.parse(text) == Metadata()


def test_a_newer_format_is_not_guessed() -> None:
    """Its cursor might mean something else."""
    with pytest.raises(JournalUnavailable, match="format 2"):
        Metadata.parse('{"v":2,"o":1}')
