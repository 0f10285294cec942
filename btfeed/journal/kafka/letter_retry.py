"""What an operator's retry of dead letters means: posts are appended again, records are marked in the topic of retries.

Letters are never gone before what becomes of them is durable: a retry that ends halfway may be repeated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from btfeed.journal.base import DeadLetter, Wants
from btfeed.journal.kafka import letter_messages
from btfeed.journal.kafka.letter_index import Entry
from btfeed.journal.kafka.letter_log import Message
from btfeed.journal.kafka.messages import to_message
from btfeed.journal.readmission import why_not
from btfeed.posts.post import Post, digest
from sinks.kafka.partitions import partition_of

if TYPE_CHECKING:
    from btfeed.journal.kafka.letters import Letters


async def retry(letters: "Letters", ids: Sequence[int], sinks: Mapping[str, Wants]) -> tuple[int, Sequence[int]]:
    """Retry as many of the first ids as fit into memory. Returns how many could be, and the other ids."""
    entries, number = letters.piece(ids)
    loaded = await letters.load(entries)
    takers = {entry.id: letter.retried_by(sinks) for entry, letter in loaded}
    retried = [(entry, letter) for entry, letter in loaded if takers[entry.id]]
    await _append([(entry, letter) for entry, letter in retried if entry.is_post], letters)
    records = [(entry, letter) for entry, letter in retried if not entry.is_post]
    await letters.write(
        [
            *_split(letters, records, takers),
            *(
                letters.changes.mark(sink, letter.event_id)
                for entry, letter in records
                if not entry.destination  # it is retried anyway
                for sink in takers[entry.id]
            ),
            *(letters.changes.gone(entry) for entry, letter in records if not letter.sink),
        ]
    )
    return len(retried), ids[number:]


def _split(
    letters: "Letters", records: Sequence[tuple[Entry, DeadLetter]], takers: Mapping[int, Sequence[str]]
) -> list[Message]:
    """A record of no single sink becomes one of each that wants it."""
    return [
        letters.new(replace(letter, sink=sink), entry.partition)
        for entry, letter in records
        if not letter.sink
        for sink in takers[entry.id]
        if letter_messages.letter_key(sink, letter.event_id) not in letters.index.by_key
    ]


async def _append(posts: Sequence[tuple[Entry, DeadLetter]], letters: "Letters") -> None:
    """Append rejected posts if they are valid now."""
    for entry, letter in posts:
        if invalid := why_not(letter, letters.max_occurrences):
            await letters.write([letters.changes.refused_again(entry, letter, invalid)])
            continue
        name = digest(letter.body)
        key, value, timestamp, headers = to_message(Post(letter.body, letters.changes.now(), "dead-letter"), name)
        topic = letters.names.posts
        partition = partition_of(name, await letters.log.partitions(topic))
        if await letters.log.write([Message(topic, key, value, timestamp, headers, partition)]):
            why = f"its {len(value)} bytes are more than topic {topic} takes (max.message.bytes)"
            await letters.write([letters.changes.refused_again(entry, letter, why)])
        else:
            await letters.write([letters.changes.gone(entry)])
