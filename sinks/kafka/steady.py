"""Keeps a client of aiokafka alive over errors that it does not expect.

aiokafka's tasks survive its own errors only. A connection whose transport is closed, which it does not know yet, raises
RuntimeError at the next write (uvloop) or OSError. The task that meets that ends for good: nothing is fetched any more, or
no change of leaders is noticed, and questions about offsets wait for ever.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import errors
from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason


def steady(client: Any) -> None:
    """Let the client's `send` raise KafkaConnectionError instead, and connect again the next time."""
    client.send = _steady(client, client.send)


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
