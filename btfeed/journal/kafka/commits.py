"""Joins the commits of a sink's outlets: all that wait are one request, and so one append of the brokers'."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from aiokafka import TopicPartition

from btfeed.journal.kafka.consumer import Saved


class JoinedCommits:
    """send: saves several at once; what it raises goes to all who wait for it."""

    def __init__(self, send: Callable[[Mapping[TopicPartition, Saved]], Awaitable[None]]) -> None:
        self._send = send
        self._waiting: dict[TopicPartition, tuple[Saved, asyncio.Future[None]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def save(self, place: TopicPartition, saved: Saved) -> None:
        """Return when it is saved. Not to be called concurrently for one partition."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[place] = saved, done
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        await done

    async def _run(self) -> None:
        while self._waiting:
            sent, self._waiting = self._waiting, {}
            failure: Exception | None = None
            try:
                await self._send({place: saved for place, (saved, _) in sent.items()})
            except Exception as error:  # noqa: BLE001 - those who wait would do so for ever
                failure = error
            for _, done in sent.values():
                if done.done():
                    continue
                if failure:
                    done.set_exception(failure)
                else:
                    done.set_result(None)
