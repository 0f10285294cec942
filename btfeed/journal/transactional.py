"""What a journal in Kafka offers sinks that write to the same cluster in transactions (sinks.base.TransactionalSink)."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from btfeed.journal.base import Commit, Outlet
from sinks.base import Offsets

Send = Callable[[Offsets, Sequence[tuple[str, bytes]]], Awaitable[None]]
"""Ends a transaction, see TransactionalSink.commit."""


class TransactionalOutlet(Outlet, Protocol):
    """An outlet of a journal in Kafka, for a sink that writes to the same cluster in transactions."""

    async def refresh(self) -> None:
        """Let `cursor` tell what is saved now. The last owner of the sink's transactions may have saved more until it was
        kept from it, which has to be before this call."""

    async def commit_in(self, commit: Commit, send: Send) -> None:
        """Save `commit` in a transaction of the sink, which `send` ends, see sinks.base.TransactionalSink. Raises what it
        raises."""
