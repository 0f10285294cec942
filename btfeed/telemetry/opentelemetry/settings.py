"""The [opentelemetry] table of the configuration. Imports nothing of OpenTelemetry."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from sinks.settings import URL_PATTERN, Seconds, Secret, Settings


def _url(value: str) -> str:
    from sinks.shared.http import check_service_url  # slow to import, and most configurations have no such table

    return check_service_url(value)


def _header(secret: Secret) -> Secret:
    if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", secret.get_secret_value()):
        raise ValueError("must consist of ASCII characters that can be printed, without spaces at its ends")
    return secret


def _name(value: str) -> str:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", value):
        raise ValueError("must be the name of an HTTP header")
    return value


def _interval(seconds: float) -> float:
    if 0 < seconds < 1:
        raise ValueError("must be at least 1s, or 0s to send no metrics")
    return seconds


class OpenTelemetrySettings(Settings):
    """Traces and metrics for an OpenTelemetry collector. This needs packages that are not installed by default.

    enabled           whether anything is sent; if not, nothing of OpenTelemetry is loaded
    endpoint          URL of a collector that takes OTLP over HTTP; /v1/traces and /v1/metrics are added. Otherwise
                      `OTEL_EXPORTER_OTLP_ENDPOINT`, or http://localhost:4318
    headers           HTTP headers of each request, such as `{ authorization = "Bearer ${OTEL_TOKEN}" }`; in addition to
                      `OTEL_EXPORTER_OTLP_HEADERS`
    traces            the share of posts that are traced, from 0 (no traces) to 1 (all). Otherwise as
                      `OTEL_TRACES_SAMPLER` says, or all
    metrics_interval  how often the metrics are sent; `0s` sends none. Otherwise `OTEL_METRIC_EXPORT_INTERVAL`, or 60s
    attributes        attributes of the resource, such as `{ "deployment.environment.name" = "production" }`; in addition
                      to `OTEL_RESOURCE_ATTRIBUTES`. `service.name` is `btfeed` unless set here or there
    """

    enabled: bool = False
    endpoint: Annotated[str, AfterValidator(_url), URL_PATTERN] | None = None
    headers: dict[Annotated[str, AfterValidator(_name)], Annotated[Secret, AfterValidator(_header)]] = {}
    traces: Annotated[float, Field(ge=0, le=1)] | None = None
    metrics_interval: Annotated[Seconds, AfterValidator(_interval)] | None = None
    attributes: dict[str, str] = {}
