"""What a sink saves of a partition beside the offset: text that brokers keep with it, in the same atomic append.

    {"v":1,"o":ORDINAL,"s":{"INSTANCE":STATE, ...}}

ORDINAL is that of the cursor, STATE the text that the sink of a process saved when it last owned the partition. A process
is told only its own; those of others are carried along, so that a file sink that gets a partition back, perhaps after
weeks, finds its own last length and cuts its file there. The newest come last; all but the newest MAX_STATES are dropped,
and more of them if the text would be too long.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from btfeed.journal.base import JournalUnavailable

VERSION = 1
MAX_CHARACTERS = 4_096
"""Characters of the text that brokers take by default (offset.metadata.max.bytes, which counts UTF-16 units)."""
MAX_STATE = 3_000
"""Characters of a state. So that of one process always fits, however it is escaped in practice."""
MAX_STATES = 8
"""Processes whose states are kept for a partition."""


class StateTooLong(JournalUnavailable):
    """The sink's state does not fit. It takes a person, or another version of the sink."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """ordinal: the cursor's. states: name of a process -> the sink's state in it, the newest last."""

    ordinal: int = 0
    states: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def parse(text: str | None) -> "Metadata":
        """What a commit's text says. One that btfeed did not write, such as that of a tool that moves offsets, says
        nothing. Raises JournalUnavailable if a newer btfeed has written it."""
        try:
            found = json.loads(text or "{}")
            version = found.get("v", VERSION)
            states = {str(name): state for name, state in found.get("s", {}).items() if isinstance(state, str)}
            ordinal = int(found.get("o", 0))
        except (ValueError, TypeError, AttributeError):
            return Metadata()
        if version != VERSION:
            raise JournalUnavailable(f"the sink's cursor has format {version}, which needs a newer btfeed")
        return Metadata(max(0, ordinal), states)

    def with_state(self, instance: str, ordinal: int, state: str | None) -> "Metadata":
        """These, but with another ordinal and the state of this process. None: it has none."""
        others = {name: kept for name, kept in self.states.items() if name != instance}
        return Metadata(ordinal, others if state is None else others | {instance: state})

    def text(self) -> str:
        """At most MAX_CHARACTERS. Drops the oldest states if need be, but the newest one. Raises StateTooLong."""
        states = list(self.states.items())[-MAX_STATES:]
        if states and _length(states[-1][1]) > MAX_STATE:
            raise _too_long(_length(states[-1][1]))
        while True:
            text = json.dumps(
                {"v": VERSION, "o": self.ordinal, "s": dict(states)}, ensure_ascii=False, separators=(",", ":")
            )
            if _length(text) <= MAX_CHARACTERS:
                return text
            if len(states) == 1:
                raise _too_long(_length(states[-1][1]))
            del states[0]


def _length(text: str) -> int:
    """Characters as brokers count them."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _too_long(length: int) -> StateTooLong:
    return StateTooLong(
        f"the sink's state has {length} characters, and Kafka keeps at most {MAX_STATE}: this sink can't be used with"
        " journal.type kafka"
    )
