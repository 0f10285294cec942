"""What the topic PREFIX.dead-letters has, as messages and back. It is compacted: of each key, the newest message counts.

    key                      value
    SINK/EVENT_ID            a letter: JSON with the fields of DeadLetter, and two more: `partition`, where it came from,
                             and `mark`: marks for retry before this offset of PREFIX.retries are not for this version
    FF "post/" OFFSET/DIGEST what became of a post in PREFIX.refused: it is gone, or it was refused again
    FF "paused/" SINK        since when a sink is paused, in milliseconds since the epoch

No text begins with the byte FF, so no sink has such a name. A message without a value ends what its key stands for.

A message of PREFIX.retries has the key of a letter, and no more to say.

Ids ascend with time, over both topics of dead letters and over all processes: milliseconds since 2020 times 4096, and a
number. Those of records are even, those of posts odd. JavaScript can count so far until 2089.
"""

from dataclasses import astuple
from typing import Any

import msgspec

from btfeed.journal.base import DeadLetter
from sinks.batch import Transaction

UNREADABLE = "damaged in the journal"
"""The reason of a letter that can't be read. Its body is empty."""
EPOCH = 1_577_836_800_000
"""When ids begin, in milliseconds since the epoch."""
IDS_PER_MS = 4096
_CONTROL = b"\xff"
_POST, _PAUSED = _CONTROL + b"post/", _CONTROL + b"paused/"


class Head(msgspec.Struct, omit_defaults=True):
    """What the index knows of a letter. partition: of the posts that it came from. mark: see the module."""

    sink: str
    event_id: str | None
    id: int
    time: int
    cause: str
    destination: str = ""
    partition: int = 0
    mark: int = 0


class Letter(Head, omit_defaults=True):
    """A letter as it is stored. text: the body if it is text, else it is in `raw`."""

    reason: str = ""
    tries: int = 1
    key: str = ""
    timestamp: int = 0
    transaction: tuple[str, str, str, str, str] | None = None
    text: str | None = None
    raw: bytes = b""


class Outcome(msgspec.Struct, omit_defaults=True):
    """What became of a refused post. reason and tries: since its last try, if it is not gone."""

    gone: bool = False
    reason: str = ""
    tries: int = 1


class Pause(msgspec.Struct):
    since: int


_heads = msgspec.json.Decoder(Head)
_letters = msgspec.json.Decoder(Letter)
_outcomes = msgspec.json.Decoder(Outcome)
_pauses = msgspec.json.Decoder(Pause)
_encode = msgspec.json.Encoder().encode


# Keys


def letter_key(sink: str, event_id: str | None) -> bytes:
    """Event ids have no slash, so no two letters have one key."""
    return f"{sink}/{event_id or ''}".encode(errors="surrogatepass")


def named_by(key: bytes) -> tuple[str, str]:
    """Sink and event id in the key of a letter."""
    sink, _, event_id = key.decode(errors="replace").rpartition("/")
    return sink, event_id


def post_key(offset: int, digest: bytes) -> bytes:
    return _POST + f"{offset}/{digest.hex()}".encode()


def post_in(key: bytes) -> tuple[int, str] | None:
    """Offset and digest of the refused post that a key is about; None if it is about something else."""
    offset, _, digest = key.removeprefix(_POST).decode(errors="replace").partition("/")
    return (int(offset), digest) if key.startswith(_POST) and offset.isascii() and offset.isdecimal() else None


def pause_key(sink: str) -> bytes:
    return _PAUSED + sink.encode(errors="surrogatepass")


def paused_by(key: bytes) -> str | None:
    """The sink whose pause a key is about; None if it is about something else."""
    return key.removeprefix(_PAUSED).decode(errors="replace") if key.startswith(_PAUSED) else None


def is_letter(key: bytes) -> bool:
    return not key.startswith(_CONTROL)


# Ids


def first_id(now: int) -> int:
    """The first id of this millisecond: for records."""
    return max(1, now - EPOCH) * IDS_PER_MS


def post_id(timestamp: int, offset: int) -> int:
    """The id of a refused post, by the timestamp and the offset of its message."""
    return first_id(timestamp) + offset % (IDS_PER_MS // 2) * 2 + 1


# Values


def encode_letter(letter: DeadLetter, partition: int, mark: int) -> bytes:
    """The letter as it is from now on."""
    try:
        text, raw = letter.body.decode(), b""
    except UnicodeDecodeError:
        text, raw = None, letter.body
    stored = Letter(
        clean(letter.sink), letter.event_id, letter.id, letter.time, letter.cause, clean(letter.destination), partition,
        mark,
        clean(letter.reason), letter.tries, clean(letter.key), letter.timestamp,
        _names(letter.transaction) if letter.transaction else None, text, raw,
    )  # fmt: skip
    return _encode(stored)


def encode_outcome(outcome: Outcome) -> bytes:
    return _encode(outcome)


def encode_pause(since: int) -> bytes:
    return _encode(Pause(since))


def decode_head(value: bytes) -> Head | None:
    """None if it is no letter."""
    head: Head | None = _decoded(_heads, value)
    return head


def decode_letter(value: bytes) -> DeadLetter | None:
    """None if it is no letter."""
    stored: Letter | None = _decoded(_letters, value)
    if stored is None:
        return None
    return DeadLetter(
        "record", stored.sink, stored.reason, stored.time, stored.raw if stored.text is None else stored.text.encode(),
        stored.tries, stored.event_id, stored.key, stored.timestamp,
        Transaction(*stored.transaction) if stored.transaction else None, stored.id, stored.destination, stored.cause,
    )  # fmt: skip


def decode_outcome(value: bytes) -> Outcome | None:
    """None if it is not one."""
    outcome: Outcome | None = _decoded(_outcomes, value)
    return outcome


def decode_pause(value: bytes) -> int | None:
    """None if it is not one."""
    pause = _decoded(_pauses, value)
    return pause.since if pause else None


def clean(text: str) -> str:
    """Without characters that UTF-8 can't encode: a far end's JSON may have them."""
    return text.encode("utf-8", "replace").decode()


def _names(transaction: Transaction) -> Any:
    return tuple(map(clean, astuple(transaction)))


def _decoded(decoder: Any, value: bytes) -> Any:
    try:
        return decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
