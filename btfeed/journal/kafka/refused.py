"""A rejected or damaged post as a message of the topic PREFIX.refused, and back.

key        the digest of the body, 32 bytes
value      the body
timestamp  when it was added, in milliseconds since the epoch: the order of dead letters depends on it
headers    `reason`, `cause`, `time` (when it failed, in milliseconds since the epoch, as digits) and `tries`
"""

from typing import Any

from btfeed.journal.base import DeadLetter
from btfeed.journal.kafka.messages import Headers
from btfeed.posts.post import digest


def to_message(letter: DeadLetter, now: int) -> tuple[bytes, bytes, int, Headers]:
    """Key, value, timestamp and headers. now: milliseconds since the epoch."""
    said = {"reason": letter.reason, "cause": letter.cause, "time": str(letter.time), "tries": str(letter.tries)}
    headers = [(name, value.encode(errors="backslashreplace")) for name, value in said.items()]
    return digest(letter.body), letter.body, now, headers


def to_letter(record: Any, id: int) -> DeadLetter:
    """The letter in a ConsumerRecord of aiokafka, under this id."""
    said = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    return DeadLetter(
        "post", "", said.get("reason", ""), _number(said.get("time"), record.timestamp), record.value or b"",
        _number(said.get("tries"), 1), id=id, cause=said.get("cause", ""),
    )  # fmt: skip


def _number(text: str | None, other: int) -> int:
    return int(text) if text and text.isascii() and text.isdecimal() else other
