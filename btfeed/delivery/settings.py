"""How a sink's records are batched, retried and filtered: [sinks.NAME.delivery] and [sinks.NAME.filter]."""

from typing import Annotated, Literal

from pydantic import Field

from sinks.batch import Transaction
from sinks.settings import Seconds, Settings, Size


class DeliverySettings(Settings):
    """How a sink's records are batched and retried.

    max_records    a batch is written when it has this many records
    max_bytes      a batch is written when it has this many bytes
    linger         a smaller batch is written this long after its oldest post was received, if no other post is waiting
    in_flight      how many batches are written at the same time
    max_age        records with an older timestamp become dead letters
    retry_initial  the pause before a retry is random: up to this, then up to twice this, and so on
    retry_max      the longest pause before a retry, unless the destination asks for a longer one
    """

    max_records: Annotated[int, Field(ge=1)] = 5_000
    max_bytes: Annotated[Size, Field(ge=1)] = 5 * 2**20
    linger: Seconds = 0.2
    in_flight: Annotated[int, Field(ge=1, le=64)] = 1
    max_age: Annotated[Seconds, Field(gt=0)] | None = None
    retry_initial: Annotated[Seconds, Field(gt=0)] = 1.0
    retry_max: Annotated[Seconds, Field(gt=0)] = 60.0


class FilterSettings(Settings):
    """Which records a sink gets: those that match every list. An empty list matches all.

    category     event.category: purepath, user_action, visit or unknown
    application  appmon.application as records have it, so the hash if record.privacy hashes it
    name         event.name as records have it
    """

    category: list[Literal["purepath", "user_action", "visit", "unknown"]] = []
    application: list[str] = []
    name: list[str] = []

    def accepts(self, transaction: Transaction) -> bool:
        return (
            (not self.category or transaction.category in self.category)
            and (not self.application or transaction.application in self.application)
            and (not self.name or transaction.name in self.name)
        )
