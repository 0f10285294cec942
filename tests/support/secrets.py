"""Configurations with planted secrets, and the search for them."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_plus

import msgspec

from sinks.shared.http import basic_credentials

CLIENT = {"client_id": "client", "client_secret": "SECRET-client", "token_url": "URL"}
KAFKA = {"type": "kafka", "bootstrap_servers": "SERVER", "request_timeout": "200ms", "timeout": "200ms"}
SINKS: dict[str, dict[str, Any]] = {
    "bizevents with a token": {"type": "bizevents", "url": "URL", "api_token": "SECRET-token"},
    "bizevents with OAuth": {"type": "bizevents", "url": "URL", "oauth": CLIENT},
    "elasticsearch with an API key": {"type": "elasticsearch", "hosts": ["URL"], "auth": {"api_key": "SECRET-key"}},
    "elasticsearch with a token": {"type": "elasticsearch", "hosts": ["URL"], "auth": {"bearer": "SECRET-bearer"}},
    "elasticsearch with a password": {
        "type": "elasticsearch",
        "hosts": ["URL"],
        "auth": {"basic": {"username": "u", "password": 'SECRET "pass"\\word'}},
    },
    "kafka with a password": {
        **KAFKA,
        "security": {"sasl": "PLAIN", "username": "u", "password": "SECRET-sasl"},
    },
    "kafka with OAuth": {
        **KAFKA,
        "security": {"sasl": "OAUTHBEARER", "oauth": CLIENT},
    },
    "a schema registry with a password": {
        **KAFKA,
        "format": "avro",
        "schema_registry": {"url": "URL", "username": "u", "password": "SECRET-registry"},
    },
    "a schema registry with a token": {
        **KAFKA,
        "format": "avro",
        "schema_registry": {"url": "URL", "token": "SECRET-registry-token"},
    },
}
"""Tables of sinks. URL and SERVER stand for the destination, see `at`."""
OTHERS: dict[str, dict[str, Any]] = {
    "receiver": {
        "basic_auth": {"username": "u", "password": "SECRET-receiver"},
        "bearer_tokens": ["SECRET-one", "SECRET-two"],
    },
    "admin": {"token": "SECRET-admin"},
    "record": {"privacy": {"hash": ["user.name"], "key": "SECRET-hash"}},
    "opentelemetry": {"enabled": True, "endpoint": "URL", "headers": {"authorization": "Bearer SECRET-otel"}},
}
"""The other tables that have secrets. URL stands for the collector, see `at`."""


def at(table: object, address: str) -> Any:
    """The table with `address` as its destination."""
    encoded = msgspec.json.encode(table).replace(b"URL", f"http://{address}".encode()).replace(b"SERVER", address.encode())
    return msgspec.json.decode(encoded)


def secrets_in(table: object) -> Iterator[str]:
    """Every planted secret, and the Basic credentials made from it."""
    if isinstance(table, dict):
        for value in table.values():
            yield from secrets_in(value)
        if "username" in table:
            yield basic_credentials(table["username"], table["password"])
    elif isinstance(table, list):
        for value in table:
            yield from secrets_in(value)
    elif isinstance(table, str) and "SECRET" in table:
        yield table


def assert_hidden(table: object, *texts: object) -> None:
    """None of the table's secrets is in a text, in any of the forms that one meets."""
    text = "\n".join(map(str, texts))
    place = text.find("SECRET")
    assert place < 0, text[max(0, place - 200) : place + 50]
    for secret in secrets_in(table):
        for form in (secret, repr(secret)[1:-1], quote_plus(secret), msgspec.json.encode(secret).decode()[1:-1]):
            assert form not in text
