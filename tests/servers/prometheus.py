"""A real Prometheus, on a free port of the loopback.

with PrometheusServer(directory, programs, configuration) as prometheus:
    prometheus.query("up")
"""

import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from tests.servers.installed import Prometheus
from tests.support.harness import DEADLINE, until
from tests.support.ports import free_port


class QueryError(Exception):
    """Prometheus could not evaluate an expression."""


class PrometheusServer:
    """Runs with the configuration file `configuration`, and keeps its data in `directory`."""

    def __init__(self, directory: Path, programs: Prometheus, configuration: Path) -> None:
        self._directory = directory
        self._programs = programs
        self._configuration = configuration
        self.url = f"http://127.0.0.1:{free_port()}"

    def __enter__(self) -> Self:
        log = self._directory / "prometheus.log"
        command = [
            *("setpriv", "--pdeathsig", "KILL", self._programs.server),  # it ends with the process that started it
            f"--config.file={self._configuration}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--log.level=warn",
        ]
        with log.open("wb") as stream:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
        until(self._ready, f"Prometheus ready, see {log}")
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        self._process.wait(DEADLINE)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples that an expression has now: their labels as `metric`, and `value`. A scalar is one without labels.
        Raises QueryError."""
        data = self._get("/api/v1/query", query=expression)
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        found: list[dict[str, Any]] = data["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its `name`, `query`, `health`, `lastError`, and `alerts` as in `alerts`."""
        return [rule for group in self._get("/api/v1/rules")["groups"] for rule in group["rules"]]

    def alerts(self) -> list[dict[str, Any]]:
        """Every alert that is pending or firing, with its `labels`, `annotations` and `state`."""
        found: list[dict[str, Any]] = self._get("/api/v1/alerts")["alerts"]
        return found

    def targets(self) -> list[dict[str, Any]]:
        """What is scraped, with its `health` and `lastError`."""
        found: list[dict[str, Any]] = self._get("/api/v1/targets")["activeTargets"]
        return found

    def _get(self, path: str, **parameters: str) -> Any:
        try:
            with urllib.request.urlopen(f"{self.url}{path}?{urlencode(parameters)}", timeout=DEADLINE) as answer:
                return json.loads(answer.read())["data"]
        except urllib.error.HTTPError as error:
            raise QueryError(f"{parameters}: {error.read().decode()}") from None

    def _ready(self) -> bool:
        assert self._process.poll() is None, (self._directory / "prometheus.log").read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=DEADLINE) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
