"""When the certificates that the configuration names end."""

from collections.abc import Iterator
from datetime import datetime
from itertools import chain

import structlog
from pydantic import BaseModel

from btfeed.config import Config
from btfeed.telemetry.metrics import Metrics
from sinks.shared.tls import TlsFileError, expiry

log = structlog.get_logger()


def show_expiry(config: Config, metrics: Metrics) -> None:
    """Set the metric to the certificates of `config`, and no others. Call it when these have been loaded."""
    metrics.certificate_expiry.clear()
    for path, end in expiries(config):
        metrics.certificate_expiry.labels(path).set(end.timestamp())


def expiries(config: Config) -> Iterator[tuple[str, datetime]]:
    """The key of each certificate of the receiver and the sinks, and when it ends. A file that can't be read is left out:
    whatever uses it says so."""
    sinks = (_certificates(sink.settings, f"sinks.{name}") for name, sink in config.sinks.items())
    for path, file in chain(_certificates(config.receiver, "receiver"), *sinks):
        try:
            yield path, expiry(file)
        except TlsFileError as error:
            log.debug("end of a certificate unknown", setting=path, error=str(error))


def _certificates(settings: BaseModel, path: str) -> Iterator[tuple[str, str]]:
    """Each key `certificate` in a table and those below it, and the file that it names."""
    for key, value in settings:
        if isinstance(value, BaseModel):
            yield from _certificates(value, f"{path}.{key}")
        elif key == "certificate" and value is not None:
            yield f"{path}.{key}", value
