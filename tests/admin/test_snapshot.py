"""The snapshot of a server: bounded whatever is counted, and without what is private for those who may not see it."""

import json
from contextlib import nullcontext
from typing import Any

import msgspec
import pytest

from btfeed.admin.figures import Figures
from btfeed.admin.history import INTERVAL
from btfeed.admin.letters import Letters
from btfeed.admin.sampler import Sampler
from btfeed.admin.snapshot import MAX_BLOCKED, MAX_VIOLATIONS, Snapshots
from btfeed.http.reasons import REASONS
from btfeed.http.refusals import Refusals
from btfeed.journal.base import Backlog, DeadLetter, Kept
from btfeed.journal.memory import MemoryJournal
from btfeed.telemetry.details import MAX_SOURCES, MAX_TLS_ERRORS
from btfeed.telemetry.metrics import MAX_TRANSACTIONS, Metrics, Reload
from btfeed.telemetry.sink_status import BlockedDestination, SinkStatus
from btfeed.telemetry.warnings import SummedWarnings
from btfeed.telemetry.wording import CUT
from tests.admin.parts import no_dead_letters, parts
from tests.support.clock import FakeClock

HOSTILE = ["<img src=x onerror=alert(1)>", "\u202eright to left", "\0\x1b[2J", "x" * 10_000]


NONE = Backlog(0, 0.0)


class Journal:
    """Each sink has this backlog; there are these dead letters."""

    refusing = None

    def __init__(self, backlog: Backlog = NONE, kept: tuple[Kept, ...] = ()) -> None:
        self.now = backlog
        self._kept = kept

    async def backlog(self, sink: str) -> Backlog:
        return self.now

    async def kept(self) -> tuple[Kept, ...]:
        return self._kept


class Watched:
    """A server whose snapshots are read."""

    def __init__(self, journal: Any = None, sinks: dict[str, SinkStatus] | None = None, letters: Any = None) -> None:
        self.clock, self.metrics = FakeClock(), Metrics()
        opened = (lambda: nullcontext(letters)) if letters else no_dead_letters
        found = parts(journal or Journal(), sinks, self.metrics, dead_letters=opened)
        figures = Figures(found.journal, found.kept, found.why_not_ready, found.sinks, self.metrics, self.clock)
        self.sampler = Sampler(self.metrics, found.sinks, figures.backlogs, self.clock)
        self._snapshots = Snapshots(found, figures, self.sampler, Letters(found), self.clock)

    async def read(self, private: bool = True) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(msgspec.json.encode(await self._snapshots.read(private)))
        return found


@pytest.mark.slow
async def test_it_is_bounded_whatever_is_counted() -> None:
    """10,000 transactions, servers, errors and destinations, with names of 10,000 characters: they are cut with a mark, and
    what is left out is counted."""
    sink = SinkStatus("unavailable", last_error="e" * 100_000, last_error_time=1)
    watched = Watched(sinks={"a": sink})
    refusals = Refusals(watched.metrics, SummedWarnings())
    for number in range(10_000):
        name = f"{number} " + HOSTILE[number % len(HOSTILE)]
        watched.metrics.count_violations(name, f"field {number % 50}", "missing", 1)
        watched.metrics.details.mapped(name, number, {"visit": 1})
        refusals.lost("bad_tls", error=name, peer="192.0.2.7", hint="")
        sink.blocked[name] = BlockedDestination("r" * 10_000, 1, number)
    watched.metrics.count_reload(Reload(1, [HOSTILE[3]] * 1_000))
    found = await watched.read()
    assert len(json.dumps(found)) < 400_000
    assert (len(found["violations"]), len(found["sources"])) == (MAX_VIOLATIONS, MAX_SOURCES)
    assert found["more_violations"] == len(watched.metrics.violations) - MAX_VIOLATIONS > 0
    assert len({transaction for transaction, _, _ in watched.metrics.violations}) == MAX_TRANSACTIONS + 1
    assert found["more_sources"] == 10_000 - MAX_SOURCES
    assert [each["last_post_time"] for each in found["sources"][:2]] == [9_999, 9_998]
    assert found["sources"][0]["server"] == ("9999 " + HOSTILE[3])[:199] + CUT
    assert (len(found["tls_failures"]), found["tls_failures"][-1]["error"]) == (MAX_TLS_ERRORS + 1, "other")
    assert sum(each["count"] for each in found["tls_failures"]) == 10_000
    shown = found["sinks"]["a"]
    assert (len(shown["blocked"]), shown["blocked_destinations"]) == (MAX_BLOCKED, 10_000)
    assert (len(shown["last_error"]), shown["last_error"][-1]) == (1_000, CUT)


async def test_names_are_as_they_were_sent() -> None:
    """Nothing is escaped twice: who shows them does that."""
    watched = Watched()
    for name in HOSTILE[:3]:
        watched.metrics.count_violations(name, "url", "missing", 1)
    assert [each["transaction"] for each in (await watched.read())["violations"]] == HOSTILE[:3]


async def test_refusals_say_what_they_mean_and_what_to_do() -> None:
    """As the table of reasons does, with the last error of each."""
    watched = Watched()
    refusals = Refusals(watched.metrics, SummedWarnings())
    refusals.kept("malformed", error="it is cut off", peer="192.0.2.7")
    for _ in range(3):
        refusals.lost("bad_tls", error="http request", peer="192.0.2.8", hint="use https://")
    refusals.harmless("method", error="method PUT", peer="192.0.2.9")
    found = await watched.read()
    tls, malformed, method = found["refusals"]
    assert (tls["reason"], tls["count"], tls["lost"]) == ("bad_tls", 3, 3)
    assert (malformed["reason"], malformed["lost"], malformed["last_error"]) == ("malformed", 0, "it is cut off")
    assert (method["last_peer"], method["answer"]) == ("192.0.2.9", "405")
    assert malformed["meaning"] == REASONS["malformed"].meaning.replace("`", "")
    assert malformed["remedy"].startswith("look at it: btfeed dead-letters export")
    [failure] = found["tls_failures"]
    assert (failure["error"], failure["hint"], failure["count"]) == ("http request", "use https://", 3)


async def test_what_is_private_is_null_for_others() -> None:
    """The configuration, and what destinations say, which may quote a record: in errors and in samples of dead letters."""
    letters = MemoryJournal({}).dead_letters
    letters.add(DeadLetter("record", "a", "no field secret", 5, b"{}"))
    sink = SinkStatus("rejecting", last_error="HTTP 400: secret", last_error_time=7)
    sink.blocked["topic b"] = BlockedDestination("secret is not allowed", 6)
    watched = Watched(Journal(kept=(Kept("a", "refused", 1, 5),)), {"a": sink}, letters=letters)
    found = await watched.read(private=True)
    assert found["configuration"] == {"journal": {"when_full": "refuse"}}
    assert found["dead_letters"][0]["sample"] == {"id": 1, "time": 5, "reason": "no field secret"}
    assert found["sinks"]["a"]["last_error"] == "HTTP 400: secret"
    assert found["sinks"]["a"]["blocked"][0]["reason"] == "secret is not allowed"
    found = await watched.read(private=False)
    assert (found["configuration"], found["dead_letters"][0]["sample"]) == (None, None)
    shown = found["sinks"]["a"]
    assert (shown["state"], shown["last_error"], shown["last_error_time"]) == ("rejecting", None, 7)
    assert (shown["blocked"][0]["destination"], shown["blocked"][0]["reason"]) == ("topic b", None)
    assert shown["text"] == "rejects everything; waits: topic b takes nothing"
    assert "secret" not in json.dumps(found)
    assert found["journal"]["when_full"] == "refuse"


async def test_samples_are_left_out_if_the_journal_cannot_be_opened() -> None:
    """The rest is shown."""
    watched = Watched(Journal(kept=(Kept("a", "refused", 3, 0),)))
    [found] = (await watched.read())["dead_letters"]
    assert (found["letters"], found["sample"]) == (3, None)


@pytest.fixture
def behind() -> Watched:
    """A sink that is 600 posts behind for a minute."""
    return Watched(Journal(Backlog(600, 60.0)), {"a": SinkStatus("running")})


async def test_a_sink_that_is_behind_says_since_when_and_until_when(behind: Watched) -> None:
    """From two readings on. It stays behind since then, also when what waits is younger, until nothing waits for long."""
    behind.sampler.start()
    journal = behind._snapshots._parts.journal
    assert isinstance(journal, Journal)
    await behind.clock.advance(INTERVAL)
    found = (await behind.read())["sinks"]["a"]
    since = round((behind.clock.time() - 60) * 1000)
    assert (found["behind_since"], found["caught_up_in_seconds"]) == (since, None)
    journal.now = Backlog(300, 30.0)
    await behind.clock.advance(INTERVAL)
    await behind.clock.advance(INTERVAL)
    found = (await behind.read())["sinks"]["a"]
    assert found["behind_since"] == since
    assert found["text"].startswith("delivering, 300 posts behind since ")
    journal.now = Backlog(1, 1.0)
    await behind.clock.advance(INTERVAL)
    found = (await behind.read())["sinks"]["a"]
    assert (found["behind_since"], found["text"]) == (None, "delivering")
    behind.sampler.stop()


async def test_the_journal_in_words_has_the_same_figures_as_its_fields() -> None:
    """Those of now, although its rate is that of the last readings."""
    watched = Watched()
    watched.metrics.journal_limit.set(1000 * 1024)
    watched.metrics.journal_bytes.set(100 * 1024)
    watched.metrics.journal_undelivered.set(90 * 1024)
    watched.sampler.start()
    watched.metrics.journal_bytes.set(500 * 1024)
    watched.metrics.journal_undelivered.set(300 * 1024)
    found = (await watched.read())["journal"]
    assert (found["used"], found["bytes"], found["undelivered_bytes"]) == (0.5, 500 * 1024, 300 * 1024)
    assert found["text"].startswith("50% used, 300.0 KiB undelivered")
    watched.sampler.stop()


async def test_a_process_without_files_of_its_own_has_no_room_that_could_be_full() -> None:
    """Its journal is in Kafka. A disk that is full is another thing."""
    watched = Watched()
    found = (await watched.read())["journal"]
    assert (found["limit_bytes"], found["free_bytes"], found["used"]) == (None, None, None)
    watched.metrics.journal_limit.set(1000)
    found = (await watched.read())["journal"]
    assert (found["limit_bytes"], found["free_bytes"], found["used"]) == (1000, 0, 0.0)


async def test_rates_are_those_of_the_last_seconds() -> None:
    """Not known before the second reading."""
    sink = SinkStatus("running")
    watched = Watched(sinks={"a": sink})
    assert (await watched.read())["rates"] == {"posts": None, "occurrences": None, "refused": None}
    watched.sampler.start()
    watched.metrics.posts.inc(10)
    watched.metrics.received_occurrences.inc(1000)
    sink.delivered = 500
    watched.metrics.delivery_seconds.labels("a").observe(0.2)
    await watched.clock.advance(INTERVAL)
    found = await watched.read()
    assert found["rates"] == {"posts": 2.0, "occurrences": 200.0, "refused": 0.0}
    assert found["sinks"]["a"]["records_per_second"] == 100.0
    assert 0.1 < found["sinks"]["a"]["latency"]["p50_seconds"] < 0.25
    watched.sampler.stop()
