"""Fixtures that several test modules share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from btfeed import native
from tests.servers import elasticsearch
from tests.servers.bizevents import BizeventsServer
from tests.servers.kafka import Kafka, shared
from tests.servers.registry import RegistryServer
from tests.sinks.drivers.elasticsearch import Place
from tests.support.harness import Server

TESTS = Path(__file__).parent

collect_ignore = [] if native.module else ["records/test_native.py", "records/test_native_columns.py"]


def pytest_report_header() -> str:
    return f"mapping: {native.PATH}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the tests, those of one module run in one process, and so do all that want
    Elasticsearch, which takes long to start."""
    for item in items:
        module = item.path.relative_to(TESTS).as_posix()
        wants_elasticsearch = module.startswith("sinks/elasticsearch/") or module == "sinks/test_contract.py"
        item.add_marker(pytest.mark.xdist_group("elasticsearch" if wants_elasticsearch else module))


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """What runs in this process may set up logs, onto a stream that is gone with the test."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A running btfeed with one file sink."""
    with Server(tmp_path / "server") as running:
        yield running


@pytest.fixture
def dynatrace() -> Iterator[BizeventsServer]:
    """A stand-in for Dynatrace that keeps events of all times."""
    with BizeventsServer() as running:
        running.silent_drop = False
        yield running


@pytest.fixture(scope="session")
def kafka() -> Kafka:
    """One broker for all tests that leave it as they found it."""
    return shared()


@pytest.fixture
def registry() -> Iterator[RegistryServer]:
    """A stand-in for a schema registry, empty."""
    with RegistryServer() as running:
        yield running


@pytest.fixture
def place() -> Iterator[Place]:
    """Names of its own on Elasticsearch 9 without security."""
    found = Place(elasticsearch.shared())
    yield found
    found.close()
