"""Dead letters in topics as commands and the admin listener see them: calls that block, from any thread but the loop's."""

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from btfeed.journal.base import ALL, LATEST, DeadLetter, DeadLetters, Selection, Wants
from btfeed.journal.kafka import letter_retry
from btfeed.journal.kafka.loop_thread import LoopThread, call
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from btfeed.journal.kafka.letters import Letters

T = TypeVar("T")

DELETED_AT_ONCE = 5_000


@contextmanager
def open_dead_letters(settings: KafkaJournalSettings, max_occurrences: int) -> Iterator[DeadLetters]:
    """The dead letters for a command: they have an event loop of their own, on a thread. Raises JournalUnavailable when
    entered."""
    from btfeed.journal.kafka.letters import Letters

    async def create() -> Letters:
        return Letters(settings, Metrics(), max_occurrences)

    with LoopThread() as loop:
        letters = loop.call(create())
        try:
            with letters.view() as view:
                yield view
        finally:
            loop.call(letters.close())


class KafkaDeadLetters:
    """See btfeed.journal.base.DeadLetters."""

    def __init__(self, letters: "Letters", loop: asyncio.AbstractEventLoop) -> None:
        self._letters = letters
        self._loop = loop

    def select(self, selection: Selection = ALL) -> Iterator[DeadLetter]:
        return chain.from_iterable(self._pieces(self._call(self._letters.find(selection))))

    def _pieces(self, ids: Sequence[int]) -> Iterator[list[DeadLetter]]:
        while ids:
            letters, ids = self._call(_piece(self._letters, ids))
            yield letters

    def newest(self, limit: int, selection: Selection = ALL, before: int = LATEST) -> Sequence[DeadLetter]:
        return self._call(self._letters.newest(limit, selection, before))

    def count(self, selection: Selection = ALL) -> int:
        return self._call(self._letters.count(selection))

    def retry(self, selection: Selection, sinks: Mapping[str, Wants]) -> int:
        ids: Sequence[int] = self._call(self._letters.find(selection))
        marked = 0
        while ids:
            number, ids = self._call(letter_retry.retry(self._letters, ids, sinks))
            marked += number
        return marked

    def delete(self, ids: Iterable[int]) -> None:
        rest = list(ids)
        while rest:
            some, rest = rest[:DELETED_AT_ONCE], rest[DELETED_AT_ONCE:]
            self._call(self._letters.delete(some))

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return call(self._loop, coroutine)


async def _piece(letters: "Letters", ids: Sequence[int]) -> tuple[list[DeadLetter], Sequence[int]]:
    """The letters of the first ids, and the other ids."""
    entries, number = letters.piece(ids)
    return [letter for _, letter in await letters.load(entries)], ids[number:]
