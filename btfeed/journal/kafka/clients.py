"""Whatever comes out of a client of aiokafka: the journal is not available for a while, and a stop ends all the same.

Beside its own errors aiokafka raises what it does not expect itself: RuntimeError of a transport that is closed already,
OSError, AssertionError of a state, and CancelledError of one of its own tasks, which is no cancellation of ours.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from aiokafka import errors

from btfeed.journal.base import JournalError, JournalUnavailable
from sinks.base import SinkError

STOP_PATIENCE = 1.0
"""Seconds for aiokafka's tasks to end by themselves, and again once they are cancelled."""


def is_ours(error: BaseException) -> bool:
    """Whether a CancelledError is for the task that runs."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def describe(error: BaseException) -> str:
    """An unexpected error in words."""
    if isinstance(error, asyncio.CancelledError):
        return "the Kafka client has ended"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) if isinstance(error, JournalError | SinkError) else repr(error)


@contextmanager
def unavailable(
    explain: Callable[[BaseException], str] = describe, on_unexpected: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Raise JournalUnavailable for all that comes out of a client, but journal errors and our own cancellation.

    explain        what to say of an error
    on_unexpected  called if it is none of aiokafka's: the client may not work any more
    """
    try:
        yield
    except JournalError:
        raise
    except asyncio.CancelledError as error:
        if is_ours(error):
            raise
        on_unexpected()
        raise JournalUnavailable(explain(error)) from error
    except Exception as error:
        if not isinstance(error, errors.KafkaError | TimeoutError):
            on_unexpected()
        raise JournalUnavailable(explain(error)) from error


def has_failed(consumer: Any) -> bool:
    """Whether a task of aiokafka's has ended, as it does on an error that it does not expect. Without the one that fetches
    nothing comes any more; without the one that follows the brokers no question is answered."""
    following = getattr(consumer._client, "_sync_task", None)
    ended: bool = consumer._fetcher._fetch_task.done() or (following is not None and following.done())
    return ended


async def stop(consumer: Any) -> None:
    """Disconnect a consumer, whatever state it is in. Raises nothing, and takes no longer than a few seconds. A membership
    stays, until its session ends."""
    stopping = asyncio.ensure_future(consumer.stop())
    if not await _ends(stopping):
        owners = (consumer._coordinator, consumer._fetcher)
        names = ("_coordination_task", "_heartbeat_task", "_fetch_task")
        for task in (getattr(owner, name, None) for owner in owners for name in names):
            if task:
                task.cancel()
        if not await _ends(stopping):
            stopping.cancel()
    await close(consumer._client)  # aiokafka does not if one of its tasks had failed


async def close(client: Any) -> None:
    """Disconnect a client. Raises nothing, and does not take long."""
    await _ends(asyncio.ensure_future(client.close()))


async def _ends(task: "asyncio.Future[Any]") -> bool:
    """Whether a task ends within STOP_PATIENCE. How it ends does not matter."""
    done, _ = await asyncio.wait([task], timeout=STOP_PATIENCE)
    if done:
        with suppress(asyncio.CancelledError):
            task.exception()
    else:
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
    return bool(done)
