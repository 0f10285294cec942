"""The files for many machines: valid by their schemas, and in line with each other and with btfeed."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from btfeed import config
from btfeed.journal.kafka.settings import KafkaJournalSettings
from tests.deploy.test_containers import CONTAINERFILE, KUBERNETES

DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes" / "cluster").glob("*.yaml"))
WORKLOADS = {"receive": "Deployment", "deliver": "StatefulSet"}
SECRETS = {
    "BTFEED_PASSWORD": "a",
    "BTFEED_ADMIN_TOKEN": "b",
    "BTFEED_KAFKA_PASSWORD": "c",
}


def documents() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text())


def manifest(kind: str, name: str) -> dict[str, Any]:
    (found,) = (one for one in documents() if one["kind"] == kind and one["metadata"]["name"] == name)
    return found


def pod(part: str) -> dict[str, Any]:
    found: dict[str, Any] = manifest(WORKLOADS[part], f"btfeed-{part}")["spec"]["template"]
    return found


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_manifests_are_valid(version: str) -> None:
    """By the schemas of Kubernetes' API, without unknown fields."""
    assert len(MANIFESTS) == 3
    for document in documents():
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("part", WORKLOADS)
def test_the_manifests_agree_with_each_other(part: str) -> None:
    """Selectors, ports, volumes, the configuration and the secret, and the user of the container."""
    spec = manifest(WORKLOADS[part], f"btfeed-{part}")["spec"]
    labels = spec["selector"]["matchLabels"]
    assert labels.items() <= pod(part)["metadata"]["labels"].items()
    assert manifest("Service", f"btfeed-{part}")["spec"]["selector"] == labels
    assert manifest("PodDisruptionBudget", f"btfeed-{part}")["spec"]["selector"]["matchLabels"] == labels
    policy = manifest("NetworkPolicy", "btfeed-cluster")["spec"]["podSelector"]["matchLabels"]
    assert policy.items() <= pod(part)["metadata"]["labels"].items()
    for spread in pod(part)["spec"]["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"] == labels
    (container,) = pod(part)["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for port in manifest("Service", f"btfeed-{part}")["spec"]["ports"]:
        assert ports[port["targetPort"]] == port["port"]
    volumes = {volume["name"]: volume for volume in pod(part)["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
    assert volumes["configuration"]["configMap"]["name"] == manifest("ConfigMap", "btfeed-cluster")["metadata"]["name"]
    assert pod(part)["spec"]["serviceAccountName"] == manifest("ServiceAccount", "btfeed-cluster")["metadata"]["name"]
    assert container["args"][0] == part
    context = pod(part)["spec"]["securityContext"]
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}" in CONTAINERFILE.read_text()
    assert pod(part)["spec"]["terminationGracePeriodSeconds"] >= 45


def test_deliverers_are_named_by_their_pods() -> None:
    """Stable names, which only a StatefulSet gives; a pod's host name is its own."""
    journal = tomllib.loads(manifest("ConfigMap", "btfeed-cluster")["data"]["btfeed.toml"])["journal"]
    assert journal["instance"] == "${HOSTNAME}"
    spec = manifest("StatefulSet", "btfeed-deliver")["spec"]
    assert spec["serviceName"] == "btfeed-deliver"
    assert spec["replicas"] <= journal["partitions"]


def parsed(text: str, environment: dict[str, str]) -> config.Config:
    """As it is read, with secrets that are no files."""
    tables = tomllib.loads(text.replace("${file:", "${credential:"))
    tables["receiver"]["basic_auth"]["password"] = tables["journal"]["security"]["password"] = "x"
    return config.parse(tables, environment)


@pytest.mark.parametrize("name", ["kubernetes", "machines"])
def test_the_configurations_are_right(name: str) -> None:
    """All keys exist, the spill is in a volume, and each has one admin listener for others to ask."""
    text = (DEPLOY / "btfeed-cluster.toml").read_text()
    if name == "kubernetes":
        text = manifest("ConfigMap", "btfeed-cluster")["data"]["btfeed.toml"]
    found = parsed(text, SECRETS | {"HOSTNAME": "btfeed-deliver-0"})
    assert isinstance(found.journal, KafkaJournalSettings)
    assert found.journal.spill.directory.startswith("/var/lib/btfeed/")
    assert (found.receiver.listen, found.admin.listen) == ("0.0.0.0:4321", "0.0.0.0:4322")
    assert found.journal.replication_factor == 3


def test_the_unit_names_the_instance_and_its_port() -> None:
    """As the example configuration expects them of the template unit's instances."""
    unit = (DEPLOY / "btfeed-deliver@.service").read_text()
    given = dict(line.partition("=")[2].split("=") for line in unit.splitlines() if line.startswith("Environment="))
    given = {name: value.replace("%H", "host7").replace("%i", "2") for name, value in given.items()}
    found = parsed((DEPLOY / "btfeed-cluster.toml").read_text(), SECRETS | given)
    assert isinstance(found.journal, KafkaJournalSettings)
    assert (found.journal.instance, found.admin.listen) == ("host7-2", "0.0.0.0:4332")
