"""The files for containers: valid by their schemas, and in line with each other and with btfeed."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

from btfeed import config
from btfeed.journal import create as journals
from tests.support.harness import Server

ROOT = Path(__file__).parents[2]
CONTAINERFILE = ROOT / "deploy/container/Containerfile"
COMPOSE = ROOT / "deploy/container/compose.yaml"
MANIFESTS = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
KUBERNETES = ("1.29", "1.37")
"""The oldest version that the manifests are for, and the newest that there is a schema of."""


def documents() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text())


def manifest(kind: str, name: str = "btfeed") -> dict[str, Any]:
    (found,) = (one for one in documents() if one["kind"] == kind and one["metadata"]["name"] == name)
    return found


def test_hadolint_finds_nothing_in_the_containerfile() -> None:
    """Its rules for what is known to go wrong in container builds."""
    found = subprocess.run(
        [Path(sys.executable).parent / "hadolint", CONTAINERFILE], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_the_container_runs_as_another_user_than_root() -> None:
    """By number, so that Kubernetes can see it, and the same as in the manifests."""
    user = next(line for line in CONTAINERFILE.read_text().splitlines() if line.startswith("USER "))
    context = manifest("StatefulSet")["spec"]["template"]["spec"]["securityContext"]
    assert user == f"USER {context['runAsUser']}:{context['runAsGroup']}"
    assert context["runAsUser"] > 0


def test_what_the_containerfile_copies_exists() -> None:
    """And .dockerignore does not leave it out."""
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copies = [line.split()[1:-1] for line in CONTAINERFILE.read_text().splitlines() if line.startswith("COPY ")]
    sources = [source for words in copies if not words[0].startswith("--from") for source in words]
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert any(Path(source.split("/")[0]).match(pattern) for pattern in kept), source


def test_the_compose_file_is_valid() -> None:
    """By the compose specification; its files are there, except the password that its comment tells to write."""
    compose = PyCompose.from_yaml(COMPOSE.read_text())
    compose.validate()
    text = yaml.safe_load(COMPOSE.read_text())
    build = text["services"]["btfeed"]["build"]
    context = COMPOSE.parent / build["context"]
    assert (context / build["dockerfile"]).samefile(CONTAINERFILE)
    assert (COMPOSE.parent / "btfeed.toml").exists()


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_manifests_are_valid(version: str) -> None:
    """By the schemas of Kubernetes' API, without unknown fields."""
    for document in documents():
        kubernetes_validate.validate(document, version, strict=True)


def test_a_wrong_manifest_would_be_found() -> None:
    """So the test above does test something."""
    wrong = manifest("StatefulSet")
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES[-1], strict=True)


def configurations() -> dict[str, str]:
    return {
        "container": (ROOT / "deploy/container/btfeed.toml").read_text(),
        "kubernetes": manifest("ConfigMap")["data"]["btfeed.toml"],
    }


@pytest.mark.parametrize("name", configurations())
def test_the_configurations_are_right(name: str) -> None:
    """All keys exist, and data is in the volume."""
    text = configurations()[name]
    tables = tomllib.loads(text)
    tables["receiver"]["basic_auth"]["password"] = "x"
    parsed = config.parse(tables, {})
    assert tables["receiver"]["listen"] == "0.0.0.0:4321"
    for directory in (*journals.directories(parsed.journal), *(sink["directory"] for sink in tables["sinks"].values())):
        assert str(directory).startswith("/var/lib/btfeed/")


def test_the_manifests_agree_with_each_other() -> None:
    """Selectors, ports, the volume and the secret that the configuration reads."""
    stateful = manifest("StatefulSet")["spec"]
    pod = stateful["template"]
    labels = pod["metadata"]["labels"]
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert stateful["selector"]["matchLabels"] == labels
    assert manifest("Service")["spec"]["selector"] == labels
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert stateful["serviceName"] == manifest("Service", "btfeed-pods")["metadata"]["name"]
    for service in ("btfeed", "btfeed-pods"):
        for port in manifest("Service", service)["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    claims = {claim["metadata"]["name"] for claim in stateful["volumeClaimTemplates"]}
    assert mounts.keys() == claims | {volume["name"] for volume in pod["spec"]["volumes"]}
    (key,) = manifest("Secret")["stringData"]
    assert f"${{file:{mounts['secrets']}/{key}}}" in configurations()["kubernetes"]


def test_it_is_one_replica_that_gets_the_time_to_stop() -> None:
    """The journal has one writer, and a stop takes up to 45 s: requests 35 s, then sinks 10 s."""
    stateful = manifest("StatefulSet")["spec"]
    assert stateful["replicas"] == 1
    assert stateful["template"]["spec"]["terminationGracePeriodSeconds"] >= 45
    assert manifest("PodDisruptionBudget")["spec"]["maxUnavailable"] == 0


def health(address: str) -> int:
    """The exit status of the container's health check."""
    script = ROOT / "deploy/container/healthy.py"
    return subprocess.run(
        [sys.executable, script], env={"BTFEED_ADMIN": address}, capture_output=True, check=False
    ).returncode


def test_the_health_check_tells_a_running_server(server: Server) -> None:
    """0 while it runs, 1 once it does not."""
    address = server.admin_url.removeprefix("http://")
    assert health(address) == 0
    server.stop()
    assert health(address) == 1


class Broken(BaseHTTPRequestHandler):
    """Answers 500 to all."""

    def do_GET(self) -> None:
        self.send_error(500)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_the_health_check_tells_an_error() -> None:
    """Another answer than 200 is not healthy."""
    with HTTPServer(("127.0.0.1", 0), Broken) as broken:
        Thread(target=broken.serve_forever, daemon=True).start()
        assert health(f"127.0.0.1:{broken.server_port}") == 1
        broken.shutdown()
