"""What changes dead letters, as messages: new letters, their next versions, and their end."""

from dataclasses import replace
from typing import Any
from uuid import uuid4

from btfeed.journal.base import DeadLetter
from btfeed.journal.kafka import letter_messages, refused
from btfeed.journal.kafka.letter_index import Entry, LetterIndex
from btfeed.journal.kafka.letter_log import Message
from btfeed.journal.kafka.letter_messages import UNREADABLE, Outcome
from btfeed.journal.kafka.names import Names
from sinks.shared.clock import Clock

_EVICTED_BY = "evicted-by"
"""The header of the end of a letter that was deleted for lack of room: several processes may delete it at once, and the one
whose message is the first counts it."""


class LetterChanges:
    """Makes the messages of one process."""

    def __init__(self, names: Names, index: LetterIndex, clock: Clock) -> None:
        self._names = names
        self._index = index
        self._clock = clock
        self._last_id = 0
        self._evictor = uuid4().bytes

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return round(self._clock.time() * 1000)

    def new(self, letter: DeadLetter, partition: int, mark: int) -> Message:
        """A record that becomes a letter. mark: the offset of the next mark for retry. Earlier ones are not for it."""
        self._last_id = max(self._last_id + 2, letter_messages.first_id(self.now()))
        key = letter_messages.letter_key(letter.sink, letter.event_id)
        return self._version(key, replace(letter, id=self._last_id), partition, mark)

    def refused(self, letter: DeadLetter) -> Message:
        """A post that becomes a letter."""
        key, value, timestamp, headers = refused.to_message(letter, self.now())
        return Message(self._names.refused, key, value, timestamp, headers)

    def gone(self, entry: Entry) -> Message:
        """The end of a letter."""
        value = letter_messages.encode_outcome(Outcome(gone=True)) if entry.is_post else None
        return Message(self._names.dead_letters, entry.key, value, self.now())

    def evicted(self, entry: Entry) -> Message:
        """The end of a letter that this process deletes for lack of room."""
        return self.gone(entry)._replace(headers=[(_EVICTED_BY, self._evictor)])

    def has_evicted(self, record: Any) -> bool:
        """Whether a message of the topic is an `evicted` of this process."""
        return (_EVICTED_BY, self._evictor) in record.headers

    def refused_again(self, entry: Entry, letter: DeadLetter, reason: str) -> Message:
        """A letter whose retry has failed, and that waits for no destination. A post keeps its time."""
        now, tries = self.now(), letter.tries + 1
        if entry.is_post:
            outcome = Outcome(reason=letter_messages.clean(reason), tries=tries)
            return Message(self._names.dead_letters, entry.key, letter_messages.encode_outcome(outcome), now)
        return self._next(entry, replace(letter, reason=reason, tries=tries, time=now, destination="", cause="refused"))

    def waiting_again(self, entry: Entry, letter: DeadLetter, destination: str, reason: str) -> Message:
        """A letter that waits for a destination from now on, or still. Its time stays as it is if it waited before."""
        tries, since = letter.tries + 1, letter.time if letter.destination else self.now()
        changed = replace(letter, reason=reason, tries=tries, time=since, destination=destination, cause="waiting")
        return self._next(entry, changed)

    def damaged(self, entry: Entry, letter: DeadLetter) -> Message:
        """A letter that can't be read, and that nothing retries from now on."""
        return self._next(entry, replace(letter, destination="", cause="damaged", reason=UNREADABLE))

    def without_body(self, message: Message) -> Message | None:
        """A letter that its topic does not take, without its body. None for a post: it is its body."""
        value = message.value or b""
        head, letter = letter_messages.decode_head(value), letter_messages.decode_letter(value)
        if message.topic != self._names.dead_letters or head is None or letter is None:
            return None
        reason = f"{letter.reason}; its {len(value)} bytes are more than topic {message.topic} takes"
        cut = replace(letter, body=b"", destination="", cause="damaged", reason=reason)
        return self._version(message.key, cut, head.partition, head.mark)

    def pause(self, sink: str) -> Message:
        """A sink is paused from now on."""
        now = self.now()
        key, value = letter_messages.pause_key(sink), letter_messages.encode_pause(now)
        return Message(self._names.dead_letters, key, value, now)

    def resume(self, sink: str) -> Message:
        """A sink is paused no longer."""
        return Message(self._names.dead_letters, letter_messages.pause_key(sink), None, self.now())

    def mark(self, sink: str, event_id: str | None) -> Message:
        """A sink is to retry a record."""
        return Message(self._names.retries, letter_messages.letter_key(sink, event_id), b"", self.now())

    def forgotten(self, key: bytes) -> Message:
        """What became of a post that the brokers have deleted."""
        return Message(self._names.dead_letters, key, None, self.now())

    def _next(self, entry: Entry, letter: DeadLetter) -> Message:
        return self._version(entry.key, letter, entry.partition, self._index.mark_after(entry))

    def _version(self, key: bytes, letter: DeadLetter, partition: int, mark: int) -> Message:
        value = letter_messages.encode_letter(letter, partition, mark)
        return Message(self._names.dead_letters, key, value, self.now())
