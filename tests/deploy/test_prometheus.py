"""The alerts and the dashboard, in a real Prometheus that scrapes a real btfeed with traffic and faults."""

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from btfeed.telemetry.metrics import Metrics
from tests.servers.installed import Prometheus
from tests.servers.prometheus import PrometheusServer
from tests.support.certificates import Authority
from tests.support.harness import DEADLINE, Server, until
from tests.support.load import Load
from tests.support.ports import free_port
from tests.support.posts import sample_purepath, sample_visit

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "prometheus"
RULES = DEPLOY / "btfeed.rules.yml"
UNIT_TESTS = Path(__file__).parent / "btfeed.rules.test.yml"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "btfeed.json").read_text())
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text())
TOKEN = "SECRETOFPROMETHEUS"
FIRST_WITH_AN_EVENT = {
    "btfeed_journal_dropped_posts_total",
    "btfeed_dead_letters_evicted_total",
    "btfeed_sink_flagged_total",
    "btfeed_sink_retried_total",
    "btfeed_values_left_out_total",
    "btfeed_length_mismatches_total",
    "btfeed_unknown_fields_total",
}
"""Metrics that have no series before something happens that does not happen here."""
KAFKA = {
    "btfeed_spill_posts",
    "btfeed_spilled_posts_total",
    "btfeed_forwarded_posts_total",
    "btfeed_journal_append_seconds_bucket",
    "btfeed_partitions",
    "btfeed_rebalances_total",
    "btfeed_journal_retention_seconds",
}
"""Metrics of a journal in Kafka, which is not here."""
FIRING = {
    "BtfeedPostsLost",
    "BtfeedPostsRefused",
    "BtfeedDeadLettersKept",
    "BtfeedSinkMisconfigured",
    "BtfeedJournalFillsUp",
    "BtfeedCertificateEnds",
    "BtfeedReloadFailed",
}
DISK = {"BtfeedDiskTooSmall", "BtfeedDiskNearlyFull"}
"""These tell of the machine that runs the tests."""


@dataclass(frozen=True)
class Site:
    """A server under load, and the Prometheus that scrapes it. stop: ends the load."""

    server: Server
    prometheus: PrometheusServer
    stop: threading.Event


@pytest.fixture(scope="module")
def site(prometheus: Prometheus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One sink delivers, one is misconfigured, and one is away. A post was lost, and another one refused. A certificate
    ends in two days, and a reload failed."""
    directory = tmp_path_factory.mktemp("prometheus")
    with Server(
        directory / "btfeed", _sinks(directory), admin=f'token = "{TOKEN}"', journal='max_size = "256MiB"'
    ) as server:
        assert server.post(sample_visit(), path="/elsewhere")[0] == 404
        assert server.post(b"no post")[0] == 400
        assert server.post(sample_purepath()) == (200, "")
        server.config.write_text(server.config.read_text() + "[nonsense]")
        os.kill(server.pid, signal.SIGHUP)
        stop = threading.Event()
        load = Load(1, pause=0.05).run(server.port, stop)
        configuration = _configuration(directory, server.admin_url.removeprefix("http://"))
        try:
            with PrometheusServer(directory, prometheus, configuration) as running:
                yield Site(server, running, stop)
        finally:
            stop.set()
            for thread in load:
                thread.join(DEADLINE)


def _sinks(directory: Path) -> str:
    (directory / "in-the-way").touch()
    certificate, key = Authority(directory / "ca").sign("client", end=2)
    return f"""
        [sinks.good]
        type = "file"
        directory = "{directory / "files"}"
        [sinks.bad]
        type = "file"
        directory = "{directory / "in-the-way" / "files"}"
        [sinks.away]
        type = "kafka"
        bootstrap_servers = ["127.0.0.1:{free_port()}"]
        topic = "t"
        security = {{ tls = true, certificate = "{certificate}", key = "{key}" }}
    """


def _configuration(directory: Path, target: str) -> Path:
    """The example, with alerts that do not wait, and figures of every second."""
    (directory / "token").write_text(TOKEN)
    rules = RULES.read_text()
    (directory / RULES.name).write_text(re.sub(r"for: \w+", "for: 0s", rules))
    path = directory / "prometheus.yml"
    changes = {
        "15s": "1s",
        "127.0.0.1:4322": target,
        "# authorization:": "authorization:",
        "#   credentials_file: /etc/prometheus/btfeed-token": f"  credentials_file: {directory / 'token'}",
    }
    text = (DEPLOY / "prometheus.yml").read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


def _panels() -> list[tuple[str, str]]:
    """Title and expression of each query in the dashboard, for all servers and sinks."""
    values = {"$instance": ".*", "$sink": ".*", "$__rate_interval": "1m"}
    found = []
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for name, value in values.items():
                expression = expression.replace(name, value)
            assert "$" not in expression
            found.append((panel["title"], expression))
    return found


def _promtool(prometheus: Prometheus, *arguments: str | Path) -> None:
    done = subprocess.run([prometheus.tool, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_configuration_is_valid(prometheus: Prometheus) -> None:
    """With its rules, as promtool checks them."""
    _promtool(prometheus, "check", "config", DEPLOY / "prometheus.yml")


def test_alerts_fire_when_they_must_and_only_then(prometheus: Prometheus) -> None:
    """The unit tests of the rules, in Prometheus' own evaluator. Each alert fires in one of them."""
    _promtool(prometheus, "test", "rules", UNIT_TESTS)
    fired = set(re.findall(r'labels: .*alertname="(\w+)"', UNIT_TESTS.read_text()))
    assert fired == set(ALERTS)


def every_metric() -> Metrics:
    """Those of a journal in Kafka, too."""
    metrics = Metrics()
    _ = metrics.kafka_journal  # makes them
    return metrics


def test_the_metrics_keep_to_the_conventions(prometheus: Prometheus) -> None:
    """Of names, units and types, as promtool knows them."""
    text = generate_latest(every_metric().registry)
    done = subprocess.run([prometheus.tool, "check", "metrics"], input=text, capture_output=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_every_metric_that_is_asked_for_exists() -> None:
    """In the rules and in the dashboard, by the name that /metrics has."""
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
    families = every_metric().registry.collect()
    known = {family.name + suffix for family in families for suffix in suffixes[family.type]}
    queries = [expression for _, expression in _panels()]
    queries += re.findall(r"expr: (.+?)\n\s+(?:for|labels):", RULES.read_text(), re.DOTALL)
    queries += [variable["query"]["query"] for variable in DASHBOARD["templating"]["list"][1:]]
    asked = {name for query in queries for name in re.findall(r"\b(?:btfeed|process)_\w+", query)}
    assert len(asked) > 40
    assert asked <= known


def test_every_alert_has_its_paragraph() -> None:
    """In docs/alerts.md, in the order of the rules: its severity, how long it waits, and what to do. The annotation
    `runbook` leads there."""
    section = (ROOT / "docs" / "alerts.md").read_text()
    paragraphs = dict(re.findall(r"^## (\w+)\n\n\*(\w+), .+?\.\* .+?$", section, re.MULTILINE))
    rules = re.findall(
        r"- alert: (\w+)\n.*?severity: (\w+)\n.*?runbook: docs/alerts.md#(\w+)\n", RULES.read_text(), re.DOTALL
    )
    assert [name for name, _, _ in rules] == ALERTS == [*paragraphs]
    for name, severity, anchor in rules:
        assert (paragraphs[name].lower(), anchor) == (severity, name.lower())


def test_the_dashboard_is_well_formed() -> None:
    """Ids are unique, nothing overlaps, every panel explains itself, and the data source is a variable."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert taken.isdisjoint(cells)
        taken |= cells
    queried = [panel for panel in panels if panel["type"] != "row"]
    assert all(panel["description"] and panel["targets"] for panel in queried)
    assert {query["datasource"]["uid"] for panel in queried for query in (panel, *panel["targets"])} == {"${datasource}"}
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "instance", "sink"]


def test_btfeed_is_scraped_with_its_token(site: Site) -> None:
    """By the example's configuration, with the lines about the token."""

    def scraped() -> bool:
        return [(target["health"], target["lastError"]) for target in site.prometheus.targets()] == [("up", "")]

    until(scraped, "scraped")


def test_every_rule_is_evaluated(site: Site) -> None:
    """Without an error, as Prometheus itself does it."""
    until(lambda: all(rule["health"] == "ok" for rule in site.prometheus.rules()), "all rules are evaluated")
    rules = site.prometheus.rules()
    assert [rule["name"] for rule in rules] == ALERTS
    assert {rule.get("lastError", "") for rule in rules} == {""}


def test_every_panel_has_data(site: Site) -> None:
    """Without an error. Only what did not happen here may be missing."""
    expected = [
        (title, expression)
        for title, expression in _panels()
        if not (FIRST_WITH_AN_EVENT | KAFKA) & set(re.findall(r"\w+", expression))
    ]
    assert len(expected) > 50
    without: list[tuple[str, str]] = []

    def all_have_data() -> bool:
        without[:] = [(title, query) for title, query in expected if not _has_data(site.prometheus.query(query))]
        return not without

    try:
        until(all_have_data, "data in all panels")
    except AssertionError as error:
        error.add_note("\n".join(map(str, without)))
        raise
    for _, expression in _panels():
        site.prometheus.query(expression)


def _has_data(samples: list[dict[str, Any]]) -> bool:
    return any(sample["value"][1] != "NaN" for sample in samples)


def test_alerts_fire_for_real(site: Site) -> None:
    """Those that have a cause, with texts that are complete, and no others."""

    def firing() -> set[str]:
        return {alert["labels"]["alertname"] for alert in site.prometheus.alerts() if alert["state"] == "firing"}

    until(lambda: firing() - DISK == FIRING, "alerts fire")  # a slow scrape may let another one fire for a moment
    away = site.prometheus.query('btfeed_sink_state{sink="away"} == 1')
    assert [sample["metric"]["state"] for sample in away] == ["unavailable"]
    texts = [text for alert in site.prometheus.alerts() for text in alert["annotations"].values()]
    assert not [text for text in texts if not text.strip() or "<no value>" in text or "<error" in text]
    lost = [alert for alert in site.prometheus.alerts() if alert["labels"]["alertname"] == "BtfeedPostsLost"]
    instance = site.server.admin_url.removeprefix("http://")
    assert [alert["annotations"]["summary"] for alert in lost] == [f"btfeed {instance} lost posts (not_found)"]


def test_a_server_that_is_gone_is_told(site: Site) -> None:
    """By the alert that needs no answer of it."""
    site.stop.set()
    site.server.stop()
    until(lambda: "BtfeedDown" in {alert["labels"]["alertname"] for alert in site.prometheus.alerts()}, "BtfeedDown fires")
