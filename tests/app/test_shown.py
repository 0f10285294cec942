"""What the admin listener shows of a server: its configuration without secrets, and the records of the newest posts."""

import tomllib
from typing import Any

import pytest

from btfeed import config
from btfeed.app import shown
from btfeed.app.shown import POSTS, ShownConfig, newest
from btfeed.config.effective import HIDDEN
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.journal.base import Entry, JournalUnavailable
from btfeed.journal.memory import MemoryJournal, MemoryOutlet
from btfeed.posts.post import Post
from btfeed.records.mapper import create_mapper
from btfeed.records.settings import RecordSettings
from btfeed.records.validation import ValidationSettings
from btfeed.telemetry.metrics import Metrics
from sinks.batch import Batch
from tests.support.posts import mixed

SECRETS = """
[receiver]
basic_auth = { username = "appmon", password = "s3cret-1" }
bearer_tokens = ["s3cret-2", "s3cret-3"]
[admin]
token = "s3cret-4"
[opentelemetry]
headers = { authorization = "s3cret-5" }
[sinks.search]
type = "elasticsearch"
hosts = ["http://127.0.0.1:9200"]
auth.api_key = "s3cret-6"
"""


def test_the_configuration_is_shown_without_secrets() -> None:
    """Each is hidden, whatever kind of key it is in. What is not there is shown with its default."""
    parsed = config.parse(tomllib.loads(SECRETS), {})
    found = ShownConfig().of(parsed)
    assert "s3cret" not in str(found)
    assert found["receiver"]["bearer_tokens"] == [HIDDEN, HIDDEN]
    assert found["admin"]["token"] == found["sinks"]["search"]["auth"]["api_key"] == HIDDEN
    assert found["opentelemetry"]["headers"] == {"authorization": HIDDEN}
    assert found["journal"]["when_full"] == "refuse"


def test_it_is_made_once_for_each_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that can't be shown, because of a sink of others, keeps nothing else from being shown."""
    made = []

    def redacted(parsed: config.Config) -> dict[str, Any]:
        made.append(parsed)
        if len(made) == 2:
            raise TypeError("a bug")
        return {"number": len(made)}

    monkeypatch.setattr(shown, "redacted", redacted)
    first, second = (config.parse({}, {}) for _ in range(2))
    configuration = ShownConfig()
    assert [configuration.of(first), configuration.of(first), configuration.of(second)] == [{"number": 1}] * 2 + [{}]
    assert len(made) == 2


class FakeDeliveries:
    """Of one sink of a journal in memory."""

    def __init__(self, journal: MemoryJournal) -> None:
        self.statuses = {"a": None}
        self._journal = journal

    def outlets(self, sink: str) -> list[Any]:
        return [MemoryOutlet(self._journal, "a")]


async def test_the_newest_posts_are_mapped_for_those_who_ask() -> None:
    """A few of them, the newest last, and not counted once more."""
    journal, metrics = MemoryJournal({"a": "oldest"}), Metrics()
    await journal.open()
    mapped = MappedPosts(create_mapper(RecordSettings(), ValidationSettings()), metrics, 1)
    deliveries: Any = FakeDeliveries(journal)
    assert len(await newest(deliveries, mapped)) == 0
    for seed in range(POSTS + 3):
        await journal.append(Post(mixed(3, seed), 1, "peer"))
    found = await newest(deliveries, mapped)
    assert len(found) == 3 * POSTS
    last: Entry = journal.entries[0][-1]
    assert found.ids[-1].startswith(last.digest.hex()[:24])
    assert metrics.summary()["occurrences"] == {}
    await journal.append(Post(b"no post", 1, "peer"))
    assert len(await newest(deliveries, mapped)) == 3 * (POSTS - 1)
    await journal.close()
    with pytest.raises(JournalUnavailable):
        await newest(deliveries, mapped)
    mapped.close()


async def test_without_sinks_there_are_no_newest_posts() -> None:
    """Nothing keeps them then."""
    deliveries: Any = FakeDeliveries(MemoryJournal({}))
    deliveries.statuses = {}
    mapped: Any = None
    found = await newest(deliveries, mapped)
    assert isinstance(found, Batch)
    assert not len(found)
