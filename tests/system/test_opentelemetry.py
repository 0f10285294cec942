"""OpenTelemetry in `btfeed serve`, as a collector and an operator see it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import posts
from tests.support.collector import Collector, attributes
from tests.support.harness import DEADLINE, Server

WITHOUT = "import sys; sys.modules['opentelemetry'] = None; from btfeed.commands.main import cli; cli()"


def test_a_stop_sends_what_is_left(tmp_path: Path) -> None:
    """Traces and metrics of everything that the server has done. The log has no word about it."""
    with Collector() as collector:
        files = f'[sinks.files]\ntype = "file"\ndirectory = "{tmp_path / "files"}"\n'
        table = f'[opentelemetry]\nenabled = true\nendpoint = "{collector.url}"\nattributes = {{ "host.name" = "h" }}\n'
        with Server(tmp_path, files + table) as server:
            for seed in range(3):
                assert server.post(posts.mixed(5, seed))[0] == 200
            server.delivered(15)
            assert server.stop() == 0
        assert len(collector.named("receive")) == len(collector.named("append")) == 3
        written = [attributes(span)["messaging.batch.message_count"] for span in collector.named("deliver files")]
        assert sum(map(int, map(str, written))) == 15
        (received,) = (metric for metric in collector.metrics if metric.name == "btfeed_posts_total")
        assert received.sum.data_points[0].as_double == 3
        assert collector.resource["host.name"] == "h"
        assert [event for event in server.events() if event["level"] != "info"] == []


@pytest.mark.slow
def test_a_server_without_the_packages_says_how_to_install_them(tmp_path: Path) -> None:
    """It does not start, so that nobody looks for traces in vain."""
    (tmp_path / "btfeed.toml").write_text("[opentelemetry]\nenabled = true\n")
    command = [sys.executable, "-c", WITHOUT, "serve", "-c", "btfeed.toml"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert result.returncode == 1
    assert "opentelemetry: a package that it needs is missing (opentelemetry): install it with" in result.stderr
    assert "Traceback" not in result.stderr
