"""Keeps a client of aiokafka alive over errors that it does not expect, and quiet about those that it reports.

aiokafka's tasks survive its own errors only. A connection whose transport is closed, which it does not know yet, raises
RuntimeError at the next write (uvloop) or OSError. The task that meets that ends for good: nothing is fetched any more, or
no change of leaders is noticed, and questions about offsets wait for ever.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiokafka import errors
from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.protocol.api import Response


def steady(client: Any, metadata: Response) -> None:
    """Let the client's `send` raise KafkaConnectionError instead, and connect again the next time. Let it start with
    `metadata`, which `ClusterAccess.verify` returned: if it asked for that itself, it would ask one server after the other,
    and leave a connection open if it was cancelled.
    """

    async def bootstrap() -> None:
        client.cluster.update_metadata(metadata)
        client._sync_task = asyncio.create_task(_follow(client))

    client.bootstrap = bootstrap
    client.send = _steady(client, client.send)


async def _follow(client: Any) -> None:
    """Ask for changes of leaders until a connection is broken. `close` would raise that error, and close no connection."""
    with suppress(RuntimeError, OSError):
        await client._md_synchronizer()


def _steady(client: Any, send: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def steadily(node: Any, request: Any, **more: Any) -> Any:
        try:
            return await send(node, request, **more)
        except errors.KafkaError:
            raise
        except (RuntimeError, OSError) as error:
            connection = client._conns.pop((node, more.get("group", ConnectionGroup.DEFAULT)), None)
            if connection:
                connection.close(reason=CloseReason.CONNECTION_BROKEN)
            raise errors.KafkaConnectionError(f"connection to broker {node} broken: {error}") from error

    return steadily


def quiet(producer: Any) -> None:
    """Let a producer's error be raised only to those who wait for an outcome. aiokafka also sets it on futures that nobody
    awaits, and asyncio would log each of them as an exception that was never retrieved."""
    batches, transactions = producer._message_accumulator, producer._txn_manager
    append_batch, fail_all = batches._append_batch, batches.fail_all

    def append(*arguments: Any) -> Any:
        batch = append_batch(*arguments)
        batch.future.add_done_callback(_retrieve)  # who waited for it may have given up
        return batch

    def fail(error: BaseException) -> None:
        waiting = [*batches._pending_batches, *(batch for queue in batches._batches.values() for batch in queue)]
        for batch in waiting:
            batch._drain_waiter.add_done_callback(_retrieve)
        fail_all(error)

    batches._append_batch, batches.fail_all = append, fail
    for name in ("error_transaction", "fatal_error"):
        setattr(transactions, name, _retrieving(transactions, getattr(transactions, name)))


def _retrieving(transactions: Any, end: Callable[[BaseException], None]) -> Callable[[BaseException], None]:
    def ending(error: BaseException) -> None:
        end(error)
        _retrieve(transactions.wait_for_transaction_end())

    return ending


def _retrieve(outcome: "asyncio.Future[Any]") -> None:
    if outcome.done() and not outcome.cancelled():
        outcome.exception()
