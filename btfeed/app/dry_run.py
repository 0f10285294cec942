"""What each configured sink would get of some posts, without connecting to anything: maps, filters, adds what sinks add."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from btfeed.app.parts import create_sink
from btfeed.config import Config
from btfeed.delivery.lines import lines
from btfeed.journal.base import Damaged, Entry
from btfeed.posts.post import Malformed
from btfeed.records.mapper import create_mapper
from sinks.base import Sink
from sinks.batch import Batch
from sinks.shared.clock import SYSTEM_CLOCK, Clock

EXAMPLES = 5
"""Posts that are named for each reason."""


@dataclass(slots=True)
class NotShown:
    """What is no line. Numbers of records, by reason, and of whole posts.

    refused    records that validation would keep as dead letters
    expired    sink -> records that are older than its max_age, and would become dead letters; they are shown
    filtered   sink -> records that its filter excludes
    posts      posts that can't be mapped
    which      reason -> the numbers of the first EXAMPLES of these posts
    """

    refused: Counter[str] = field(default_factory=Counter)
    expired: Counter[str] = field(default_factory=Counter)
    filtered: Counter[str] = field(default_factory=Counter)
    posts: Counter[str] = field(default_factory=Counter)
    which: dict[str, list[int]] = field(default_factory=dict)

    def leave_out(self, number: int, reason: str) -> None:
        """Count a post that can't be mapped."""
        self.posts[reason] += 1
        if self.posts[reason] <= EXAMPLES:
            self.which.setdefault(reason, []).append(number)


class DryRun:
    """Maps posts under a configuration. not_shown: of the posts so far."""

    def __init__(self, config: Config, names: Collection[str], clock: Clock = SYSTEM_CLOCK) -> None:
        """names: of the sinks to show."""
        self.not_shown = NotShown()
        self._mapper = create_mapper(config.record, config.validation)
        self._sinks: dict[str, Sink] = {name: create_sink(name, config.sinks[name]) for name in names}
        self._config = config
        self._clock = clock

    def lines(self, entries: Iterable[Entry | Damaged]) -> Iterator[bytes]:
        """A line for each record and sink; see btfeed/delivery/lines.py."""
        for entry in entries:
            if isinstance(entry, Damaged):
                self.not_shown.leave_out(entry.seq, "damaged in the journal")
                continue
            try:
                mapped = self._mapper.map(entry.post.body, entry.digest)
            except Malformed as error:
                self.not_shown.leave_out(entry.seq, str(error))
                continue
            self.not_shown.refused.update(refused.reason for refused in mapped.refused)
            for name, sink in self._sinks.items():
                batch = self._wanted(name, mapped.batch)
                if len(batch):
                    yield from lines(name, sink, batch)

    async def close(self) -> None:
        for sink in self._sinks.values():
            await sink.close()

    def _wanted(self, name: str, batch: Batch) -> Batch:
        common = self._config.sinks[name].common
        accepted = [i for i, transaction in enumerate(batch.transactions) if common.filter.accepts(transaction)]
        self.not_shown.filtered[name] += len(batch) - len(accepted)
        wanted = batch.take(accepted)
        if common.delivery.max_age is not None:
            oldest = (self._clock.time() - common.delivery.max_age) * 1000
            self.not_shown.expired[name] += sum(at < oldest for at in wanted.timestamps)
        return wanted
