"""The admin listener that answers for several receivers, in front of real listeners of them."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from btfeed.address import listen
from btfeed.admin.merged import MERGED, merge_snapshots
from btfeed.admin.server import Admin
from btfeed.admin.settings import AdminSettings
from btfeed.admin.workers import WorkersAdmin
from btfeed.telemetry.metrics import Metrics, Reload
from tests.admin.parts import parts

TOKEN = "SECRETOFTHEADMIN"


class Journal:
    """One of a receiver: it has no sinks. refusing: why it takes no post."""

    backlog = None

    def __init__(self) -> None:
        self.refusing: str | None = None

    async def kept(self) -> list[Any]:
        return []


class Site:
    """So many receivers' admin listeners, which can be stopped, and the one in front of them."""

    def __init__(self, directory: Path, number: int, token: str | None = None) -> None:
        self.metrics = {each: Metrics() for each in range(1, number + 1)}
        self.journals = {each: Journal() for each in self.metrics}
        self.settings = AdminSettings(listen="127.0.0.1:0", token=token)  # type: ignore[arg-type]
        self.admins = {
            each: Admin(self.settings, parts(self.journals[each], {}, self.metrics[each])) for each in self.metrics
        }
        self._directory = directory
        self.front = WorkersAdmin(self.settings, directory, number)

    async def start(self) -> None:
        for number, admin in self.admins.items():
            path = socket.socket(socket.AF_UNIX)
            path.bind(str(self._directory / str(number)))
            path.listen()
            await admin.start([path])
        sockets = await listen("127.0.0.1:0")
        self.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        await self.front.start(sockets)

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with aiohttp.ClientSession() as session, session.get(self.url + path, headers=named) as answer:
            assert answer.headers["X-Btfeed"] == "admin"
            return answer.status, await answer.text()

    async def status(self, **headers: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((await self.get("/status", **headers))[1])
        return found


@asynccontextmanager
async def site(directory: Path, number: int = 2, token: str | None = None) -> AsyncIterator[Site]:
    made = Site(directory, number, token)
    await made.start()
    try:
        yield made
    finally:
        await made.front.stop()
        for admin in made.admins.values():
            await admin.stop()


async def test_it_is_ready_while_one_worker_is(tmp_path: Path) -> None:
    """Each worker has its line. Without any, it is not ready, and alive all the same."""
    async with site(tmp_path) as found:
        assert await found.get("/readyz") == (200, "worker 1: ready\nworker 2: ready\n")
        found.journals[1].refusing = "the spill is full"
        assert await found.get("/readyz") == (200, "worker 1: not ready: the spill is full\nworker 2: ready\n")
        await found.admins[2].stop()
        assert await found.get("/readyz") == (503, "worker 1: not ready: the spill is full\nworker 2: does not answer\n")
        shown = await found.status()
        assert (shown["ready"], shown["refusing"]) == (False, "worker 1: the spill is full; worker 2: does not answer")
        await found.admins[1].stop()
        assert (await found.get("/readyz"))[0] == 503
        assert await found.get("/status") == (503, "no worker answers\n")
        assert await found.get("/metrics") == (503, "no worker answers\n")
        assert await found.get("/healthz") == (200, "alive\n")


async def test_metrics_have_a_label_for_the_worker(tmp_path: Path) -> None:
    """Each family has its type once, and the text is one that Prometheus' own parser reads."""
    async with site(tmp_path) as found:
        found.metrics[1].posts.inc(3)
        found.metrics[2].posts.inc(4)
        found.metrics[2].refused_posts.labels("malformed").inc()
        _, text = await found.get("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    posts = {sample.labels["worker"]: sample.value for sample in families["btfeed_posts"].samples}
    assert posts == {"1": 3.0, "2": 4.0}
    assert families["btfeed_posts"].type == "counter"
    (refused,) = families["btfeed_refused_posts"].samples
    assert refused.labels == {"worker": "2", "reason": "malformed"}
    assert text.count("# TYPE btfeed_posts_total ") == 1
    assert all("worker" in sample.labels for family in families.values() for sample in family.samples)


async def test_the_status_is_that_of_all_workers(tmp_path: Path) -> None:
    """Counts are summed, what happened last is the newest, and a failed reload of one is not hidden."""
    async with site(tmp_path) as found:
        for number, metrics in found.metrics.items():
            metrics.posts.inc(number)
            metrics.refused_posts.labels("malformed").inc(number)
            metrics.journal_free.set(100 * number)
            metrics.journal_limit.set(10 * 2**30)
            metrics.last_post = 1_000 * number
            metrics.count_reload(Reload(10 * number, ["journal.prefix: x"] if number == 1 else []))
        shown = await found.status()
        counts = shown["counts"]
        assert (counts["posts"], counts["refused_posts"]) == (3, {"malformed": 3})
        assert counts["journal_free_bytes"] == shown["journal"]["free_bytes"] == 100
        assert shown["journal"]["text"] == "each of 2 workers: 0% used, 0 B undelivered (of 10.0 GiB)"
        assert shown["journal"]["limit_bytes"] == 20 * 2**30
        assert shown["last_post_time"] == 2_000
        assert shown["reload"] == {"time": 10, "outcome": "failed", "errors": ["journal.prefix: x"]}
        assert [(each["reason"], each["count"]) for each in shown["refusals"]] == [("malformed", 3)]
        assert shown["workers"]["2"]["posts"] == 2
        await found.admins[1].stop()
        shown = await found.status()
        assert (shown["ready"], shown["workers"]["1"], shown["counts"]["posts"]) == (True, None, 2)


def test_every_merged_field_is_one_of_a_snapshot() -> None:
    """And merging a snapshot with itself changes nothing but sums."""
    snapshot = json.loads((Path(__file__).parent / "snapshot.json").read_text())["status"]
    assert MERGED.keys() <= snapshot.keys()
    alone = merge_snapshots({1: snapshot})
    assert {key: value for key, value in alone.items() if key not in ("workers", "violations")} == {
        key: value for key, value in snapshot.items() if key != "violations"
    }
    both = merge_snapshots({1: snapshot, 2: snapshot})
    assert both["counts"]["posts"] == 2 * snapshot["counts"]["posts"]
    assert both["sources"][0]["occurrences"] == {
        key: 2 * value for key, value in snapshot["sources"][0]["occurrences"].items()
    }
    assert len(both["sources"]) == len(snapshot["sources"])


def test_the_spills_of_workers_are_told_one_by_one() -> None:
    """Each has a limit of its own. Of one that does not answer, nothing is known."""
    snapshot = json.loads((Path(__file__).parent / "snapshot.json").read_text())["status"]
    other = snapshot | {"journal": snapshot["journal"] | {"text": "full"}}
    text = snapshot["journal"]["text"]
    assert merge_snapshots({1: None, 2: snapshot, 3: other})["journal"]["text"] == f"worker 2: {text}; worker 3: full"
    assert merge_snapshots({1: None, 2: snapshot})["journal"]["text"] == text


async def test_only_this_machine_is_told_what_is_private(tmp_path: Path) -> None:
    """Without a token, the workers tell a request that a proxy passed on nothing of their configuration."""
    async with site(tmp_path) as found:
        assert (await found.status())["configuration"] is not None
        assert (await found.status(X_Forwarded_For="192.0.2.1"))["configuration"] is None


async def test_the_token_is_asked_for_and_passed_on(tmp_path: Path) -> None:
    """A request without it is refused and counted; another token holds after a reload."""
    async with site(tmp_path, token=TOKEN) as found:
        assert (await found.get("/status"))[0] == 401
        assert (await found.get("/readyz"))[0] == 200
        status, text = await found.get("/metrics", Authorization=f"Bearer {TOKEN}")
        assert status == 200
        assert 'btfeed_admin_refused_total{worker="0",reason="token"} 1.0' in text
        other = AdminSettings(listen="127.0.0.1:0", token="ANOTHERSECRET")  # type: ignore[arg-type]
        found.front.reconfigure(other)
        for admin in found.admins.values():
            admin.reconfigure(other)
        assert (await found.get("/status", Authorization=f"Bearer {TOKEN}"))[0] == 401
        assert (await found.get("/status", Authorization="Bearer ANOTHERSECRET"))[0] == 200


async def test_there_is_no_page_for_several_workers(tmp_path: Path) -> None:
    """It says where else to look."""
    async with site(tmp_path) as found:
        status, text = await found.get("/")
        assert (status, "/status" in text) == (404, True)
