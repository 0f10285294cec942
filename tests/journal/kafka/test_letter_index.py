"""The index of dead letters: whatever compaction has removed, and whichever topic is ahead, it says the same."""

import random
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from btfeed.journal.base import ALL, Selection
from btfeed.journal.kafka import letter_messages, refused
from btfeed.journal.kafka.letter_index import LetterIndex
from btfeed.journal.kafka.letter_messages import Outcome, letter_key, pause_key, post_key
from btfeed.posts.post import digest
from tests.journal.journals import dead_letter, seeded

NOW = 1_764_000_000_000
LETTERS, REFUSED, RETRIES = "letters", "refused", "retries"


def message(offset: int, key: bytes, value: bytes | None = b"", headers: Any = ()) -> Any:
    """A ConsumerRecord of aiokafka."""
    return SimpleNamespace(offset=offset, key=key, value=value, timestamp=NOW + offset, headers=headers)


def letter(offset: int, number: int, mark: int = 0, **changes: Any) -> Any:
    """A version of the letter of record `number` of the sink a, or of another that `changes` names."""
    found = replace(dead_letter(number), id=letter_messages.first_id(NOW) + 2 * number, **changes)
    return message(offset, letter_key(found.sink, found.event_id), letter_messages.encode_letter(found, 0, mark))


def index(**topics: list[Any]) -> LetterIndex:
    """Of these messages, read topic by topic."""
    found = LetterIndex()
    folds = {LETTERS: found.add_letter, REFUSED: found.add_refused, RETRIES: found.add_mark}
    for topic, messages in topics.items():
        for each in messages:
            folds[topic](each)
    return found


def compacted(messages: list[Any], dirty: int) -> list[Any]:
    """What a compacted topic may have: of each key, the newest message only, except in its end from index `dirty` on."""
    newest = {each.key: each.offset for each in messages[:dirty]}
    later = {each.key for each in messages[dirty:]}
    kept = [each for each in messages[:dirty] if newest[each.key] == each.offset and each.key not in later]
    return [each for each in kept if each.value is not None] + messages[dirty:]


def said(found: LetterIndex) -> dict[str, Any]:
    """All that an index says."""
    entries = [found.get(number) for number in found.find(ALL)]
    return {
        "entries": [(each.id, each.key, each.offset, each.outcome) for each in entries if each],
        "kept": sorted(found.kept()),
        "marked": {sink: [each.id for each in found.marked(sink, 99)] for sink in "ab"},
        "first mark": {sink: found.first_mark(sink) for sink in "ab"},
        "waiting": {sink: found.destinations(sink, 0) for sink in "ab"},
        "paused": found.paused,
        "sizes": (len(found), found.records, found.nbytes),
    }


def history(chance: random.Random) -> Iterator[tuple[str, Any]]:
    """What happens to a few letters of two sinks, and to refused posts, as topic and message."""
    ends = {LETTERS: 0, REFUSED: 0, RETRIES: 0}
    gone = set[int]()
    marks = dict[bytes, int]()  # which ascend with the versions
    for _ in range(chance.randrange(1, 60)):
        number, sink = chance.randrange(4), chance.choice("ab")
        key = letter_key(sink, f"id-{number}")
        topic = chance.choice((LETTERS, LETTERS, LETTERS, REFUSED, RETRIES))
        offset = ends[topic]
        ends[topic] += 1
        if topic == REFUSED:
            body = b"%d" % offset
            post = replace(dead_letter(0), kind="post", sink="", cause="malformed", body=body)
            _, value, _, headers = refused.to_message(post, NOW)
            yield topic, message(offset, digest(body), value, headers)
        elif topic == RETRIES:
            yield topic, message(offset, key)
        elif chance.random() < 0.2:
            yield topic, message(offset, key, None)
        elif chance.random() < 0.2 and ends[REFUSED]:
            post_offset = chance.randrange(ends[REFUSED])
            gone |= {post_offset} if chance.random() < 0.5 else set()  # which is final
            outcome = Outcome(post_offset in gone, "still", 2)
            name = post_key(post_offset, digest(b"%d" % post_offset))
            yield topic, message(offset, name, letter_messages.encode_outcome(outcome))
        elif chance.random() < 0.2:
            since = letter_messages.encode_pause(NOW) if chance.random() < 0.5 else None
            yield topic, message(offset, pause_key(sink), since)
        else:
            destination = chance.choice(("", "topic"))
            ident = {"sink": sink, "destination": destination, "cause": chance.choice(("refused", "waiting"))}
            marks[key] = max(marks.get(key, 0), chance.randrange(ends[RETRIES] + 1))
            found = letter(offset, number + 10 * (sink == "b"), marks[key], **ident)
            yield topic, SimpleNamespace(**(vars(found) | {"key": key}))


def test_compaction_and_the_order_of_topics_change_nothing() -> None:
    """A process that starts later says what one says that has read every message when it came."""
    chance = seeded()
    for _ in range(300):
        happened = list(history(chance))
        live = LetterIndex()
        folds = {LETTERS: live.add_letter, REFUSED: live.add_refused, RETRIES: live.add_mark}
        for topic, each in happened:
            folds[topic](each)
        topics = {name: [each for topic, each in happened if topic == name] for name in folds}
        topics[LETTERS] = compacted(topics[LETTERS], chance.randrange(len(topics[LETTERS]) + 1))
        order = list(topics)
        chance.shuffle(order)
        assert said(index(**{name: topics[name] for name in order})) == said(live)


def test_a_mark_is_for_the_version_that_it_was_made_for() -> None:
    """The versions that end it say so by its offset. A newer mark counts."""
    marks = [message(offset, letter_key("a", "id-1")) for offset in (3, 7)]
    for before, marked in ((0, True), (7, True), (8, False)):
        assert bool(index(letters=[letter(0, 1, mark=before)], retries=marks).marked("a", 9)) == marked
    found = index(letters=[letter(0, 1)], retries=marks[:1])
    (entry,) = found.marked("a", 9)
    assert found.mark_after(entry) == 4
    found.add_letter(letter(1, 1, mark=4))
    assert found.marked("a", 9) == []
    found.add_mark(marks[1])
    assert len(found.marked("a", 9)) == 1


def test_a_mark_is_not_for_a_letter_that_waits_for_a_destination() -> None:
    """The outlet of its partition retries it anyway: two outlets would deliver it twice. No later version has the mark."""
    found = index(letters=[letter(0, 1, destination="topic")], retries=[message(0, letter_key("a", "id-1"))])
    (entry,) = found.waiting("a", 0, "topic", 9)
    assert (found.marked("a", 9), found.first_mark("a"), found.mark_after(entry)) == ([], None, 1)


def test_marks_of_letters_that_are_gone_are_forgotten() -> None:
    """Those that were read behind all letters. They must not take memory for ever."""
    found = index(retries=[message(0, letter_key("a", "id-1")), message(1, letter_key("a", "id-2"))])
    found.drop_marks(1)
    found.add_letter(letter(0, 1))
    found.add_letter(letter(1, 2))
    assert [entry.key for entry in found.marked("a", 9)] == [letter_key("a", "id-2")]


def test_two_letters_of_one_moment_have_different_ids() -> None:
    """Two processes may choose the same one."""
    other = message(1, letter_key("b", "id-1"), letter(0, 1).value)
    found = index(letters=[letter(0, 1), other])
    first, second = found.find(ALL)
    assert second == first + 2


def test_an_outcome_is_for_the_post_with_its_digest() -> None:
    """If the topic of refused posts was made again, its offsets start from 0, and are other posts."""
    gone = message(0, post_key(0, digest(b"before")), letter_messages.encode_outcome(Outcome(gone=True)))
    post = message(0, digest(b"now"), b"now")
    for found in (index(letters=[gone], refused=[post]), index(refused=[post], letters=[gone])):
        assert found.count(Selection("")) == 1


def test_keys_are_told_apart() -> None:
    """Whatever a sink is called: no name begins as other keys do."""
    for sink in ("a", "", "a/b", "post/1/00", "paused/a", "ä"):
        for key in (letter_key(sink, "id-1"), pause_key(sink)):
            assert letter_messages.is_letter(key) == (key == letter_key(sink, "id-1"))
        assert letter_messages.named_by(letter_key(sink, "id-1")) == (sink, "id-1")
        assert letter_messages.paused_by(pause_key(sink)) == sink
        assert letter_messages.post_in(letter_key(sink, "id-1")) is None
    assert letter_messages.post_in(post_key(7, b"\x01\x02")) == (7, "0102")


def test_what_others_write_is_no_error() -> None:
    """Keys and values that mean nothing."""
    values = (b"", b"nonsense", b"{}", b"[]", b"\xff", None)
    keys = (b"", b"\xff", b"\xffpost/", b"\xffpost/x/y", b"\xffpaused/", b"no slash", b"\xfe/\xfe")
    found = index(
        letters=[message(0, key, value) for key in keys for value in values],
        retries=[message(0, key) for key in keys],
        refused=[message(0, b"", None, [("time", b"x"), ("cause", None)])],
    )
    assert {cause for _, cause, _, _ in found.kept()} <= {"damaged", ""}
