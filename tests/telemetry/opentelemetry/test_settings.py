"""The [opentelemetry] table: what is refused, and that its secrets stay secret."""

import pytest

from btfeed.faults import Faults, validate
from btfeed.telemetry.opentelemetry.settings import OpenTelemetrySettings


def faults(**table: object) -> dict[str, str]:
    found = Faults()
    validate(OpenTelemetrySettings, table, ("opentelemetry",), found)
    return found


@pytest.mark.parametrize(
    ("table", "path", "message"),
    [
        ({"endpoint": "localhost:4318"}, "endpoint", 'invalid URL: start it with "https://" or "http://", and a host'),
        ({"endpoint": "http://user:secret@host"}, "endpoint", "write credentials in their own keys"),
        ({"headers": {"a": "b\r\nc: d"}}, "headers.a", "must consist of ASCII characters that can be printed"),
        ({"headers": {"a": ""}}, "headers.a", "must consist of ASCII characters that can be printed"),
        ({"headers": {"a b": "c"}}, "headers.a b", "must be the name of an HTTP header"),
        ({"traces": 1.5}, "traces", "must be at most 1"),
        ({"metrics_interval": "500ms"}, "metrics_interval", "must be at least 1s, or 0s to send no metrics"),
        ({"attributes": {"shard": 3}}, "attributes.shard", "must be text in quotes"),
    ],
)
def test_wrong_values_are_refused(table: dict[str, object], path: str, message: str) -> None:
    """Each with its path. No message shows the value."""
    ((found, said),) = faults(**table).items()
    assert found.startswith(f"opentelemetry.{path}")
    assert message in said
    assert "secret" not in said


def test_headers_are_secrets() -> None:
    """They are not shown in logs and tracebacks."""
    settings = OpenTelemetrySettings.model_validate({"headers": {"authorization": "Api-Token abc"}})
    assert "abc" not in repr(settings)
    assert settings.headers["authorization"].get_secret_value() == "Api-Token abc"
