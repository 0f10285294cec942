"""The admin listener: what it reports when everything works, and when something fails."""

import asyncio
import json
import platform
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from btfeed.address import host_and_port
from btfeed.admin.figures import BACKLOG_TIMEOUT, Figures
from btfeed.admin.server import Admin
from btfeed.admin.settings import AdminSettings
from btfeed.journal.base import Backlog, JournalUnavailable, Kept
from btfeed.journal.sqlite.dead_letters import open_dead_letters
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.sink_status import BlockedDestination, SinkStatus, State
from sinks.shared.clock import SYSTEM_CLOCK, Clock
from tests.admin.parts import parts
from tests.support.clock import FakeClock
from tests.support.harness import DEADLINE, Server, until
from tests.support.posts import mixed, sample_purepath, sample_visit


def _get(server: Server, path: str) -> tuple[int, str, str]:
    """Status, Content-Type and text."""
    try:
        with urllib.request.urlopen(server.admin_url + path, timeout=DEADLINE) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def _metrics(server: Server) -> dict[str, float]:
    """Samples by name; those with labels by name{value}."""
    families = text_string_to_metric_families(server.get("/metrics"))
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_reports_that_it_is_alive_and_ready(server: Server) -> None:
    """As text. Other paths get a 404, other methods a 405."""
    assert _get(server, "/healthz")[::2] == (200, "alive\n")
    assert _get(server, "/readyz")[::2] == (200, "ready\n")
    assert _get(server, "/nowhere")[0] == 404
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(server.admin_url + "/healthz", b"x", timeout=DEADLINE)


def test_the_metrics_count_what_happened(server: Server) -> None:
    """In Prometheus' format, including each sink's backlog."""
    posts = [sample_purepath(), sample_visit(), sample_visit(), mixed(60)]
    for body in posts:
        assert server.post(body) == (200, "")
    assert server.post(b"no post")[0] == 400
    until(lambda: _metrics(server)["btfeed_sink_backlog_posts{files}"] == 0, "nothing behind")
    found = _metrics(server)
    assert found["btfeed_sink_delivered_total{files}"] == 63 == len(server.records())
    assert found["btfeed_posts_total"] == 4
    assert found["btfeed_post_bytes_total"] == sum(map(len, posts))
    assert found["btfeed_received_occurrences_total"] == 63
    assert found["btfeed_duplicate_posts_total"] == 1
    assert found["btfeed_refused_posts_total{malformed}"] == 1
    assert found["btfeed_ack_seconds_count"] == 4
    assert found["btfeed_last_post_timestamp_seconds"] == server.status()["last_post_time"] / 1000
    assert time.time() - 3_600 < found["btfeed_last_post_timestamp_seconds"] <= time.time()
    assert found["btfeed_sink_delivery_seconds_count{files}"] >= 1
    assert _get(server, "/metrics")[1].startswith("text/plain; version=")


def test_the_metrics_describe_the_process_and_what_runs(server: Server) -> None:
    """As every exporter names them. There is no `_created` gauge, which would double what Prometheus stores."""
    found = _metrics(server)
    for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds", "start_time_seconds"):
        assert found[f"process_{name}"] > 0
    status = server.status()
    assert found[f"btfeed_build_info{{{status['mapping']}}}{{{platform.python_version()}}}{{{status['version']}}}"] == 1
    assert not [name for name in found if "_created" in name]


def test_the_status_is_json(server: Server) -> None:
    """It has the version, counts, violations, and the state and backlog of each sink."""
    server.post(sample_purepath())
    until(lambda: server.status()["sinks"]["files"]["backlog_posts"] == 0, "nothing behind")
    assert _get(server, "/status")[1].startswith("application/json")
    status = server.status()
    assert (status["ready"], status["refusing"], status["counts"]["posts"]) == (True, None, 1)
    assert status["uptime_seconds"] > 0
    assert {"transaction": "btName", "field": "visitId", "rule": "unexpected", "count": 1} in status["violations"]
    sink = status["sinks"]["files"]
    assert (sink["state"], sink["delivered"], sink["backlog_age_seconds"]) == ("running", 1, 0.0)
    assert (sink["last_error"], sink["dead_letters"]) == (None, 0)
    assert (sink["filtered"], sink["unknown"], sink["flagged"], sink["errors"]) == (0, 0, {}, {})


def test_a_misconfigured_sink_does_not_make_the_server_unready(tmp_path: Path) -> None:
    """Posts are still accepted. /readyz names the sink, without the error, since it is open to all. Its backlog grows."""
    (tmp_path / "in-the-way").write_text("no directory")
    sinks = "".join(
        f'[sinks.{name}]\ntype = "file"\ndirectory = "{tmp_path / place}"\n'
        for name, place in (("good", "files"), ("bad", "in-the-way/files"))
    )
    with Server(tmp_path, sinks) as server:
        assert server.post(sample_visit()) == (200, "")
        until(lambda: server.status()["sinks"]["bad"]["state"] == "misconfigured", "tried")
        status, _, text = _get(server, "/readyz")
        bad = server.status()["sinks"]["bad"]
        assert (status, text.splitlines()[0]) == (200, "ready")
        assert text.splitlines()[1:] == ["sink bad is misconfigured"]
        assert "in-the-way" in bad["last_error"]
        assert (bad["backlog_posts"], bad["delivered"]) == (1, 0)
        assert len(server.delivered(1)) == 1
        metrics = _metrics(server)
        assert (metrics["btfeed_sink_up{bad}"], metrics["btfeed_sink_up{good}"], metrics["btfeed_ready"]) == (0, 1, 1)
        states = {name: value for name, value in metrics.items() if name.startswith("btfeed_sink_state{bad}")}
        assert [name for name, value in states.items() if value] == ["btfeed_sink_state{bad}{misconfigured}"]
        assert len(states) == len(get_args(State))


def test_kept_dead_letters_are_shown_over_a_restart(tmp_path: Path) -> None:
    """By sink and reason, with the age of the oldest, refused posts too; until they are deleted."""
    strict = '[validation]\nunexpected = "dead-letter"\n'
    sink = f'[sinks.files]\ntype = "file"\ndirectory = "{tmp_path / "files"}"\n'
    server = Server(tmp_path, strict + sink)
    with server:
        assert server.post(b"no post")[0] == 400
        assert server.post(sample_purepath()) == (200, "")
        until(lambda: len(server.status()["dead_letters"]) == 2, "both are kept")
    with server:
        found = {(each["sink"], each["reason"]): each for each in server.status()["dead_letters"]}
        assert {key: each["letters"] for key, each in found.items()} == {("", "invalid"): 1, ("", "malformed"): 1}
        assert all(0 < each["oldest_age_seconds"] < 3_600 for each in found.values())
        metrics = _metrics(server)
        assert metrics["btfeed_dead_letters_kept{invalid}{}"] == metrics["btfeed_dead_letters_kept{malformed}{}"] == 1
        assert metrics["btfeed_dead_letters_oldest_age_seconds{invalid}{}"] > 0
        with open_dead_letters(tmp_path / "journal") as kept:
            kept.delete([each.id for each in kept.select() if each.kind == "post"])
        assert "btfeed_dead_letters_kept{malformed}{}" not in _metrics(server)
        assert [each["reason"] for each in server.status()["dead_letters"]] == ["invalid"]


def test_half_a_request_does_not_disturb_others(server: Server) -> None:
    """Nor does garbage."""
    host, port = host_and_port(server.admin_url.removeprefix("http://"))
    with socket.create_connection((host, port)) as half, socket.create_connection((host, port)) as garbage:
        half.sendall(b"GET /status HTT")
        garbage.sendall(b"\x16\x03\x01\r\n\r\n")
        assert b" 400 " in garbage.recv(1000)
        assert _get(server, "/readyz")[0] == 200


class BrokenJournal:
    """A journal that does not know any sink's backlog."""

    refusing = "the disk failed"

    async def backlog(self, sink: str) -> Backlog:
        raise JournalUnavailable("the disk failed")

    async def kept(self) -> list[Kept]:
        raise JournalUnavailable("the disk failed")


async def _ask(path: str, journal: Any, clock: Clock = SYSTEM_CLOCK) -> tuple[int, str]:
    """The status and text of an admin listener with that journal."""
    admin = Admin(AdminSettings(listen="127.0.0.1:0"), parts(journal), clock=clock)
    host, port = await admin.start()
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        header, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        return int(header.split()[1]), body
    finally:
        await admin.stop()


async def test_answers_while_the_journal_fails() -> None:
    """It is alive but not ready, and unknown figures are null."""
    assert await _ask("/healthz", BrokenJournal()) == (200, "alive\n")
    assert await _ask("/readyz", BrokenJournal()) == (503, "not ready: the disk failed\n")
    status, body = await _ask("/status", BrokenJournal())
    found = json.loads(body)
    assert (status, found["ready"], found["refusing"]) == (200, False, "the disk failed")
    assert found["sinks"]["a"]["backlog_posts"] is None
    assert found["dead_letters"] is None
    assert (await _ask("/metrics", BrokenJournal()))[0] == 200


class IdleJournal:
    """A journal that every sink has passed, with one dead letter."""

    refusing = None
    broken = False

    async def backlog(self, sink: str) -> Backlog:
        if self.broken:
            raise JournalUnavailable("the disk failed")
        return Backlog(0, 0.0)

    async def kept(self) -> list[Kept]:
        return [Kept("a", "refused", 1, 0)]


async def test_a_sink_that_is_removed_leaves_no_gauge() -> None:
    """Else it would count as down for ever. Counters stay: what was delivered was delivered."""
    journal, metrics, clock = IdleJournal(), Metrics(), FakeClock()
    sinks = {"a": SinkStatus("running"), "b": SinkStatus(blocked={"topic x": BlockedDestination("gone", 1)})}
    figures = Figures(journal, journal.kept, lambda: None, sinks, metrics, clock)
    metrics.delivered.labels("b").inc()
    text = (await figures.text()).decode()
    assert 'btfeed_sink_blocked_destinations{sink="b"} 1.0' in text
    assert 'btfeed_sink_state{sink="a",state="running"} 1.0' in text
    del sinks["b"]
    text = (await figures.text()).decode()
    about_b = {line.partition("{")[0] for line in text.splitlines() if 'sink="b"' in line}
    assert about_b == {"btfeed_sink_delivered_total"}


async def test_a_journal_that_fails_leaves_no_old_figures() -> None:
    """A backlog that is unknown is not the one that it was."""
    journal, metrics, clock = IdleJournal(), Metrics(), FakeClock()
    figures = Figures(journal, journal.kept, lambda: None, {"a": SinkStatus("running")}, metrics, clock)
    of_the_journal = ('btfeed_sink_backlog_posts{sink="a"}', 'btfeed_sink_backlog_age_seconds{sink="a"}',
                      'btfeed_dead_letters_kept{reason="refused",sink="a"}',
                      'btfeed_dead_letters_oldest_age_seconds{reason="refused",sink="a"}')  # fmt: skip
    text = (await figures.text()).decode()
    assert all(name in text for name in of_the_journal)
    journal.broken = True
    text = (await figures.text()).decode()
    assert not any(name in text for name in of_the_journal)
    assert 'btfeed_sink_up{sink="a"} 1.0' in text


async def test_a_backlog_that_is_not_known_is_told_and_hides_no_other() -> None:
    """The log says why, once, and when it is known again."""

    class Partly(IdleJournal):
        async def backlog(self, sink: str) -> Backlog:
            return await super().backlog(sink) if sink == "a" else Backlog(7, 1.0)

    journal = Partly()
    sinks = {name: SinkStatus("running") for name in "ab"}
    figures = Figures(journal, journal.kept, lambda: None, sinks, Metrics(), FakeClock())
    with capture_logs() as logged:
        for journal.broken in (True, True, False):
            assert (await figures.backlogs())["b"] == Backlog(7, 1.0)
            assert ('sink_backlog_posts{sink="a"}' in (await figures.text()).decode()) is not journal.broken
    told = [(each["event"], each["sink"], each.get("error")) for each in logged]
    assert told == [("backlog unknown", "a", "the disk failed"), ("backlog known again", "a", None)]


class HangingJournal:
    """A journal that never answers, as when its disk hangs."""

    refusing = None

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def backlog(self, sink: str) -> Backlog:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def kept(self) -> list[Kept]:
        raise AssertionError


@pytest.mark.parametrize("path", ["/status", "/metrics"])
async def test_answers_while_the_journal_hangs(path: str) -> None:
    """Without the backlog, once its deadline has passed."""
    journal, clock = HangingJournal(), FakeClock()
    asking = asyncio.create_task(_ask(path, journal, clock))
    await journal.asked.wait()
    await clock.advance(BACKLOG_TIMEOUT)
    status, body = await asking
    assert (status, "btfeed_sink_backlog_posts{" in body) == (200, False)
    assert path != "/status" or json.loads(body)["sinks"]["a"]["backlog_posts"] is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [("127.0.0.1:4321", ("127.0.0.1", 4321)), ("localhost:0", ("localhost", 0)), ("[::1]:80", ("::1", 80))],
)
def test_an_address_is_host_and_port(value: str, expected: tuple[str, int]) -> None:
    """An IPv6 address is written in brackets."""
    assert host_and_port(value) == expected


@pytest.mark.parametrize(
    "value", ["", "4321", ":4321", "[::1", "host", "host:", "host:x", "host:65536", "host:-1", "a:1/x", "u@a:1", "a:1?"]
)
def test_other_addresses_are_invalid(value: str) -> None:
    """The error shows the address and an example of a valid one."""
    with pytest.raises(ValueError, match="write host:port, for example") as raised:
        host_and_port(value)
    assert str(raised.value).startswith(f"invalid address {value!r}: ")
