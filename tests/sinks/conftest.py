"""Fixtures of real servers and stand-ins."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.servers.bizevents import BizeventsServer
from tests.servers.elasticsearch import Elasticsearch
from tests.servers.elasticsearch import shared as shared_elasticsearch
from tests.servers.kafka import Kafka
from tests.servers.kafka import shared as shared_kafka
from tests.servers.registry import RegistryServer

if TYPE_CHECKING:
    from tests.sinks.drivers.elasticsearch import Place


@pytest.fixture
def dynatrace() -> Iterator[BizeventsServer]:
    """A stand-in for Dynatrace that keeps events of any age."""
    with BizeventsServer() as running:
        running.silent_drop = False
        yield running


@pytest.fixture(scope="session")
def kafka() -> Kafka:
    """One broker for all tests that leave it as they found it."""
    return shared_kafka()


@pytest.fixture
def registry() -> Iterator[RegistryServer]:
    """A stand-in for a schema registry, empty."""
    with RegistryServer() as running:
        yield running


@pytest.fixture(scope="session")
def elasticsearch() -> Callable[..., Elasticsearch]:
    """Gives one node of each kind for all tests: `elasticsearch(version, secured=True)`."""
    return shared_elasticsearch


@pytest.fixture
def place(elasticsearch: Callable[..., Elasticsearch]) -> Iterator["Place"]:
    """Unused index names on Elasticsearch 9 without security."""
    # Not at the top: a sink that can't be imported must fail its own tests alone.
    from tests.sinks.drivers.elasticsearch import Place

    found = Place(elasticsearch())
    yield found
    found.close()
