"""Messages that wait for their acknowledgement, in the queue of their partition."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from aiokafka.errors import InvalidTimestampError

from btfeed.journal.base import JournalUnavailable, PostTooLarge
from btfeed.journal.kafka.messages import Headers
from sinks.base import BatchRefused, SinkError
from sinks.kafka.producer import RecordsRefused, TooLarge

WRONG_CLOCK = "is the clock of this machine right? See message.timestamp.after.max.ms and before.max.ms of the topic"


class NotAcknowledged(JournalUnavailable):
    """partition: the one that the message may be in, so that it has to be sent there again; None if it was not sent."""

    def __init__(self, reason: str, partition: int | None) -> None:
        super().__init__(reason)
        self.partition = partition


class Rejected(NotAcknowledged):
    """A broker answers, and takes other messages, but not this one for what is in it. It may take it later, for example
    when the time in it has come."""


@dataclass(slots=True, eq=False)
class Message:
    """A message that waits for its acknowledgement. deadline: by the clock's monotonic time. sent: whether it may be in its
    partition already."""

    key: bytes
    value: bytes
    timestamp: int
    headers: Headers
    deadline: float
    acknowledged: "asyncio.Future[None]"
    partition: int = 0
    sent: bool = False

    def fail(self, reason: str) -> None:
        self.refuse(NotAcknowledged(reason, self.partition if self.sent else None))

    def refuse(self, error: Exception) -> None:
        if not self.acknowledged.done():
            self.acknowledged.set_exception(error)
            self.acknowledged.exception()  # its caller may have gone away


@dataclass(slots=True, eq=False)
class Lane:
    """The queue of a partition.

    since   when what is under way was sent
    singly  how many messages to send one by one
    error   of the last attempt; empty if it succeeded
    """

    topic: str
    partition: int
    waiting: deque[Message] = field(default_factory=deque)
    under_way: list[Message] = field(default_factory=list)
    since: float | None = None
    task: "asyncio.Task[None] | None" = None
    passed_over_until: float = float("-inf")
    singly: int = 0
    error: str = ""


def refused(error: SinkError) -> Exception:
    """What became of a message that brokers refused: it is in no partition."""
    if isinstance(error, TooLarge):
        return PostTooLarge(str(error))
    if not isinstance(error, BatchRefused):
        return NotAcknowledged(str(error), None)
    why = error.records.get(0, str(error)) if isinstance(error, RecordsRefused) else str(error)
    return Rejected(f"{why}; {WRONG_CLOCK}" if isinstance(error.__cause__, InvalidTimestampError) else why, None)
