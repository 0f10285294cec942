"""The table of an Elasticsearch sink in the configuration: what is accepted, and the errors for the rest."""

from typing import Any

import pytest

from btfeed.config import Config, parse
from btfeed.faults import ConfigError
from sinks.elasticsearch.settings import ElasticsearchSettings

HOSTS = ["https://es.example:9200"]


def search(**settings: Any) -> Config:
    return parse({"sinks": {"search": {"type": "elasticsearch"} | settings}}, {})


@pytest.mark.parametrize(
    "auth",
    [{"api_key": "a2V5"}, {"bearer": "token"}, {"basic": {"username": "elastic", "password": "pass word ä"}}, None],
)
def test_each_credential_is_taken(auth: object) -> None:
    """One of them, or none. Of the delivery's defaults, only in_flight differs."""
    found = search(hosts=HOSTS, **({"auth": auth} if auth else {})).sinks["search"]
    settings = found.settings
    assert isinstance(settings, ElasticsearchSettings)
    assert settings.index == "bizevents-appmon-{category}-{date}"
    assert settings.data_stream is None
    assert (found.common.delivery.in_flight, found.common.delivery.max_bytes) == (4, 5 * 2**20)
    assert "a2V5" not in repr(settings)
    assert "token" not in repr(settings)
    assert "pass word" not in repr(settings)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({}, "sinks.search.hosts: is required"),
        ({"hosts": []}, "sinks.search.hosts: must not be empty"),
        ({"hosts": ["es.example:9200"]}, 'sinks.search.hosts.0: invalid URL: start it with "https://"'),
        (
            {"hosts": ["https://elastic:pw@es.example:9200"]},
            "sinks.search.hosts.0: invalid URL: only scheme",
        ),
        (
            {"hosts": ["https://es.example/", "https://other.example", "https://es.example:443"]},
            "sinks.search.hosts: names https://es.example:443 twice: list each server once",
        ),
        ({"hosts": HOSTS, "auth": {}}, "sinks.search.auth: set exactly one of api_key, basic and bearer"),
        ({"hosts": HOSTS, "auth": {"api_key": "a", "bearer": "b"}}, "sinks.search.auth: set exactly one of"),
        ({"hosts": HOSTS, "auth": {"basic": {"username": "a"}}}, "sinks.search.auth.basic.password: is required"),
        ({"hosts": HOSTS, "auth": {"apikey": "a"}}, "sinks.search.auth.apikey: unknown key; did you mean api_key?"),
        ({"hosts": HOSTS, "index": "a-{day}"}, "sinks.search.index: unknown placeholder {day}"),
        ({"hosts": HOSTS, "index": ""}, "sinks.search.index: must not be empty"),
        ({"hosts": HOSTS, "index": "-_."}, "sinks.search.index: must have other characters than"),
        ({"hosts": HOSTS, "index": "a-{date"}, "sinks.search.index: a brace has no partner"),
        ({"hosts": HOSTS, "ca": ""}, "sinks.search.ca: must be the name of a file or a directory"),
        ({"hosts": HOSTS, "index": "a", "data_stream": "b"}, "sinks.search: set either index or data_stream"),
        ({"hosts": HOSTS, "data_stream": "x" * 300}, "sinks.search.data_stream: is too long"),
    ],
)
def test_a_wrong_table_is_refused_with_its_path(settings: dict[str, Any], fault: str) -> None:
    """And without secrets."""
    with pytest.raises(ConfigError) as raised:
        search(**settings)
    assert any(found.startswith(fault) for found in raised.value.faults), raised.value.faults
    assert "pw" not in str(raised.value)
