"""A reload takes over a changed configuration without losing or doubling a record, or else changes nothing."""

import asyncio
import ssl
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from btfeed.app.reload import Reloader
from tests.app.reloading import FakeSettings, post, running
from tests.support import posts
from tests.support.certificates import Authority
from tests.support.harness import until_async

# Sinks


async def test_a_new_sink_begins_where_its_start_says(tmp_path: Path) -> None:
    """With the oldest post in the journal, or with the next one. The others are not interrupted."""
    async with running(tmp_path) as it:
        await it.post(posts.mixed(3))
        await it.delivered("first", 3)
        it.sinks |= {"old": FakeSettings(), "new": FakeSettings()}
        it.starts["new"] = "latest"
        assert await it.reload() == []
        await it.delivered("old", 3)
        await it.post(posts.mixed(2, seed=1))
        await it.delivered("old", 5)
        await it.delivered("new", 2)
        await it.delivered("first", 5)
        assert len(it.made("first")) == 1


async def test_a_removed_sink_finishes_its_write_and_is_not_shown(tmp_path: Path) -> None:
    """Nor does the journal wait for it: posts go once the others have them, even before their retention ends."""
    async with running(tmp_path) as it:
        sink = it.sink("second")
        sink.gate.clear()
        await it.post(posts.mixed(3))
        await it.delivered("first", 3)
        await until_async(lambda: sink.writing, "a write is in progress")
        del it.sinks["second"]
        reloading = asyncio.create_task(it.reload())
        await it.post(posts.mixed(2, seed=1))
        await it.delivered("first", 5)  # meanwhile
        assert not reloading.done()
        sink.gate.set()
        assert await reloading == []
        assert sink.closed
        assert len(sink.ids) == 3
        assert list(it.server.deliveries.statuses) == ["first"]
        assert it.sample("sink_up", sink="second") is None
        assert it.sample("sink_backlog_posts", sink="second") is None


async def test_a_sink_that_comes_back_goes_on_at_its_cursor(tmp_path: Path) -> None:
    """As it would after a restart: what was saved of it is still there."""
    async with running(tmp_path) as it:
        await it.post(posts.mixed(3))
        await it.delivered("second", 3)
        await until_async(lambda: it.server.deliveries.statuses["second"].delivered == 3, "delivered")
        settings = it.sinks.pop("second")
        assert await it.reload() == []
        await it.post(posts.mixed(2, seed=1))
        await it.delivered("first", 5)
        it.sinks["second"] = settings
        assert await it.reload() == []
        await it.delivered("second", 5)


async def test_a_changed_sink_goes_on_at_its_cursor(tmp_path: Path) -> None:
    """With its new settings. The others are not interrupted."""
    async with running(tmp_path) as it:
        await it.post(posts.mixed(3))
        await it.delivered("second", 3)
        it.sinks["second"] = FakeSettings(version=2)
        assert await it.reload() == []
        await it.post(posts.mixed(2, seed=1))
        await it.delivered("second", 5)
        assert [sink.settings.version for sink in it.made("second")] == [1, 2]
        assert it.made("second")[0].closed
        status = it.server.deliveries.statuses["second"]
        await until_async(lambda: status.delivered == 5, "all are counted, since the start")
        assert len(it.made("first")) == 1


async def test_a_misconfigured_sink_is_repaired(tmp_path: Path) -> None:
    """At once, without waiting for its next try."""
    async with running(tmp_path) as it:
        it.sinks["second"] = FakeSettings(version=0)
        assert await it.reload() == []
        statuses = it.server.deliveries.statuses
        await until_async(lambda: statuses["second"].state == "misconfigured", "misconfigured")
        await it.post(posts.mixed(3))
        it.sinks["second"] = FakeSettings(version=2)
        assert await it.reload() == []
        await it.delivered("second", 3)
        assert statuses["second"].state == "running"


async def test_a_write_that_does_not_end_does_not_hold_up_the_reload(tmp_path: Path) -> None:
    """It is cancelled after the grace, and its records are written again under the new configuration."""
    async with running(tmp_path, grace=0.05) as it:
        sink = it.sink("second")
        sink.gate.clear()
        await it.post(posts.mixed(3))
        await until_async(lambda: sink.writing, "a write is in progress")
        it.sinks["second"] = FakeSettings(version=2)
        with capture_logs() as logs:
            assert await it.reload() == []
        assert any(entry["event"].startswith("write cut off after its grace") for entry in logs)
        await it.delivered("second", 3)
        assert len(it.sink("second").ids) == 3


async def test_a_sink_starts_again_if_a_file_that_it_names_was_replaced(tmp_path: Path) -> None:
    """For example a certificate that was renewed under the same name."""
    ca = tmp_path / "ca.pem"
    ca.write_text("old")
    async with running(tmp_path) as it:
        it.sinks["second"] = FakeSettings(ca=str(ca))
        assert await it.reload() == []
        await it.opened("second", 2)
        assert await it.reload() == []
        renewed = tmp_path / "renewed.pem"
        renewed.write_text("new")
        renewed.rename(ca)
        assert await it.reload() == []
        await it.opened("second", 3)
        assert len(it.made("first")) == 1


async def test_a_sink_that_was_stopped_stays_so(tmp_path: Path) -> None:
    """A reload starts only what it stops, and what is new."""
    async with running(tmp_path) as it:
        await it.server.deliveries.stop_sink("second")
        it.sinks["second"] = FakeSettings(version=2)
        it.tables["record"] = {"attributes": {"site": "north"}}
        assert await it.reload() == []
        await it.opened("first", 2)
        assert not it.server.deliveries.is_running("second")
        assert len(it.made("second")) == 1


async def test_all_sinks_may_go_and_come(tmp_path: Path) -> None:
    """Posts are taken meanwhile."""
    async with running(tmp_path) as it:
        settings, it.sinks = it.sinks, {}
        with capture_logs() as logs:
            assert await it.reload() == []
        assert any(entry["event"].startswith("no sinks configured") for entry in logs)
        assert await it.post(posts.mixed(3)) == 200
        it.sinks = settings
        assert await it.reload() == []
        await it.delivered("first", 3)
        await it.delivered("second", 3)


# What becomes of a post


async def test_records_are_mapped_anew_and_none_is_lost_or_doubled(tmp_path: Path) -> None:
    """Every sink gets what the new [record] makes of the posts that it has not had. The receiver goes on meanwhile."""
    async with running(tmp_path) as it:
        sink = it.sink("second")
        sink.gate.clear()
        await it.post(posts.mixed(3))
        await until_async(lambda: sink.writing, "a write is in progress")
        it.tables["record"] = {"attributes": {"site": "north"}}
        reloading = asyncio.create_task(it.reload())
        async with it.connect() as client:
            for seed in range(1, 6):
                assert await post(client, posts.mixed(2, seed)) == 200
        assert not reloading.done()
        sink.gate.set()
        assert await reloading == []
        for name in ("first", "second"):
            await it.delivered(name, 13)
        assert [b'"site":"north"' in body for body in sink.bodies] == [False] * 3
        assert all(b'"site":"north"' in body for body in it.sink("second").bodies)
        occurrences = it.server.metrics.summary()["occurrences"]
        assert isinstance(occurrences, dict)
        assert sum(occurrences.values()) == 13  # each once, however often it was mapped


async def test_validation_takes_effect(tmp_path: Path) -> None:
    """From the posts on that are taken up after the reload."""
    async with running(tmp_path) as it:
        await it.post(posts.sample_purepath())
        await it.delivered("first", 1)
        it.tables["validation"] = {"unexpected": "dead-letter"}
        assert await it.reload() == []
        await it.post(posts.sample_purepath())
        await until_async(lambda: it.sample("dead_letters_total", sink="", reason="invalid") == 1, "rejected")
        await it.post(posts.mixed(3))
        await it.delivered("first", 4)


# The receiver


async def test_an_open_connection_stays_and_gets_the_new_settings(tmp_path: Path) -> None:
    """Credentials, path and limits."""
    async with running(tmp_path) as it, it.connect() as client:
        assert await post(client, posts.mixed(3)) == 200
        it.tables["receiver"] |= {"bearer_tokens": ["secret"], "path": "/bt", "max_body": "2KiB", "max_occurrences": 4}
        assert await it.reload() == []
        token = "Authorization: Bearer secret"
        assert await post(client, posts.mixed(3)) == 401
        assert await post(client, posts.mixed(3), token) == 404
        assert await post(client, posts.mixed(3), token, line="POST /bt HTTP/1.1") == 200
        assert await post(client, posts.mixed(5), token, line="POST /bt HTTP/1.1") == 413
        assert await post(client, bytes(3000), token, line="POST /bt HTTP/1.1") == 413


async def test_the_bound_of_connections_changes(tmp_path: Path) -> None:
    """Those that are open stay. A further one takes the place of one that is idle."""
    async with running(tmp_path) as it, it.connect() as one, it.connect() as other:
        assert await post(one, posts.mixed(1)) == await post(other, posts.mixed(1)) == 200
        it.tables["receiver"]["max_connections"] = 2
        assert await it.reload() == []
        assert await post(one, posts.mixed(1)) == 200
        assert await it.post(posts.mixed(1)) == 200
        assert await other.rest() == b""
        assert await post(one, posts.mixed(1)) == 200


async def test_a_renewed_certificate_is_used_by_new_connections(tmp_path: Path) -> None:
    """It may have the same name as the old one. A connection that is open stays. A broken one is refused."""
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"

    def install(authority: Authority) -> None:
        for source, place in zip(authority.sign("server"), (certificate, key), strict=True):
            place.write_bytes(source.read_bytes())

    install(old)
    tls = {"certificate": str(certificate), "key": str(key)}
    async with running(tmp_path, receiver={"tls": tls}) as it, it.connect(ssl=old.client()) as client:
        assert await post(client, posts.mixed(1)) == 200
        install(new)
        with capture_logs() as logs:
            assert await it.reload() == []
        assert [entry["changed"] for entry in logs if entry["event"] == "configuration reloaded"] == [["receiver"]]
        assert await post(client, posts.mixed(1)) == 200
        key.write_text("half written")
        (error,) = await it.refused()
        assert error.startswith(f"receiver.tls: key {key}: ")
        async with it.connect(ssl=new.client()) as renewed:
            assert await post(renewed, posts.mixed(1)) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            async with it.connect(ssl=old.client()):
                pass


async def test_the_token_of_the_admin_listener_changes(tmp_path: Path) -> None:
    """From the next request on."""
    async with running(tmp_path) as it:
        assert (await it.status())["ready"]
        it.tables["admin"]["token"] = "secret"
        assert await it.reload() == []
        with pytest.raises(urllib.error.HTTPError, match="401"):
            await it.status()


# The journal


async def test_the_size_of_the_journal_changes(tmp_path: Path) -> None:
    """A smaller one refuses posts, a larger one takes them again."""
    async with running(tmp_path) as it:
        for name in it.sinks:
            it.sink(name).gate.clear()  # so that posts stay
        it.tables["journal"]["max_size"] = "1MiB"
        assert await it.reload() == []
        large = posts.mixed(1_000)
        while await it.post(large) == 200:
            pass
        assert it.server.journal.refusing == "the journal is full"
        it.tables["journal"]["max_size"] = "100MiB"
        assert await it.reload() == []
        assert await it.post(large) == 200
        for name in it.sinks:
            it.sink(name).gate.set()


# One after the other


async def test_names_of_tables_are_logged_and_no_values(tmp_path: Path) -> None:
    """So that secrets stay secret."""
    async with running(tmp_path) as it:
        it.tables["receiver"]["bearer_tokens"] = ["planted-secret"]
        it.sinks = {"second": FakeSettings(version=2), "third": FakeSettings()}
        with capture_logs() as logs:
            assert await it.reload() == []
        (told,) = [entry for entry in logs if entry["event"] == "configuration reloaded"]
        assert told["changed"] == ["receiver", "sinks.second"]
        assert (told["added"], told["removed"]) == (["sinks.third"], ["sinks.first"])
        assert "planted-secret" not in str(logs)


async def test_reloads_wait_for_each_other(tmp_path: Path) -> None:
    """Each has its own beginning and end for whoever wants to know."""
    inside: list[int] = []
    most = 0

    @contextmanager
    def around() -> Iterator[None]:
        nonlocal most
        inside.append(1)
        most = max(most, len(inside))
        yield
        inside.pop()

    async with running(tmp_path) as it:
        it.reloader = Reloader(it.server, it.config, around)
        assert not any(await asyncio.gather(it.reload(), it.reload(), it.reload()))
        assert most == 1
        assert it.sample("config_reloads_total", outcome="ok") == 3


async def test_a_reload_of_what_is_the_same_changes_nothing(tmp_path: Path) -> None:
    """No sink is interrupted."""
    async with running(tmp_path) as it:
        with capture_logs() as logs:
            assert await it.reload() == []
        (told,) = [entry for entry in logs if entry["event"] == "configuration reloaded"]
        assert not told["changed"] + told["added"] + told["removed"]
        assert len(it.made("first")) == len(it.made("second")) == 1
